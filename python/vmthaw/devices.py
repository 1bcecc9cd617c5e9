"""What a guest finds behind its ports and its MMIO: buses, a serial port, the keyboard controller, virtio windows.

::

    output = OutputBuffer()
    buses = Buses(GuestArch.x86_64)
    buses.add_standard(com1=Serial(output), keyboard=I8042(), console=VirtioMmio(make_idle_console()))
    buses.ports.add(0x500, 4, MyDevice(), "mine")
    dispatcher = Dispatcher(ExitProfile.strict, buses)
    while dispatcher.handle(vcpu.run(timeout=1.0)).kind is ExitActionKind.continue_:
        ...
    print(output.take())

A device may be written in Python: anything with ``read(offset, size) -> bytes`` and ``write(offset, data)``. It is
called on the thread that handles the exit, with the GIL, and only for its own window; what it raises comes out of
``Dispatcher.handle``. The devices of this module are C++ and never take the GIL.
"""

from __future__ import annotations

import codecs
import io
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from vmthaw import _core, _drainer, _lifecycle
from vmthaw._core import (
    I8042,
    Bus,
    Buses,
    ByteSink,
    DescriptorSink,
    Device,
    Dispatcher,
    OutputBuffer,
    VirtioBackend,
    VirtioMmio,
    VirtioQueue,
    make_idle_block,
    make_idle_console,
    make_idle_net,
)
from vmthaw.errors import VmthawValueError

__all__ = [
    "I8042",
    "Bus",
    "Buses",
    "ByteSink",
    "DescriptorSink",
    "Device",
    "Dispatcher",
    "OutputBuffer",
    "Serial",
    "Stream",
    "VirtioBackend",
    "VirtioMmio",
    "VirtioQueue",
    "make_idle_block",
    "make_idle_console",
    "make_idle_net",
]

_log = logging.getLogger("vmthaw.devices")
_STREAM_BUFFER = 1 << 20
_WAIT_MS = 3_600_000
_JOIN_S = 2.0


class Stream(Protocol):
    """What `Serial` writes to: any binary or text stream."""

    def write(self, data: Any, /) -> Any:
        """Takes bytes, or str if it is an `io.TextIOBase`."""

    def flush(self) -> Any:
        """Makes what was written visible."""


Interrupt: TypeAlias = "Callable[[bool], object] | int | None"


class _Pump:
    """The thread that carries a serial port's output to a stream. It ends with the last port that has the buffer."""

    def __init__(self, buffer: OutputBuffer, stream: Stream) -> None:
        self._buffer = buffer
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("replace") if isinstance(stream, io.TextIOBase) else None
        self._idle = threading.Condition()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="vmthaw-serial", daemon=True)

    def start(self) -> None:
        """Raises StateError when the interpreter is exiting."""
        _lifecycle.register(self, _lifecycle.Stage.SOURCE)
        with _drainer.blocked_signals():
            self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Waits until the stream has everything. False after `timeout` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._busy and len(self._buffer) == 0, timeout)

    def close_at_exit(self) -> None:
        """Ends the thread, for `_lifecycle`. Waits at most 2 s for the stream."""
        _lifecycle.unregister(self)
        self._buffer.close()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while True:
            self._buffer._wait_once(_WAIT_MS)
            with self._idle:
                self._busy = True
                data = self._buffer.take()
            ended = not data and self._buffer.closed
            alive = self._write(data, ended)
            with self._idle:
                self._busy = False
                self._idle.notify_all()
            if ended or not alive:
                self._buffer.close()
                _lifecycle.unregister(self)
                return

    def _write(self, data: bytes, final: bool) -> bool:
        """False when the stream failed: what comes later is dropped, and counted by the buffer."""
        try:
            text = data if self._decode is None else self._decode.decode(data, final)
            if text:
                self._stream.write(text)
                self._stream.flush()
        except BaseException as error:  # noqa: BLE001 - a stream that raises must not end the thread unseen
            _log.error("the stream of a serial port failed; its output is dropped from now on", exc_info=error)
            return False
        return True


class Serial(_core.Serial):
    """A 16550A serial port: 8 registers, a receive FIFO of 64 bytes, loopback, all interrupts. Thread-safe.

    `output` is where the guest's bytes go: None (nowhere), an `OutputBuffer`, a descriptor (it is duplicated; a guest
    never waits for a slow reader, see `DescriptorSink`), or a stream (text streams get UTF-8 with errors replaced). A
    stream is written by a daemon thread of its own, behind a buffer of 1 MiB, so that no device waits for the GIL; when
    it raises, that is logged by ``vmthaw.devices`` and later output is dropped.

    `interrupt`: None, the descriptor of an eventfd (duplicated; it gets 1 at each rise, as KVM_IRQFD wants it), or a
    callable that takes the level as a bool, on the thread that changed it.

    Raises VmthawValueError for anything else, OSError for a descriptor that is none. In a forked child it is inert.
    """

    def __init__(self, output: ByteSink | Stream | int | None = None, interrupt: Interrupt = None) -> None:
        self._pump: _Pump | None = None
        if isinstance(output, bool):
            raise VmthawValueError("output is a bool; give None, an OutputBuffer, a descriptor or a stream")
        if output is None or isinstance(output, ByteSink):
            sink = output
        elif isinstance(output, int):
            sink = DescriptorSink(output)
        elif callable(getattr(output, "write", None)) and callable(getattr(output, "flush", None)):
            buffer = OutputBuffer(_STREAM_BUFFER)
            sink = buffer._producer()
            self._pump = _Pump(buffer, output)
        else:
            raise VmthawValueError(
                f"output is a {type(output).__name__}; give None, an OutputBuffer, a descriptor or a stream"
            )
        super().__init__(sink, interrupt)
        if self._pump is not None:
            self._pump.start()

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until a stream has all that the guest sent. False after `timeout` seconds; True without a stream."""
        return self._pump is None or self._pump.flush(timeout)
