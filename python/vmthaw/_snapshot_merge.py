"""One memory file out of a base and the diffs over it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmthaw._whole_file import whole_file, write_at
from vmthaw.errors import VmthawValueError
from vmthaw.source import ExtentKind, FileSource, PageSource, SparseDiffSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE = 4096
_PIECE_PAGES = 2048
# What copy_file_range(2) answers where it cannot do it: other file systems, old kernels, special files.
_CANNOT = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True)
class Merged:
    """What became of it, in bytes: the memory's size, and how much of it is data in the new file."""

    size: int
    data: int


def merge(
    base: str | os.PathLike[str],
    diffs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    progress: Callable[[int], None] = lambda _done: None,
) -> Merged:
    """Writes the memory that `base` and `diffs` (the oldest first) are together to `out`.

    Each page comes from the newest file that has it; holes of a diff are what is below, zeros are not written. Data is
    copied by copy_file_range(2), which shares it on file systems that can. `out` appears whole or not at all, and may
    be one of the files. `progress` is called with the bytes of the memory that are done. Raises SourceOpenError (a
    file that is missing, or of another size) and OSError.
    """
    paths = [Path(path) for path in (base, *diffs)]
    with SparseDiffSource(FileSource(paths[0]), paths[1:]) as checked:
        size = checked.size
    owners = _owners(paths, size)
    mode = stat.S_IMODE(paths[0].stat().st_mode)
    with contextlib.ExitStack() as opened, whole_file(Path(out)) as descriptor:
        inputs = []
        for path in paths:
            inputs.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            opened.callback(os.close, inputs[-1])
        os.ftruncate(descriptor, size)
        data = 0
        for begin, end, layer in _runs(owners, size):
            if layer >= 0:
                data += _copy(inputs[layer], descriptor, begin, end)
            progress(end)
        os.fchmod(descriptor, mode)
    return Merged(size, data)


def write_whole(source: PageSource, out: str | os.PathLike[str], progress: Callable[[int], None]) -> Merged:
    """Writes the memory that `source` is to `out`, sparse and whole or not at all; `progress` as of `merge`.

    Raises VmthawValueError, OSError, or what reading the source raises.
    """
    if source.start:
        raise VmthawValueError(f"{source.description} begins at {source.start:#x}, not at 0: it cannot be one file")
    with whole_file(Path(out)) as descriptor:
        os.ftruncate(descriptor, source.size)
        data = 0
        for offset, size, kind in source.extents().tolist():
            for begin in range(offset, offset + size, _PIECE_PAGES * PAGE) if kind == ExtentKind.data else ():
                piece = source.read(begin, min(_PIECE_PAGES * PAGE, offset + size - begin))
                for low, high in _data_in(piece):
                    write_at(descriptor, begin + low, memoryview(piece)[low:high])
                    data += high - low
                progress(begin + len(piece))
            progress(offset + size)
    return Merged(source.size, data)


def _data_in(piece: bytes) -> Iterator[tuple[int, int]]:
    """The runs of pages that are not zeros, in bytes."""
    pages = np.frombuffer(piece.ljust(-(-len(piece) // PAGE) * PAGE, b"\0"), np.uint64).reshape(-1, PAGE // 8)
    has_data = np.concatenate(([False], pages.any(axis=1), [False]))
    for first, last in np.flatnonzero(np.diff(has_data)).reshape(-1, 2).tolist():
        yield first * PAGE, min(last * PAGE, len(piece))


def _owners(paths: Sequence[Path], size: int) -> NDArray[np.int16]:
    """The layer that has each page; -1 where no file has data."""
    owners = np.full((size + PAGE - 1) // PAGE, -1, np.int16)
    for layer, path in enumerate(paths):
        with FileSource(path) as source:
            for offset, length, kind in source.extents().tolist():
                if kind == ExtentKind.data:
                    owners[offset // PAGE : (offset + length + PAGE - 1) // PAGE] = layer
    return owners


def _runs(owners: NDArray[np.int16], size: int) -> Iterator[tuple[int, int, int]]:
    """Pieces of one layer, in bytes, at most 8 MiB long."""
    edges = np.flatnonzero(np.diff(owners)) + 1
    for begin, end in zip([0, *edges.tolist()], [*edges.tolist(), len(owners)], strict=True):
        for first in range(begin, end, _PIECE_PAGES):
            last = min(end, first + _PIECE_PAGES)
            yield first * PAGE, min(last * PAGE, size), int(owners[first])


def _copy(source: int, target: int, begin: int, end: int) -> int:
    """Copies what is not zero; how many bytes that is. A file that was cut meanwhile is an OSError."""
    piece = os.pread(source, end - begin, begin)
    if len(piece) != end - begin:
        raise OSError(errno.EIO, f"a file ends at {begin + len(piece):#x}: it was cut while it was read")
    copied = 0
    for low, high in _data_in(piece):
        _share(source, target, begin + low, memoryview(piece)[low:high])
        copied += high - low
    return copied


def _share(source: int, target: int, offset: int, piece: memoryview) -> None:
    done = 0
    while done < len(piece):
        try:
            count = os.copy_file_range(source, target, len(piece) - done, offset + done, offset + done)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            count = 0
        if count == 0:
            count = os.pwrite(target, piece[done:], offset + done)
        done += count
