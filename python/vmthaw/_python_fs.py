"""What stands between the core and a `FileSystem` written in Python: paths, handles, coroutines, exceptions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import inspect
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from vmthaw import _lifecycle
from vmthaw._attributes import Row, row_of
from vmthaw._core import Lease
from vmthaw._errnos import errno_of
from vmthaw._event_loop_thread import EventLoopThread
from vmthaw._file_system import FileSystem

_log = logging.getLogger("vmthaw.filesystem")

_NO_HANDLE = 2**64 - 1
_XATTR_MAX = 65536  # XATTR_SIZE_MAX
_MAX_FD = 2**31 - 1
_MOST_MARKS = 4096
# setattr's valid bits, FATTR_... of <linux/fuse.h>
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _ATIME_NOW, _MTIME_NOW = 1, 2, 4, 8, 16, 32, 128, 256


class Answerer:
    """Answers the core's requests: `answer(operation, unique, uid, gid, pid, *arguments)` gives (errno, value)."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._loop = EventLoopThread("vmthaw-fs")
        self._handles: dict[int, Any] = {}
        self._leases: dict[int, Any] = {}
        self._running: dict[int, concurrent.futures.Future[Any] | None] = {}
        self._interrupted: dict[int, None] = {}  # in the order in which they came
        _lifecycle.register(self, _lifecycle.Stage.SOURCE)

    def answer(self, operation: str, unique: int, uid: int, gid: int, pid: int, *arguments: Any) -> tuple[int, Any]:
        """Raises nothing but what ends the interpreter."""
        if operation == "interrupt":
            return self._interrupt(arguments[0]), None
        self._running[unique] = None
        try:
            method: Callable[..., Any] = getattr(self, f"_{operation}")
            return 0, method(unique, *arguments)
        except Exception as error:
            return self._errno_of(operation, arguments, error), None
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            return errno.EINTR, None
        finally:
            self._running.pop(unique, None)
            self._interrupted.pop(unique, None)

    def cancel_all(self) -> None:
        """Cancels every coroutine under way: nobody waits for an answer any more. Any thread."""
        for future in list(self._running.values()):
            if future is not None:
                future.cancel()

    def close_at_exit(self) -> None:
        """Ends the event loop's thread, if there is one, for `_lifecycle`."""
        self._loop.stop()

    def _errno_of(self, operation: str, arguments: tuple[Any, ...], error: Exception) -> int:
        number = errno_of(error)
        if number is None:
            where = arguments[0] if arguments else ""
            _log.error("%s(%s) of %s raised", operation, where, type(self._fs).__name__, exc_info=error)
            return errno.EIO
        return number

    def _call(self, unique: int, result: Any) -> Any:
        """What a method gave, once it is there: a coroutine runs in the event loop, where it can be cancelled."""
        if not inspect.isawaitable(result):
            return result
        future = self._loop.submit(_as_coroutine(result))
        self._running[unique] = future
        if unique in self._interrupted:  # marked before the future was there to be cancelled
            future.cancel()
        return future.result()

    def _interrupt(self, unique: int) -> int:
        # The mark first, then the future; a beginning coroutine does it the other way round: one sees the other.
        # A request that has not come yet finds the mark. EAGAIN would not have it said again: the kernel looks for the
        # request on the descriptor that the answer comes by, and another thread with its own may have read it.
        self._interrupted[unique] = None
        future = self._running.get(unique)
        if future is not None:
            future.cancel()
        # Marks of requests that were answered just before stay until as many others have come.
        while len(self._interrupted) > _MOST_MARKS:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread takes one away
                self._interrupted.pop(next(iter(self._interrupted)), None)
        return 0

    def _handle(self, number: int) -> Any:
        return self._handles.get(number)

    # What is there

    def _attributes(self, unique: int, path: str) -> Row:
        return row_of(self._call(unique, self._fs.getattr(PurePosixPath(path))))

    _lookup = _attributes

    def _getattr(self, unique: int, path: str, handle: int) -> Row:
        if handle not in self._handles:
            return self._attributes(unique, path)
        return row_of(self._call(unique, self._fs.getattr_open(PurePosixPath(path), self._handles[handle])))

    def _readdir(self, unique: int, path: str) -> list[tuple[str, int, Row | None]]:
        listing = self._call(unique, self._fs.readdir(PurePosixPath(path)))
        entries: list[tuple[str, int, Row | None]] = [(name, stat.S_IFDIR >> 12, None) for name in (".", "..")]
        for item in listing:
            name, attributes = (item, None) if isinstance(item, str) else item
            if not 0 < len(os.fsencode(name)) <= 255 or "/" in name or "\0" in name:
                raise ValueError(f"readdir gave {name!r}, which is no name: 1 to 255 bytes without / and NUL")
            if name in (".", ".."):
                continue
            row = None if attributes is None else row_of(attributes)
            entries.append((name, 0 if row is None else stat.S_IFMT(row[0]) >> 12, row))
        return entries

    def _readlink(self, unique: int, path: str) -> bytes:
        return os.fsencode(self._call(unique, self._fs.readlink(PurePosixPath(path))))

    def _statfs(self, unique: int, path: str) -> tuple[int, int, int, int, int, int]:
        given = self._call(unique, self._fs.statfs(PurePosixPath(path)))
        if given is None:
            return (4096, 0, 0, 0, 0, 0)
        return (given.f_frsize, given.f_blocks, given.f_bfree, given.f_bavail, given.f_files, given.f_ffree)

    def _access(self, unique: int, path: str, mask: int) -> None:
        self._call(unique, self._fs.access(PurePosixPath(path), mask))

    # Bytes

    def _opendir(self, unique: int, path: str) -> None:
        """Nothing to do: a directory is read as a whole."""

    def _open(self, unique: int, path: str, flags: int, number: int) -> int:
        pure = PurePosixPath(path)
        handle = self._call(unique, self._fs.open(pure, flags & ~os.O_TRUNC))
        self._handles[number] = handle
        if flags & os.O_TRUNC:
            try:
                self._call(unique, self._fs.truncate(pure, 0, handle))
            except BaseException:
                self._release(unique, path, number)
                raise
        return 0

    def _create(self, unique: int, path: str, mode: int, flags: int, number: int) -> Row:
        pure = PurePosixPath(path)
        handle = self._call(unique, self._fs.create(pure, stat.S_IMODE(mode), flags))
        self._handles[number] = handle
        try:
            return row_of(self._call(unique, self._fs.getattr_open(pure, handle)))
        except BaseException:
            self._release(unique, path, number)
            raise

    def _read(self, unique: int, path: str, size: int, offset: int, number: int) -> memoryview:
        given = self._call(unique, self._fs.read(PurePosixPath(path), size, offset, self._handle(number)))
        view = memoryview(given).cast("B")
        if len(view) > size:
            raise ValueError(f"read gave {len(view)} bytes where {size} were asked for")
        return view

    def _write(self, unique: int, path: str, data: bytes, offset: int, number: int) -> int:
        written = self._call(unique, self._fs.write(PurePosixPath(path), data, offset, self._handle(number)))
        if written is None:
            return len(data)
        if not 0 <= written <= len(data):
            raise ValueError(f"write gave {written} where {len(data)} bytes were to be written")
        return int(written)

    def _flush(self, unique: int, path: str, number: int) -> None:
        self._call(unique, self._fs.flush(PurePosixPath(path), self._handle(number)))

    def _fsync(self, unique: int, path: str, data_only: int, number: int) -> None:
        self._call(unique, self._fs.fsync(PurePosixPath(path), bool(data_only), self._handle(number)))

    def _release(self, unique: int, path: str, number: int) -> None:
        if number in self._handles:
            handle = self._handles.pop(number)
            self._call(unique, self._fs.release(PurePosixPath(path or "/"), handle))

    def _fallocate(self, unique: int, path: str, mode: int, offset: int, length: int, number: int) -> None:
        pure = PurePosixPath(path)
        self._call(unique, self._fs.fallocate(pure, mode, offset, length, self._handle(number)))

    def _lseek(self, unique: int, path: str, offset: int, whence: int, number: int) -> int:
        return int(self._call(unique, self._fs.lseek(PurePosixPath(path), offset, whence, self._handle(number))))

    def _copy_file_range(self, *_: Any) -> int:
        raise NotImplementedError  # the kernel reads and writes then

    # Names

    def _made(self, unique: int, path: str, result: Any) -> Row:
        self._call(unique, result)
        return self._attributes(unique, path)

    def _mkdir(self, unique: int, path: str, mode: int) -> Row:
        return self._made(unique, path, self._fs.mkdir(PurePosixPath(path), stat.S_IMODE(mode)))

    def _mknod(self, unique: int, path: str, mode: int, device: int) -> Row:
        number = os.makedev((device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00))
        return self._made(unique, path, self._fs.mknod(PurePosixPath(path), mode, number))

    def _symlink(self, unique: int, path: str, target: str) -> Row:
        return self._made(unique, path, self._fs.symlink(PurePosixPath(path), target))

    def _link(self, unique: int, new_path: str, path: str) -> Row:
        return self._made(unique, new_path, self._fs.link(PurePosixPath(path), PurePosixPath(new_path)))

    def _unlink(self, unique: int, path: str) -> None:
        self._call(unique, self._fs.unlink(PurePosixPath(path)))

    def _rmdir(self, unique: int, path: str) -> None:
        self._call(unique, self._fs.rmdir(PurePosixPath(path)))

    def _rename(self, unique: int, path: str, new_path: str, flags: int) -> None:
        self._call(unique, self._fs.rename(PurePosixPath(path), PurePosixPath(new_path), flags))

    # Attributes

    def _setattr(
        self,
        unique: int,
        path: str,
        number: int,
        valid: int,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        atime_ns: int,
        mtime_ns: int,
    ) -> Row:
        fs, pure = self._fs, PurePosixPath(path)
        if valid & _SIZE:
            self._call(unique, fs.truncate(pure, size, self._handle(number)))
        if valid & (_UID | _GID):
            self._call(unique, fs.chown(pure, uid if valid & _UID else -1, gid if valid & _GID else -1))
        if valid & _MODE:
            self._call(unique, fs.chmod(pure, stat.S_IMODE(mode)))
        # With a new size come times too, which are the file system's to keep or not.
        if valid & (_ATIME | _MTIME) and not valid & _SIZE:
            now = time.time_ns()
            atime = (now if valid & _ATIME_NOW else atime_ns) if valid & _ATIME else None
            mtime = (now if valid & _MTIME_NOW else mtime_ns) if valid & _MTIME else None
            self._call(unique, fs.utimens(pure, atime, mtime))
        return self._getattr(unique, path, number)

    def _getxattr(self, unique: int, path: str, name: str) -> bytes:
        value = bytes(self._call(unique, self._fs.getxattr(PurePosixPath(path), name)))
        if len(value) > _XATTR_MAX:
            raise OSError(errno.E2BIG, "an extended attribute has at most 64 KiB")
        return value

    def _listxattr(self, unique: int, path: str) -> list[str]:
        return list(self._call(unique, self._fs.listxattr(PurePosixPath(path))))

    def _setxattr(self, unique: int, path: str, name: str, value: bytes, flags: int) -> None:
        self._call(unique, self._fs.setxattr(PurePosixPath(path), name, value, flags))

    def _removexattr(self, unique: int, path: str, name: str) -> None:
        self._call(unique, self._fs.removexattr(PurePosixPath(path), name))

    # Mappings

    def _dax_map(
        self, unique: int, path: str, offset: int, length: int, writable: int, token: int
    ) -> tuple[int, int, int]:
        given = self._call(unique, self._fs.dax_map(PurePosixPath(path), offset, length, bool(writable)))
        try:
            if isinstance(given, Lease):
                answer = (given.fd, given.offset, given.length)
            else:
                answer = (given if isinstance(given, int) else given.fileno(), offset, length)
            if not 0 <= answer[0] <= _MAX_FD:
                raise ValueError(f"dax_map gave {answer[0]}, which is no descriptor")
        except BaseException:
            self._call(unique, self._fs.dax_unmap(given))
            raise
        self._leases[token] = given
        return answer

    def _dax_unmap(self, unique: int, token: int) -> None:
        self._call(unique, self._fs.dax_unmap(self._leases.pop(token)))

    # Beginning and end

    def _init(self, unique: int) -> None:
        self._interrupted.clear()
        self._call(unique, self._fs.init())

    def _destroy(self, unique: int) -> None:
        """What the client left open is released as if it had."""
        for number in list(self._handles):
            try:
                self._release(unique, "/", number)
            except Exception as error:  # the others are released all the same
                self._errno_of("release", (), error)
        try:
            self._call(unique, self._fs.destroy())
        finally:
            self._loop.stop()


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable
