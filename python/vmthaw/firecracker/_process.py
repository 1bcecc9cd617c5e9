"""The VMM's process: started so that it cannot outlive us, watched by pidfd, ended within a bounded time."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from vmthaw.errors import VmthawTimeoutError, os_error_class
from vmthaw.firecracker import _guard
from vmthaw.firecracker._errors import FirecrackerDiedError
from vmthaw.firecracker._log_tail import LogTail

_KILLED_S = 10.0
# The shell waits for one line, which comes once the guard knows it, and then becomes the VMM under the same pid. When
# we die before that, it reads the end of the file and ends.
_GATE = 'read -r go && exec "$@" </dev/null'


def find_binary(name: str | os.PathLike[str], what: str) -> str:
    """The absolute path of an executable, by PATH if it is a bare name. Raises FileNotFoundError, PermissionError."""
    text = os.fspath(name)
    found = shutil.which(text)
    if found is not None:
        return str(Path(found).absolute())
    if "/" in text and Path(text).exists():
        raise os_error_class(errno.EACCES)(errno.EACCES, f"{what} {text} is not an executable file: chmod +x it")
    where = "" if "/" in text else " on PATH"
    raise os_error_class(errno.ENOENT)(
        errno.ENOENT, f"{what} {text!r} was not found{where}; install it, or give the path of the binary"
    )


class VmmProcess:
    """One process. Methods are for any thread. It dies with us by the guard, however we end."""

    def __init__(self, name: str, log: LogTail) -> None:
        self._name = name
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self.deliberate = False

    def start(self, command: Sequence[str], cwd: str | os.PathLike[str], folder: str) -> None:
        """Starts `command`, whose first word is an absolute path; the guard removes `folder` (unless "-").

        Raises OSError, FirecrackerError.
        """
        self._popen = popen = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "vmthaw-gate", *command],
            stdin=subprocess.PIPE,
            stdout=self._log.writer,
            stderr=self._log.writer,
            cwd=cwd,
            start_new_session=True,  # Ctrl-C on the terminal is ours to handle
        )
        self._log.started()
        self._pidfd = os.pidfd_open(popen.pid)
        _guard.guard.watch(self._pidfd, folder)
        assert popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # killed already: whoever waits for the API will hear
            popen.stdin.write(b"go\n")
            popen.stdin.close()

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._popen.pid if self._popen is not None else 0

    @property
    def pidfd(self) -> int:
        """Readable once the process has ended; -1 before the start and after `release`."""
        return self._pidfd

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll() if self._popen is not None else None

    def wait(self, timeout: float | None) -> int | None:
        """Waits for the end: the exit code, or None after `timeout` seconds. Ctrl-C ends it."""
        assert self._popen is not None
        if self._popen.poll() is None:
            poller = select.poll()
            try:
                poller.register(self._pidfd, select.POLLIN)
            except (OSError, ValueError):
                return self._popen.poll()
            if not poller.poll(None if timeout is None else max(0.0, timeout) * 1000):
                return None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_KILLED_S)
        return self._popen.poll()

    def died(self, doing: str, more: str = "") -> FirecrackerDiedError | None:
        """The error to raise when it has ended, else None."""
        code = self.exit_code
        if code is None:
            return None
        return FirecrackerDiedError(f"{self._name} (pid {self.pid}, {doing})", code, self._log.tail(), more)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal by pidfd; nothing happens when it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def end(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds (0: at once). Raises VmthawTimeoutError if it does not die."""
        self.deliberate = True
        if self._popen is None:
            return
        if self._popen.stdin is not None and not self._popen.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()
        deadline = time.monotonic() + grace
        if self.exit_code is None and grace > 0:
            self.signal(signal.SIGTERM)
            self.wait(deadline - time.monotonic())
        if self.exit_code is None:
            self._kill()
            if self.wait(_KILLED_S) is None:
                raise VmthawTimeoutError(
                    errno.ETIMEDOUT, f"{self._name} (pid {self.pid}) did not die of SIGKILL within {_KILLED_S:.0f} s"
                )

    def _kill(self) -> None:
        if self._pidfd >= 0:
            self.signal(signal.SIGKILL)
        elif self._popen is not None:
            self._popen.kill()  # interrupted before it had a pidfd; not reaped yet, so the pid is its own

    def release(self) -> None:
        """After `end`: gives the descriptors back. Idempotent."""
        _guard.guard.forget_ended()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
        self._log.close()
