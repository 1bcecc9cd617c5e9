"""`MountGuard`: no dead mount is left behind by a server that was killed. See `_mount_guard_child`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

_END_S = 5.0


class MountGuard:
    """The process beside one mount. Raises OSError when it cannot be started."""

    def __init__(self, mount_point: str, device_minor: int, *, by_fusermount: bool) -> None:
        child = str(Path(__file__).with_name("_mount_guard_child.py"))
        how = "fusermount3" if by_fusermount else "umount"
        self._pid = os.getpid()
        pidfd = os.pidfd_open(self._pid)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", child, str(pidfd), str(device_minor), how, mount_point],
                pass_fds=[pidfd],
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on the terminal is ours to handle
                cwd="/",
            )
        finally:
            os.close(pidfd)

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def dismiss(self) -> None:
        """There is no mount left to guard. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._pid or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(b"q")
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
