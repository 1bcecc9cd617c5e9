"""The class that file systems written in Python derive from."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from vmthaw._attributes import Attributes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from vmthaw._core import Lease

_T = TypeVar("_T")
# A method may be a plain function or a coroutine.
MaybeAsync: TypeAlias = "_T | Awaitable[_T]"
# What readdir gives: names, or names with their attributes (then the client knows their types).
Listing: TypeAlias = "Iterable[str | tuple[str, Attributes | os.stat_result]] | Mapping[str, object]"
Stat: TypeAlias = "Attributes | os.stat_result"
Mappable: TypeAlias = "Lease | HasFileno | int"


class HasFileno(Protocol):
    """A file object, as far as it matters here."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class FileSystem:
    """A file system in Python: derive, override what it can do, and give it to `vmthaw.FuseServer`.

    `getattr` and `readdir` make a tree that can be looked at, `read` files that can be read; everything else answers
    ENOSYS until it is overridden. Paths are absolute `pathlib.PurePosixPath`; the root is ``PurePosixPath("/")``. Any
    method may be ``async def``: it then runs in one event loop thread, and an interrupted caller (Ctrl-C) cancels it.

    Methods are called by several threads at once. An exception becomes the caller's errno: OSError's own, ENOENT for a
    FileNotFoundError without one (and so on for OSError's subclasses), ENOSYS for NotImplementedError, EINTR for
    asyncio.CancelledError; anything else is EIO and is logged by ``vmthaw.filesystem`` with its traceback.

    `handle` is whatever `open` or `create` gave back. Permissions are the kernel's affair: it checks them by `getattr`.
    So are locks (flock(2), fcntl(2)), which hold among this mount's users; there is no ioctl (ENOTTY).
    """

    # What is there

    def getattr(self, path: PurePosixPath) -> MaybeAsync[Stat]:
        """The attributes of `path`. Raise FileNotFoundError where there is nothing."""
        raise NotImplementedError

    def getattr_open(self, path: PurePosixPath, handle: Any) -> MaybeAsync[Stat]:
        """The same for an open file, which may have lost its name. As it stands it asks `getattr`."""
        return self.getattr(path)

    def readdir(self, path: PurePosixPath) -> MaybeAsync[Listing]:
        """The names in a directory, "." and ".." left out, or pairs of name and attributes, which save the client a
        `getattr` for each name while the list is not older than a second and nothing was changed through it since."""
        raise NotImplementedError

    def readlink(self, path: PurePosixPath) -> MaybeAsync[str | bytes | os.PathLike[str]]:
        """Where a symbolic link leads."""
        raise NotImplementedError

    def statfs(self, path: PurePosixPath) -> MaybeAsync[os.statvfs_result | None]:
        """The sizes of the file system; None, as it stands: unknown, all zeros."""
        return None

    def access(self, path: PurePosixPath, mask: int) -> MaybeAsync[None]:
        """Asked only where the kernel does not check permissions. Raise PermissionError to refuse."""

    # Bytes

    def open(self, path: PurePosixPath, flags: int) -> MaybeAsync[Any]:
        """Opens a file; `flags` as in os.open. What it gives back comes as `handle` to the other methods."""
        return None

    def create(self, path: PurePosixPath, mode: int, flags: int) -> MaybeAsync[Any]:
        """Makes a regular file with permissions `mode` and opens it; gives back a handle as `open` does."""
        raise NotImplementedError

    def read(self, path: PurePosixPath, size: int, offset: int, handle: Any) -> MaybeAsync[Buffer]:
        """At most `size` bytes from `offset` on; fewer only at the end of the file."""
        raise NotImplementedError

    def write(self, path: PurePosixPath, data: bytes, offset: int, handle: Any) -> MaybeAsync[int | None]:
        """Writes at `offset`; gives back how many bytes, None: all."""
        raise NotImplementedError

    def flush(self, path: PurePosixPath, handle: Any) -> MaybeAsync[None]:
        """At each close(2) of a descriptor; an error is that call's error."""

    def fsync(self, path: PurePosixPath, data_only: bool, handle: Any) -> MaybeAsync[None]:
        """Has the bytes last; with `data_only` not the attributes."""

    def release(self, path: PurePosixPath, handle: Any) -> MaybeAsync[None]:
        """The last descriptor of this handle has gone. Called exactly once for each `open` and `create`."""

    def truncate(self, path: PurePosixPath, size: int, handle: Any) -> MaybeAsync[None]:
        """Cuts or extends to `size` bytes; `handle` is None where the caller has not opened the file."""
        raise NotImplementedError

    def fallocate(self, path: PurePosixPath, mode: int, offset: int, length: int, handle: Any) -> MaybeAsync[None]:
        """Allocates or frees a range; `mode` has FALLOC_FL_... bits."""
        raise NotImplementedError

    def lseek(self, path: PurePosixPath, offset: int, whence: int, handle: Any) -> MaybeAsync[int]:
        """The next data or hole from `offset` on (os.SEEK_DATA, os.SEEK_HOLE). Without it a file is data throughout."""
        raise NotImplementedError

    # Names

    def mkdir(self, path: PurePosixPath, mode: int) -> MaybeAsync[None]:
        """Makes a directory with permissions `mode`, the umask taken off already."""
        raise NotImplementedError

    def mknod(self, path: PurePosixPath, mode: int, device: int) -> MaybeAsync[None]:
        """Makes a file of the type in `mode`: a FIFO, a socket, a device `device` (os.makedev), a regular file."""
        raise NotImplementedError

    def symlink(self, path: PurePosixPath, target: str) -> MaybeAsync[None]:
        """Makes `path` a symbolic link to `target`."""
        raise NotImplementedError

    def link(self, path: PurePosixPath, new_path: PurePosixPath) -> MaybeAsync[None]:
        """Gives the file at `path` the further name `new_path`."""
        raise NotImplementedError

    def unlink(self, path: PurePosixPath) -> MaybeAsync[None]:
        """Removes a name that is no directory. Open handles go on."""
        raise NotImplementedError

    def rmdir(self, path: PurePosixPath) -> MaybeAsync[None]:
        """Removes an empty directory."""
        raise NotImplementedError

    def rename(self, path: PurePosixPath, new_path: PurePosixPath, flags: int) -> MaybeAsync[None]:
        """Renames, replacing what is there. `flags`: 1, RENAME_NOREPLACE; 2, RENAME_EXCHANGE (renameat2(2))."""
        raise NotImplementedError

    # Attributes

    def chmod(self, path: PurePosixPath, mode: int) -> MaybeAsync[None]:
        """Sets the permission bits."""
        raise NotImplementedError

    def chown(self, path: PurePosixPath, uid: int, gid: int) -> MaybeAsync[None]:
        """Sets owner and group; -1 leaves one as it is."""
        raise NotImplementedError

    def utimens(self, path: PurePosixPath, atime_ns: int | None, mtime_ns: int | None) -> MaybeAsync[None]:
        """Sets the times, in ns since 1970; None leaves one as it is."""
        raise NotImplementedError

    def getxattr(self, path: PurePosixPath, name: str) -> MaybeAsync[bytes]:
        """An extended attribute's value. Raise OSError with ENODATA where there is none."""
        raise NotImplementedError

    def listxattr(self, path: PurePosixPath) -> MaybeAsync[Iterable[str]]:
        """The names of the extended attributes."""
        raise NotImplementedError

    def setxattr(self, path: PurePosixPath, name: str, value: bytes, flags: int) -> MaybeAsync[None]:
        """Sets an extended attribute. `flags`: os.XATTR_CREATE, os.XATTR_REPLACE."""
        raise NotImplementedError

    def removexattr(self, path: PurePosixPath, name: str) -> MaybeAsync[None]:
        """Removes an extended attribute. Raise OSError with ENODATA where there is none."""
        raise NotImplementedError

    # Mappings into a guest

    def dax_map(self, path: PurePosixPath, offset: int, length: int, writable: bool) -> MaybeAsync[Mappable]:
        """Gives the file that a `vmthaw.DaxSession` maps for `length` bytes from `offset` on: a regular file or memfd
        of the host with the same bytes at the same offsets, by its descriptor (a file object or an int, opened for
        writing where `writable`), or a `vmthaw.dax.Lease` of a part of one. Open until `dax_unmap`; still yours then.
        """
        raise NotImplementedError

    def dax_unmap(self, given: Any) -> MaybeAsync[None]:
        """What `dax_map` gave is not used any more. Called exactly once for each time it gave something."""

    # Beginning and end

    def init(self) -> MaybeAsync[None]:
        """A client is there. An exception refuses it."""

    def destroy(self) -> MaybeAsync[None]:
        """The client has gone, and every handle with it."""
