"""The guard: a process that kills what it was given as soon as its parent has ended, however that happened.

Run as ``python -I -S _guard_child.py SOCKET PARENT_PID`` and free of imports from the package, so that it starts in
milliseconds. It is sent pidfds over the socket, each with the folder to remove afterwards (or "-"), and answers with
one byte. A pidfd cannot hit a stranger, and unlike PR_SET_PDEATHSIG it survives a change of user and does not depend on
which thread started the child.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import shutil
import signal
import socket
import sys

_END_S = 10.0


def _receive(connection: socket.socket) -> tuple[list[int], str] | None:
    """The descriptors and the folder of one message; None at the end."""
    data, ancillary, _flags, _address = connection.recvmsg(4096, socket.CMSG_LEN(4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return (list(fds), os.fsdecode(data)) if data else None


def main() -> None:
    """Serve until the parent has ended, then kill."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    parent_pid = int(sys.argv[2])
    parent = os.pidfd_open(parent_pid)
    watched: dict[int, str] = {}
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(parent, select.POLLIN)
    orphaned = os.getppid() != parent_pid
    while not orphaned:
        for fd, _events in poller.poll():
            if fd == parent:
                orphaned = True
            elif fd == connection.fileno():
                received = _receive(connection)
                if received is None:
                    poller.unregister(connection)  # a fork()ed child may hold the other end: the pidfd decides
                    continue
                for pidfd in received[0]:
                    watched[pidfd] = received[1]
                    poller.register(pidfd, select.POLLIN)
                connection.send(b"k")
            elif fd in watched:
                poller.unregister(fd)
                del watched[fd]
                os.close(fd)
    _clean_up(watched)


def _clean_up(watched: dict[int, str]) -> None:
    for pidfd in watched:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd, folder in watched.items():
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll(_END_S * 1000)
        if folder != "-":
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
