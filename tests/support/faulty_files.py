"""`FaultyFs`: files that fail at chosen offsets, or keep their readers waiting. Mount it with `vmthaw.FuseServer`."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path, PurePosixPath

from vmthaw.filesystem import Attributes, FileSystem


class FaultyFs(FileSystem):
    """`files` by path ("a/b"). A read that meets an offset of `failing` is that errno, one that meets an offset of
    `held` waits until `let_go`; `refused` says what opening a file is answered with."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failing: dict[tuple[str, int], int] = {}
        self.held: set[tuple[str, int]] = set()
        self.refused: dict[str, int] = {}
        self.waiting = threading.Event()
        self.let_go = threading.Event()

    def getattr(self, path: PurePosixPath) -> Attributes:
        name = str(path)[1:]
        if name in self.files:
            return Attributes(mode=stat.S_IFREG | 0o644, size=len(self.files[name]), nlink=1, uid=0, mtime_ns=0)
        if name and not any(other.startswith(name + "/") for other in self.files):
            raise FileNotFoundError
        return Attributes(mode=stat.S_IFDIR | 0o755, size=0, nlink=2, uid=0, mtime_ns=0)

    def readdir(self, path: PurePosixPath) -> list[str]:
        start = str(path).rstrip("/")[1:]
        below = [name for name in self.files if name.startswith(start)]
        return sorted({name[len(start) :].lstrip("/").split("/")[0] for name in below})

    def open(self, path: PurePosixPath, flags: int) -> str:
        name = str(path)[1:]
        if number := self.refused.get(name):
            raise OSError(number, "as the test wants it")
        return name

    def read(self, path: PurePosixPath, size: int, offset: int, handle: str) -> bytes:
        def meets(place: tuple[str, int]) -> bool:
            return place[0] == handle and offset <= place[1] < offset + size

        if any(map(meets, list(self.held))):
            self.waiting.set()
            self.let_go.wait(60)
        for place, number in list(self.failing.items()):
            if meets(place):
                raise OSError(number, "as the test wants it")
        return self.files[handle][offset : offset + size]


class MountedFaults:
    """A `FaultyFs`, and where it is mounted. `place` puts a file there."""

    def __init__(self, where: Path) -> None:
        self.fs = FaultyFs()
        self.where = where

    def place(self, name: str, data: bytes) -> Path:
        """Its path."""
        self.fs.files[name] = data
        return self.where / name

    def fail(self, name: str, at: int, number: int) -> None:
        """From now on, whatever of the file the kernel holds."""
        self.fs.failing[name, at] = number
        self.forget(name)

    def hold(self, name: str, at: int) -> None:
        """The same for a read that waits."""
        self.fs.held.add((name, at))
        self.forget(name)

    def forget(self, name: str) -> None:
        """The kernel's pages of it."""
        file = os.open(self.where / name, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
