"""The process behind `FakeVmm`, seen from its parent."""

from __future__ import annotations

import select
import signal
import threading
import time
from typing import Any

from vmthaw import errors
from vmthaw._child_process import start_child
from vmthaw.testing._reports import FakeVmmDiedError
from vmthaw.testing._wire import FrameReader, encode

# How much longer than the child's own time-out the parent waits before it takes the child for dead.
_PATIENCE = 10.0


class PendingCall:
    """A request under way. `result` waits for the answer; it can be interrupted and always has a time-out."""

    def __init__(self, child: ChildProcess, number: int, timeout: float) -> None:
        self._child = child
        self._number = number
        self._deadline = time.monotonic() + timeout + _PATIENCE

    def result(self) -> tuple[Any, bytes]:
        """The answer and its binary payload. Raises what the child raised, `FakeVmmDiedError`, or a time-out."""
        return self._child.wait_for(self._number, self._deadline)


class ChildProcess:
    """One child process and the connection to it. Thread-safe."""

    def __init__(self) -> None:
        self._process, self._socket = start_child("vmthaw.testing._fake_vmm_child")
        self._reader = FrameReader()
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()
        self._someone_reads = False
        self._replies: dict[int, tuple[dict[str, Any], bytes]] = {}
        self._next = 0
        self._dead = False

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the child has ended."""
        return self._process.poll() is None

    def submit(self, operation: str, vm: int, timeout: float, payload: bytes = b"", /, **arguments: Any) -> PendingCall:
        """Send a request and do not wait. ``timeout`` is the child's own, in seconds."""
        with self._send_lock:
            if self._dead:
                raise FakeVmmDiedError("the stand-in's process was killed or closed")
            self._next += 1
            number = self._next
            try:
                self._socket.sendall(encode({"id": number, "op": operation, "vm": vm, "args": arguments}, payload))
            except OSError as error:
                raise FakeVmmDiedError(f"the stand-in's process has ended: {error}") from error
        return PendingCall(self, number, timeout)

    def wait_for(self, number: int, deadline: float) -> tuple[Any, bytes]:
        """Whoever waits reads for all the others as well, one at a time."""
        while True:
            with self._changed:
                if number in self._replies:
                    return self._unwrap(*self._replies.pop(number))
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise errors.VmthawTimeoutError("the stand-in's process does not answer")
                if self._someone_reads:
                    self._changed.wait(min(remaining, 1.0))
                    continue
                self._someone_reads = True
            try:
                self._read_some(min(remaining, 1.0))
            finally:
                with self._changed:
                    self._someone_reads = False
                    self._changed.notify_all()

    def _read_some(self, timeout: float) -> None:
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            if not poller.poll(timeout * 1000):
                return
            open_still = self._reader.receive(self._socket)
        except (OSError, ValueError):
            open_still = False
        if not open_still:
            raise FakeVmmDiedError(f"the stand-in's process has ended (exit status {self._process.poll()})")
        while (frame := self._reader.next_frame()) is not None:
            with self._changed:
                self._replies[frame[0]["id"]] = frame

    @staticmethod
    def _unwrap(reply: dict[str, Any], payload: bytes) -> tuple[Any, bytes]:
        problem = reply.get("error")
        if problem is None:
            return reply["result"], payload
        if problem["errno"] is not None:
            raise errors.os_error_class(problem["errno"])(problem["errno"], problem["text"])
        kind = getattr(errors, problem["class"], errors.VmthawError)
        if not (isinstance(kind, type) and issubclass(kind, errors.VmthawError)):
            kind = errors.VmthawError
        raise kind(problem["text"])

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone. Idempotent. Its sockets and descriptors close with it."""
        with self._send_lock:
            self._dead = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        self._socket.close()
