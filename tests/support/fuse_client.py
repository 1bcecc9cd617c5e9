"""Plays the kernel towards a `FuseDispatcher`: requests and replies as bytes."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from vmthaw.filesystem import FuseDispatcher

ROOT = 1
NO_HANDLE = 2**64 - 1

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, LINK, OPEN, READ, WRITE = 8, 9, 10, 11, 13, 14, 15, 16
STATFS, RELEASE, FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH = 17, 18, 20, 21, 22, 23, 24, 25
INIT, OPENDIR, READDIR, RELEASEDIR, CREATE, INTERRUPT, DESTROY = 26, 27, 28, 29, 35, 36, 38
FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE = 43, 44, 45, 46, 47
SETUPMAPPING, REMOVEMAPPING = 48, 49


@dataclass
class Stat:
    """The part of struct fuse_attr that tests look at."""

    ino: int
    size: int
    mtime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int


def stat_of(attr: bytes) -> Stat:
    """From struct fuse_attr, 88 bytes."""
    f = struct.unpack("<6Q10I", attr)
    return Stat(f[0], f[1], f[4] * 10**9 + f[7], f[9], f[10], f[11], f[12])


class Client:
    """Sends requests. A reply's errno becomes an OSError."""

    def __init__(self, dispatcher: FuseDispatcher) -> None:
        self.dispatcher = dispatcher

    def ask(self, opcode: int, node: int, body: bytes = b"", *, unique: int = 2) -> bytes:
        """The reply's body; raises OSError with its errno."""
        reply = self.dispatcher.dispatch(self.frame(opcode, node, body, unique=unique))
        if reply is None:
            return b""
        length, error, echoed = struct.unpack_from("<IiQ", reply)
        assert (length, echoed) == (len(reply), unique)
        if error:
            raise OSError(-error, os.strerror(-error))
        return reply[16:]

    @staticmethod
    def frame(opcode: int, node: int, body: bytes, *, unique: int = 2) -> bytes:
        """One request."""
        return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, node, 1000, 1001, 7, 0, 0) + body

    def init(self, flags: int = 2**64 - 1) -> bytes:
        """INIT as Linux sends it, offering `flags`."""
        return self.ask(INIT, 0, struct.pack("<5I44x", 7, 45, 1 << 20, flags & 0xFFFFFFFF, flags >> 32))

    def lookup(self, parent: int, name: str) -> tuple[int, Stat]:
        """Node and attributes."""
        return self._entry(self.ask(LOOKUP, parent, os.fsencode(name) + b"\0"))

    @staticmethod
    def _entry(reply: bytes) -> tuple[int, Stat]:
        return struct.unpack_from("<Q", reply)[0], stat_of(reply[40:128])

    def getattr(self, node: int) -> Stat:
        """The attributes of a node."""
        return stat_of(self.ask(GETATTR, node, bytes(16))[16:])

    def setattr(self, node: int, valid: int, *, size: int = 0, mode: int = 0, uid: int = 0, mtime_s: int = 0) -> Stat:
        """`valid` says which of the values count."""
        body = struct.pack("<IIQQQQQQIIIIIIII", valid, 0, 0, size, 0, 0, mtime_s, 0, 0, 0, 0, mode, 0, uid, 0, 0)
        return stat_of(self.ask(SETATTR, node, body)[16:])

    def mkdir(self, parent: int, name: str, mode: int = 0o755) -> int:
        """Its node."""
        return self._entry(self.ask(MKDIR, parent, struct.pack("<II", mode, 0) + os.fsencode(name) + b"\0"))[0]

    def create(self, parent: int, name: str, mode: int = 0o100644, flags: int = os.O_RDWR) -> tuple[int, int]:
        """Node and handle."""
        body = struct.pack("<4I", flags, mode, 0, 0) + os.fsencode(name) + b"\0"
        reply = self.ask(CREATE, parent, body)
        return self._entry(reply)[0], struct.unpack_from("<Q", reply, 128)[0]

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        """A handle."""
        handle: int = struct.unpack_from("<Q", self.ask(OPEN, node, struct.pack("<II", flags, 0)))[0]
        return handle

    def read(self, node: int, handle: int, size: int = 4096, offset: int = 0, *, unique: int = 2) -> bytes:
        """At most `size` bytes."""
        return self.ask(READ, node, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0), unique=unique)

    def write(self, node: int, handle: int, data: bytes, offset: int = 0) -> int:
        """How many bytes were taken."""
        body = struct.pack("<QQIIQII", handle, offset, len(data), 0, 0, 0, 0) + data
        written: int = struct.unpack_from("<I", self.ask(WRITE, node, body))[0]
        return written

    def release(self, node: int, handle: int) -> None:
        """Lets a handle go."""
        self.ask(RELEASE, node, struct.pack("<QIIQ", handle, 0, 0, 0))

    def names(self, node: int, size: int = 4096) -> dict[str, int]:
        """What a directory lists, with its types."""
        handle = self.opendir(node)
        found: dict[str, int] = {}
        offset = 0
        while reply := self.ask(READDIR, node, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)):
            at = 0
            while at < len(reply):
                _, offset, length, kind = struct.unpack_from("<QQII", reply, at)
                found[os.fsdecode(reply[at + 24 : at + 24 + length])] = kind
                at += (24 + length + 7) // 8 * 8
        self.ask(RELEASEDIR, node, struct.pack("<QIIQ", handle, 0, 0, 0))
        return found

    def listed_plus(self, node: int, handle: int, size: int = 4096, offset: int = 0) -> dict[str, tuple[int, Stat]]:
        """One READDIRPLUS: the names with node (0: none was given) and attributes."""
        reply = self.ask(READDIRPLUS, node, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0))
        found: dict[str, tuple[int, Stat]] = {}
        at = 0
        while at < len(reply):
            length = struct.unpack_from("<I", reply, at + 144)[0]
            found[os.fsdecode(reply[at + 152 : at + 152 + length])] = self._entry(reply[at : at + 128])
            at += (152 + length + 7) // 8 * 8
        return found

    def opendir(self, node: int) -> int:
        """A handle."""
        handle: int = struct.unpack_from("<Q", self.ask(OPENDIR, node, bytes(8)))[0]
        return handle

    def rename(self, parent: int, name: str, new_parent: int, new_name: str, flags: int = 0) -> None:
        """renameat2(2)."""
        names = os.fsencode(name) + b"\0" + os.fsencode(new_name) + b"\0"
        self.ask(RENAME2, parent, struct.pack("<QII", new_parent, flags, 0) + names)

    def unlink(self, parent: int, name: str) -> None:
        """unlink(2)."""
        self.ask(UNLINK, parent, os.fsencode(name) + b"\0")

    def forget(self, node: int, count: int = 1) -> None:
        """Gives look-ups back."""
        self.ask(FORGET, node, struct.pack("<Q", count))
