"""A file system in Python that can do most things: for tests of what is in between."""

from __future__ import annotations

import errno
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

from vmthaw.filesystem import Attributes, FileSystem


class _File:
    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.uid = 0
        self.data = bytearray()
        self.mtime_ns = time.time_ns()

    def attributes(self) -> Attributes:
        links = 2 if stat.S_ISDIR(self.mode) else 1
        return Attributes(mode=self.mode, size=len(self.data), nlink=links, uid=self.uid, mtime_ns=self.mtime_ns)


class DictFs(FileSystem):
    """Files in a dict by path. Handles are the files, so that an unlinked one can still be read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files = {PurePosixPath("/"): _File(stat.S_IFDIR | 0o755)}
        self.open_files: list[_File] = []
        self.calls: list[str] = []

    def paths(self) -> list[str]:
        """All but the root."""
        return sorted(str(path) for path in self._files if path.name)

    def _find(self, path: PurePosixPath) -> _File:
        if path not in self._files:
            raise FileNotFoundError
        return self._files[path]

    def init(self) -> None:
        self.calls.append("init")

    def destroy(self) -> None:
        self.calls.append("destroy")

    def getattr(self, path: PurePosixPath) -> Attributes:
        return self._find(path).attributes()

    def getattr_open(self, path: PurePosixPath, handle: _File) -> Attributes:
        return handle.attributes()

    def readdir(self, path: PurePosixPath) -> Iterator[tuple[str, Attributes]]:
        return iter([(p.name, f.attributes()) for p, f in self._files.items() if p.name and p.parent == path])

    def open(self, path: PurePosixPath, flags: int) -> _File:
        file = self._find(path)
        with self._lock:
            self.open_files.append(file)
        return file

    def create(self, path: PurePosixPath, mode: int, flags: int) -> _File:
        self._find(path.parent)
        self._files[path] = _File(stat.S_IFREG | mode)
        return self.open(path, flags)

    def release(self, path: PurePosixPath, handle: _File) -> None:
        with self._lock:
            self.open_files.remove(handle)

    def read(self, path: PurePosixPath, size: int, offset: int, handle: _File) -> bytes:
        return bytes(handle.data[offset : offset + size])

    def write(self, path: PurePosixPath, data: bytes, offset: int, handle: _File) -> None:
        handle.data.extend(bytes(max(0, offset - len(handle.data))))
        handle.data[offset : offset + len(data)] = data

    def truncate(self, path: PurePosixPath, size: int, handle: _File | None) -> None:
        self.calls.append("truncate")
        file = handle or self._find(path)
        del file.data[size:]
        file.data.extend(bytes(size - len(file.data)))

    def mkdir(self, path: PurePosixPath, mode: int) -> None:
        if path in self._files:
            raise FileExistsError
        self._files[path] = _File(stat.S_IFDIR | mode)

    def unlink(self, path: PurePosixPath) -> None:
        self._find(path)
        del self._files[path]

    def rmdir(self, path: PurePosixPath) -> None:
        if any(path in other.parents for other in self._files):
            raise OSError(errno.ENOTEMPTY, "not empty")
        self.unlink(path)

    def rename(self, path: PurePosixPath, new_path: PurePosixPath, flags: int) -> None:
        self._find(path)
        moved = {p: f for p, f in self._files.items() if p == path or path in p.parents}
        for old in moved:
            del self._files[old]
        self._files |= {new_path / old.relative_to(path): file for old, file in moved.items()}

    def chmod(self, path: PurePosixPath, mode: int) -> None:
        self.calls.append("chmod")
        file = self._find(path)
        file.mode = stat.S_IFMT(file.mode) | mode

    def chown(self, path: PurePosixPath, uid: int, gid: int) -> None:
        self.calls.append("chown")
        self._find(path).uid = uid

    def utimens(self, path: PurePosixPath, atime_ns: int | None, mtime_ns: int | None) -> None:
        self.calls.append("utimens")
        if mtime_ns is not None:
            self._find(path).mtime_ns = mtime_ns
