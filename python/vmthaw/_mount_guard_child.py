"""The guard of one mount: a process that takes it away when its server has ended without doing so, however that was.

Run as ``python -I -S _mount_guard_child.py PIDFD MINOR HOW MOUNT_POINT`` and free of imports from the package, so that
it starts in milliseconds. Standard input: one byte says that nothing is left to do. The pidfd becomes readable when the
server has closed all its descriptors: until then a mount could still be served.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys

_LAZY = 2 | 8  # MNT_DETACH | UMOUNT_NOFOLLOW


def is_ours(mount_point: str, minor: str) -> bool:
    """Whether the uppermost mount there is the one we were started for."""
    last = ""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:  # noqa: PTH123 - no pathlib
        for line in table:
            fields = line.split(" ")
            path = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
            if os.fsdecode(path) == mount_point:
                last = fields[2]
    return last == f"0:{minor}"


def unmount(mount_point: str, how: str) -> None:
    """Out of sight at once; whoever works there gets ENOTCONN."""
    if how == "fusermount3":
        os.execvp("fusermount3", ["fusermount3", "-u", "-z", "-q", "--", mount_point])
    import ctypes

    ctypes.CDLL(None).umount2(os.fsencode(mount_point), _LAZY)


def main() -> None:
    """Waits for either end."""
    server, minor, how, mount_point = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    poller = select.poll()
    poller.register(server, select.POLLIN)
    poller.register(0, select.POLLIN)
    while True:
        ready = {fd for fd, _events in poller.poll()}
        if 0 in ready:
            if os.read(0, 1):
                return
            poller.unregister(0)  # the server's end was closed: its own end is near
        if server in ready:
            with contextlib.suppress(OSError):
                if is_ours(mount_point, minor):
                    unmount(mount_point, how)
            return


if __name__ == "__main__":
    main()
