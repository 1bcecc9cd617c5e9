"""Files into a jail and out of it. What lies in it belongs to Firecracker, so nothing there is trusted."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from vmthaw.errors import os_error_class
from vmthaw.firecracker._errors import FirecrackerError

_CHUNK = 1 << 30


def _copy_data(source: int, target: int) -> None:
    """Copies the data ranges and leaves the holes: in a diff snapshot a hole means "unchanged"."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole to the end
            raise
        end = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end:
            done = os.sendfile(target, source, begin, min(end - begin, _CHUNK))
            if done == 0:
                raise os_error_class(errno.EIO)(errno.EIO, "a file became shorter while it was copied")
            begin += done
        offset = end


def copy_new(path: Path, folder_fd: int, uid: int, gid: int) -> str:
    """Copies a file into a folder under a new name, which it gives; `uid` may read it."""
    name = f"vmthaw-{secrets.token_hex(8)}"
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400, dir_fd=folder_fd)
        try:
            _copy_data(source, target)
            os.fchown(target, uid, gid)
        finally:
            os.close(target)
    finally:
        os.close(source)
    return name


def move_out(folder_fd: int, name: str, path: Path) -> None:
    """Makes `path` (replaced if it exists) out of a file in a folder: holes stay holes, and it is ours, mode 0600.

    It is copied, never renamed: who wrote it may still hold it open, and could change it afterwards.
    """
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise FirecrackerError(f"what Firecracker wrote for {path} is no regular file")
        target = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_data(source, target)
        finally:
            os.close(target)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    finally:
        os.close(source)
    os.unlink(name, dir_fd=folder_fd)
