"""`VmmProcess`: a machine in a process of its own, as an orchestrator sees a VMM."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vmthaw import errors
from vmthaw._child_process import start_child
from vmthaw._closing import Closing
from vmthaw.errors import StateError, VmmDiedError, VmthawTimeoutError
from vmthaw.machine_values import GuestReport, Workload

__all__ = ["MemoryUsage", "RestoreTimings", "VmmProcess"]

# How much longer than the process's own time-out its parent waits.
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class RestoreTimings:
    """Of one restore, in nanoseconds of CLOCK_MONOTONIC, measured in the VMM from the request on.

    `resume_ns`: until the vCPU could run; `first_answer_ns`: until the guest had answered (None: not asked).
    `round_trip_ns`: the same until the parent had the answer. `memory_bytes`: the guest's memory.
    """

    resume_ns: int
    first_answer_ns: int | None
    round_trip_ns: int
    memory_bytes: int


@dataclass(frozen=True)
class MemoryUsage:
    """Of the VMM's process, in bytes, by /proc/PID/smaps_rollup. `pss` shares common pages among their users."""

    rss: int
    pss: int
    anonymous: int


class VmmProcess(Closing):
    """A VMM: one machine in a process of its own, which is ready when the constructor returns.

    `create` or `restore` a machine there, then `command` it. Calls wait with time-outs in seconds (TimeoutError), end
    with Ctrl-C, and raise what the machine raised; VmmDiedError when the process has ended. One thread at a time. The
    process ends with `close`, `kill`, the ``with`` block, or its parent.
    """

    def __init__(self, *, timeout: float = 60.0) -> None:
        self._process, self._socket = start_child("vmthaw._vmm_child")
        self._buffer = b""
        self._number = 0
        self._owner = os.getpid()
        self.snapshot_pause_ns: int | None = None
        try:
            self._next_line(time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    def _next_line(self, deadline: float) -> dict[str, Any]:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise VmthawTimeoutError(f"the VMM (process {self.pid}) does not answer")
            if not poller.poll(min(left, 1.0) * 1000):
                continue
            try:
                data = self._socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                raise VmmDiedError(f"the VMM (process {self.pid}) has ended, exit status {self._process.poll()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _call(self, operation: str, timeout: float, /, **arguments: Any) -> Any:
        if os.getpid() != self._owner:
            raise errors.ForkedError("the VmmProcess was made before fork(); it is inert in the child")
        if self._socket.fileno() < 0:
            raise VmmDiedError("the VMM was killed or closed")
        self._number += 1
        request = {"id": self._number, "op": operation, "args": arguments}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise VmmDiedError(f"the VMM (process {self.pid}) has ended: {error}") from error
        deadline = time.monotonic() + timeout + _PATIENCE_S
        # Answers to calls whose wait was cut short come first.
        while (reply := self._next_line(deadline)).get("id") != self._number:
            pass
        if "error" in reply:
            raise _error_from(reply["error"])
        return reply["result"]

    def create(self, memory: int, *, timeout: float = 30.0) -> None:
        """A new machine with `memory` bytes and the payload. Replaces the one before."""
        self._call("create", timeout, memory=memory)

    def restore(
        self,
        directory: str | os.PathLike[str],
        *,
        lazy: bool | Literal["mapping"] | str | os.PathLike[str] = True,
        ping: bool = True,
        track_dirty: bool = False,
        timeout: float = 60.0,
    ) -> RestoreTimings:
        """Restores a snapshot as `Machine.restore` does. `ping` waits for the guest's first answer as well."""
        start = time.monotonic_ns()
        way = lazy if isinstance(lazy, bool) else os.fspath(lazy)
        found = self._call(
            "restore", timeout, directory=os.fspath(directory), lazy=way, timeout=timeout, ping=ping,
            track_dirty=track_dirty,
        )  # fmt: skip
        return RestoreTimings(round_trip_ns=time.monotonic_ns() - start, **found)

    def command(self, name: str, /, *, timeout: float = 60.0, **arguments: Any) -> GuestReport:
        """Calls a method of the `Machine` there: ping, fill, verify, touch, rewrite, spin, finish, load_vectors,
        check_vectors, with its keyword arguments. `check()` what comes back; its `extra` has ``round_trip_ns``, of the
        whole call as seen from here.
        """
        start = time.monotonic_ns()
        values = self._call("command", timeout, name=name, arguments={"timeout": timeout, **arguments})
        values["extra"] = {"round_trip_ns": time.monotonic_ns() - start}
        return GuestReport.from_fields(values)

    def snapshot(self, directory: str | os.PathLike[str], diff: bool = False, *, timeout: float = 60.0) -> Path:
        """As `Machine.snapshot`."""
        found = self._call("snapshot", timeout, directory=os.fspath(directory), diff=diff, timeout=timeout)
        self.snapshot_pause_ns = found["pause_ns"]
        return Path(found["folder"])

    def read(self, guest_address: int, size: int, *, timeout: float = 30.0) -> bytes:
        """Bytes of guest memory."""
        return base64.b64decode(self._call("read", timeout, guest_address=guest_address, size=size, timeout=timeout))

    def write(self, guest_address: int, data: bytes, *, timeout: float = 30.0) -> None:
        """Writes into guest memory."""
        text = base64.b64encode(data).decode()
        self._call("write", timeout, guest_address=guest_address, data=text, timeout=timeout)

    @property
    def workload(self) -> Workload:
        """What the guest's pages must hold."""
        seed, zero_share, rewrites = self._call("workload", 10.0)
        return Workload(seed, zero_share, tuple((a, b, c, d) for a, b, c, d in rewrites))

    def memory_usage(self) -> MemoryUsage:
        """What the process uses now. Raises StateError when it has ended."""
        found: dict[str, int] = {}
        try:
            text = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError as error:
            raise StateError(f"the VMM (process {self.pid}) has ended") from error
        for line in text.splitlines()[1:]:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
        return MemoryUsage(found.get("Rss", 0), found.get("Pss", 0), found.get("Anonymous", 0))

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone. Idempotent."""
        if os.getpid() != self._owner:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=30)
        self._socket.close()

    def close(self) -> None:
        """Ends the process. Its guest has nothing to save, so this is `kill`."""
        self.kill()


def _error_from(problem: dict[str, Any]) -> BaseException:
    if problem["errno"] is not None:
        return errors.os_error_class(problem["errno"])(problem["errno"], problem["text"])
    kind = getattr(errors, problem["class"], errors.VmthawError)
    if not (isinstance(kind, type) and issubclass(kind, errors.VmthawError)):
        return errors.VmthawError(f"{problem['class']}: {problem['text']}")
    error = kind(problem["text"])
    for name, value in problem["fields"].items():
        setattr(error, name, value)
    return error
