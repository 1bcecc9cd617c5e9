"""Starting the processes of our own that play a VMM."""

from __future__ import annotations

import os
import socket
import subprocess
import sys


def start_child(module: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """``python -m MODULE FD PARENT_PID``, and our end of the connection whose other end is the child's FD. OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            # A session of its own: Ctrl-C on the terminal is the parent's business.
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return process, ours
