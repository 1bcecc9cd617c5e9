"""Exceptions of a file system or a backend that is written in Python, as errnos."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno

# OSError's subclasses that were raised without an errno.
_BY_CLASS: tuple[tuple[type[BaseException], int], ...] = (
    (FileNotFoundError, errno.ENOENT),
    (FileExistsError, errno.EEXIST),
    (PermissionError, errno.EACCES),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
    (InterruptedError, errno.EINTR),
    (BlockingIOError, errno.EAGAIN),
    (TimeoutError, errno.ETIMEDOUT),
    (NotImplementedError, errno.ENOSYS),
    (asyncio.CancelledError, errno.EINTR),
    (concurrent.futures.CancelledError, errno.EINTR),
)


def errno_of(error: BaseException) -> int | None:
    """The errno that `error` means, 1 to 4095; None: it means none, and is the program's own fault."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(number, int) and 0 < number < 4096:
        return number
    return next((known for cls, known in _BY_CLASS if isinstance(error, cls)), None)
