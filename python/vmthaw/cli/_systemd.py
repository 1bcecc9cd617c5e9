"""What systemd gives a service and wants to hear from it; nothing happens where there is no systemd."""

from __future__ import annotations

import contextlib
import os
import socket

from vmthaw.errors import VmthawValueError

_FIRST_FD = 3


def listening_descriptor() -> int | None:
    """The socket of a socket unit (LISTEN_FDS), or None. Raises VmthawValueError when there are several."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    if count in ("", "0"):
        return None
    if count != "1":
        raise VmthawValueError(
            f"systemd gave {count} sockets; say which one serves by --socket-fd ({_FIRST_FD} and up)"
        )
    return _FIRST_FD


def notify(state: str) -> None:
    """``READY=1`` and the like, to NOTIFY_SOCKET. Errors are ignored: systemd then acts by its own time-outs."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.setblocking(False)
        link.sendto(state.encode(), address)
