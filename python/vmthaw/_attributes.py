"""What a file system that is written in Python says of its files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TypeAlias

_MAX_U32 = 2**32 - 1
_MAX_U64 = 2**64 - 1
_MAX_NS = 2**63 - 1

# In the order that the core reads them.
Row: TypeAlias = tuple[int, int, int, int, int, int, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The attributes of one file, as stat(2) has them.

    `mode` has the file's type and its permissions (``stat.S_IFREG | 0o644``); `size` is in bytes; times are nanoseconds
    since 1970. `ino` 0: the client sees a number of the server's own. `blocks` of 512 bytes, None: what `size` takes.
    """

    mode: int
    size: int = 0
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    ino: int = 0
    blocks: int | None = None
    block_size: int = 4096

    @classmethod
    def file(cls, size: int = 0, *, permissions: int = 0o644, mtime_ns: int = 0) -> Attributes:
        """A regular file of `size` bytes that belongs to this process's user; all its times are `mtime_ns`."""
        return cls._own(stat.S_IFREG | permissions, size, 1, mtime_ns)

    @classmethod
    def directory(cls, *, permissions: int = 0o755, mtime_ns: int = 0) -> Attributes:
        """A directory that belongs to this process's user; all its times are `mtime_ns`."""
        return cls._own(stat.S_IFDIR | permissions, 0, 2, mtime_ns)

    @classmethod
    def symlink(cls, target: str | bytes | os.PathLike[str], *, mtime_ns: int = 0) -> Attributes:
        """A symbolic link to `target` that belongs to this process's user; all its times are `mtime_ns`."""
        return cls._own(stat.S_IFLNK | 0o777, len(os.fsencode(target)), 1, mtime_ns)

    @classmethod
    def _own(cls, mode: int, size: int, nlink: int, time_ns: int) -> Attributes:
        return cls(
            mode=mode,
            size=size,
            nlink=nlink,
            uid=os.geteuid(),
            gid=os.getegid(),
            atime_ns=time_ns,
            mtime_ns=time_ns,
            ctime_ns=time_ns,
        )


def row_of(given: object) -> Row:
    """What the core takes, from `Attributes` or `os.stat_result`.

    Raises TypeError for anything else, and ValueError for a number that its field does not hold.
    """
    if isinstance(given, os.stat_result):
        given = Attributes(
            mode=given.st_mode,
            size=given.st_size,
            nlink=given.st_nlink,
            uid=given.st_uid,
            gid=given.st_gid,
            rdev=_new_encode_dev(given.st_rdev),
            atime_ns=given.st_atime_ns,
            mtime_ns=given.st_mtime_ns,
            ctime_ns=given.st_ctime_ns,
            ino=given.st_ino,
            blocks=given.st_blocks,
            block_size=given.st_blksize,
        )
    if not isinstance(given, Attributes):
        raise TypeError(f"getattr gives Attributes or os.stat_result, not {type(given).__name__}")
    blocks = (given.size + 511) // 512 if given.blocks is None else given.blocks
    row = (
        given.mode,
        given.size,
        given.nlink,
        given.uid,
        given.gid,
        given.rdev,
        given.atime_ns,
        given.mtime_ns,
        given.ctime_ns,
        given.ino,
        blocks,
        given.block_size,
    )
    limits = (_MAX_U32, _MAX_NS, *[_MAX_U32] * 4, _MAX_NS, _MAX_NS, _MAX_NS, _MAX_U64, _MAX_U64, _MAX_U32)
    for name, value, limit in zip(Attributes.__slots__, row, limits, strict=True):
        if not 0 <= value <= limit:
            raise ValueError(f"the attribute {name} is {value}; it must be from 0 to {limit}")
    if stat.S_IFMT(given.mode) == 0:
        raise ValueError(
            f"the attribute mode is {given.mode:#o}: it has no file type (stat.S_IFREG, stat.S_IFDIR, ...)"
        )
    return row


def _new_encode_dev(device: int) -> int:
    """As the kernel packs a device number into 32 bits (include/linux/kdev_t.h)."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & ~0xFF) << 12) & _MAX_U32
