"""One guard for the whole process: VMMs do not outlive the process that serves their memory.

Without their page server they would sleep in their next page fault for ever. See `_guard_child`.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

from vmthaw.firecracker._errors import FirecrackerError

_ANSWER_S = 10.0


class Guard:
    """The guard's process. `watch` is for any thread; the process is started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._pidfd = -1
        self._socket: socket.socket | None = None
        self._kept: dict[int, str] = {}

    @property
    def pid(self) -> int | None:
        """The guard's process id, once it runs."""
        return self._pid

    def watch(self, pidfd: int, folder: str = "-") -> None:
        """Has the process behind `pidfd` killed, and `folder` removed, when ours has ended before it.

        Raises FirecrackerError when that cannot be.
        """
        with self._lock:
            # One that was killed is replaced, and told of everybody again.
            if self._pid is None or ended(self._pidfd):
                self._start()
            try:
                self._send(pidfd, folder)
            except OSError as error:
                raise FirecrackerError(f"the guard, which kills VMs that we leave behind, failed: {error}") from error
            self._kept[os.dup(pidfd)] = folder

    def forget_ended(self) -> None:
        """Drops the processes that have ended."""
        with self._lock:
            for kept in [kept for kept in self._kept if ended(kept)]:
                del self._kept[kept]
                os.close(kept)

    def _start(self) -> None:
        self._release()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        child = str(Path(__file__).with_name("_guard_child.py"))
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", child, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C on the terminal is ours to handle
                cwd="/",
            )
        # Open until the kernel closes it, since that is what the guard waits for; Python would warn of it at the end.
        atexit.register(ours.detach)
        self._socket, self._pid, self._pidfd = ours, process.pid, os.pidfd_open(process.pid)
        process.returncode = 0  # it outlives us on purpose, which Popen's finalizer would complain of
        for kept, folder in self._kept.items():
            self._send(kept, folder)

    def _release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._pidfd >= 0:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            os.close(self._pidfd)
            self._pidfd, self._pid = -1, None

    def _send(self, pidfd: int, folder: str) -> None:
        assert self._socket is not None
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]).tobytes())
        self._socket.sendmsg([os.fsencode(folder)], [rights])
        if self._socket.recv(1) != b"k":
            raise BrokenPipeError("it has ended")

    def abandon(self) -> None:
        """In a forked child: nothing of it is ours."""
        for fd in [*self._kept, self._pidfd]:
            with contextlib.suppress(OSError):
                os.close(fd)
        if self._socket is not None:
            self._socket.close()


def ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd has ended."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


guard = Guard()


def _after_fork_in_child() -> None:
    global guard
    inherited, guard = guard, Guard()
    inherited.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
