"""A process that makes system calls on files as some user: one JSON line in, one out. Run by `actors`; free of imports
from the project, since its user may not read that."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_files: dict[int, int] = {}


def _open(path: str, flags: int, mode: int = 0o777) -> None:
    os.close(os.open(path, flags, mode))


def _keep_open(path: str, flags: int, mode: int = 0o777) -> int:
    return os.open(path, flags, mode)


def _write_file(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _append(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def _read_file(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _lstat(path: str) -> dict[str, int]:
    return _fields(os.lstat(path))


def _fstat(fd: int) -> dict[str, int]:
    return _fields(os.fstat(fd))


def _fields(found: os.stat_result) -> dict[str, int]:
    names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_rdev", "st_atime_ns", "st_mtime_ns",
             "st_ctime_ns")  # fmt: skip
    fields = {name[3:]: int(getattr(found, name)) for name in names}
    return {**fields, "permissions": stat.S_IMODE(found.st_mode), "type": stat.S_IFMT(found.st_mode)}


def _renameat2(source: str, target: str, flags: int) -> None:
    number = 316 if os.uname().machine == "x86_64" else 276
    at = -100
    if _libc.syscall(number, at, os.fsencode(source), at, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def _utimensat(path: str, times: list[list[int]] | None, follow: bool = True) -> None:
    pair = (_Timespec * 2)(*[_Timespec(*time) for time in times]) if times else None
    if _libc.utimensat(-100, os.fsencode(path), pair, 0 if follow else 0x100) != 0:
        raise OSError(ctypes.get_errno(), "utimensat")


def _execute(path: str) -> int:
    return os.spawnv(os.P_WAIT, path, [path])


def _chown_link(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)


def _set_umask(mask: int) -> int:
    return os.umask(mask)


_OWN: dict[str, Any] = {
    "open": _open, "keep_open": _keep_open, "write_file": _write_file, "append": _append, "read_file": _read_file,
    "lstat": _lstat, "fstat": _fstat, "renameat2": _renameat2, "utimensat": _utimensat, "execute": _execute,
    "lchown": _chown_link, "umask": _set_umask,
}  # fmt: skip


def _answer(name: str, arguments: list[Any]) -> Any:
    try:
        call = _OWN[name] if name in _OWN else getattr(os, name)
        return [None, call(*arguments)]
    except OSError as error:
        return [errno.errorcode.get(error.errno or 0, str(error)), None]


def main() -> None:
    """Becomes the user, then obeys."""
    uid, gid = int(sys.argv[1]), int(sys.argv[2])
    if os.getuid() == 0:
        os.setgroups([int(group) for group in sys.argv[3].split(",") if group])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    os.umask(0)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer = _answer(name, arguments)
        if isinstance(answer[1], bytes):
            answer[1] = answer[1].hex()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
