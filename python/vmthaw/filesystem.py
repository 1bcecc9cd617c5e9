"""File systems that a `vmthaw.FuseServer` mounts: in memory, or written in Python.

`MemoryFs` keeps files in this process's memory. For one of your own derive from `FileSystem`; `PythonFs` makes it a
`FileSystemBackend`, which `vmthaw.FuseServer` does by itself. `FuseDispatcher` answers FUSE requests given as bytes,
for a transport of your own.

    class Hello(FileSystem):
        def getattr(self, path):
            if path.name == "":
                return Attributes.directory()
            if path.name == "hello":
                return Attributes.file(6, permissions=0o444)
            raise FileNotFoundError

        def readdir(self, path):
            return ["hello"]

        def read(self, path, size, offset, handle):
            return b"hello!"[offset : offset + size]
"""

from __future__ import annotations

from vmthaw._attributes import Attributes
from vmthaw._core import FileSystem as FileSystemBackend
from vmthaw._core import FuseDispatcher, MemoryFs, PythonFsCore
from vmthaw._file_system import FileSystem
from vmthaw._python_fs import Answerer

__all__ = [
    "Attributes",
    "FileSystem",
    "FileSystemBackend",
    "FuseDispatcher",
    "MemoryFs",
    "PythonFs",
    "backend_of",
]


class PythonFs(PythonFsCore):
    """A `FileSystem` written in Python, as the servers take it. Threads that Python started call its methods.

    Counts (`held_nodes`, `open_handles`) are of the server's client. Raises TypeError for anything but a `FileSystem`.
    """

    def __init__(self, fs: FileSystem) -> None:
        if not isinstance(fs, FileSystem):
            raise TypeError(f"PythonFs takes a vmthaw.filesystem.FileSystem, not {type(fs).__name__}")
        self._answerer = Answerer(fs)
        super().__init__(self._answerer.answer)
        self._fs = fs

    @property
    def file_system(self) -> FileSystem:
        """What was given."""
        return self._fs

    def cancel_coroutines(self) -> None:
        """Cancels what its ``async`` methods are doing, for a server whose clients have gone. Any thread."""
        self._answerer.cancel_all()

    def __repr__(self) -> str:
        return f"PythonFs({type(self._fs).__name__})"


def backend_of(fs: FileSystem | FileSystemBackend) -> FileSystemBackend:
    """`fs` itself if the core can serve it, else a `PythonFs` around it. Raises TypeError for anything else."""
    return fs if isinstance(fs, FileSystemBackend) else PythonFs(fs)
