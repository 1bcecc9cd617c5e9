"""The demo's memory in layers: as diffs over a base, and as builds under a header. What lies below what was rewritten
is never what the guest expects, so that a reader who takes the wrong layer is found out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from vmthaw import _core
from vmthaw.source import Codec, LayeredBuild, LayeredFrame, LayeredHeader, LayeredMapping

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAGE_BYTES = 4096
_RUN_PAGES = 8
_PIECE_PAGES = 2048
_FRAME_PAGES = 16
_NIL = UUID(int=0)
BUILDS = tuple(UUID(int=number << 64 | 0xDE70) for number in (1, 2, 3))

if TYPE_CHECKING:
    Words = NDArray[np.uint64]
    Owners = NDArray[np.int8]


def _pages(memory: Path) -> Words:
    """A row of words for each page, read when it is looked at."""
    return np.memmap(memory, np.uint64, "r").reshape(-1, _PAGE_BYTES // 8)


def _owners(count: int) -> Owners:
    """0 to 2: which of three generations wrote a page last. Each has runs of eight pages, everywhere."""
    run = np.arange(count) // _RUN_PAGES
    return np.where(run % 5 == 0, 1, np.where(run % 7 == 0, 2, 0)).astype(np.int8)


def _runs(values: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """[begin, end) of equal values, at most 8 MiB of pages long."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for begin, end in itertools.pairwise(edges):
        for first in range(begin, end, _PIECE_PAGES):
            yield first, min(end, first + _PIECE_PAGES)


def write_diffs(memory: Path, base: Path, diffs: Sequence[Path]) -> None:
    """Writes a base and two diffs over it; zeros that a diff has are data full of zeros there. Raises OSError."""
    pages = _pages(memory)
    owners = _owners(len(pages))
    written = pages.any(axis=1) | (owners > 0)
    for layer, path in enumerate((base, *diffs)):
        # What a later one rewrites is other bytes below: in the base all of it, in the first diff some.
        rewritten = owners > layer
        if layer:
            rewritten &= np.arange(len(pages)) // _RUN_PAGES % 2 == 0
        chosen = np.where(owners == layer, 1, np.where(rewritten, 2, 0)) * written
        with path.open("xb") as file:
            file.truncate(len(pages) * _PAGE_BYTES)
            for begin, end in _runs(chosen):
                if chosen[begin]:
                    file.seek(begin * _PAGE_BYTES)
                    file.write((pages[begin:end] if chosen[begin] == 1 else ~pages[begin:end]).tobytes())


def write_layers(memory: Path, header: Path, folder: Path) -> None:
    """Writes three builds, the second of them compressed, each named by its UUID, and the header (version 5) over them.
    Raises OSError."""
    pages = _pages(memory)
    owners = _owners(len(pages))
    has_data: NDArray[np.bool_] = np.asarray(pages.any(axis=1))
    # The first generation wrote all that has data; of the others a build has its own pages alone.
    members = [has_data, *(has_data & (owners == number) for number in (1, 2))]
    slots = [np.cumsum(member) - 1 for member in members]
    frames: list[LayeredFrame] = []
    for number, build in enumerate(BUILDS):
        with (folder / str(build)).open("xb") as file:
            numbers = np.flatnonzero(members[number])
            step = _FRAME_PAGES if number == 1 else _PIECE_PAGES
            for first in range(0, len(numbers), step):
                chosen = numbers[first : first + step]
                old = (owners[chosen] != number)[:, np.newaxis]
                data = np.where(old, ~pages[chosen], pages[chosen]).tobytes()
                if number == 1:
                    packed = _core.compress_frame(data, int(Codec.zstd))
                    frames.append(LayeredFrame(first * _PAGE_BYTES, file.tell(), len(data), len(packed)))
                    data = packed
                file.write(data)
    rows: list[LayeredMapping] = []
    for begin, end in _runs(np.where(has_data, owners, -1)):
        offset, length = begin * _PAGE_BYTES, (end - begin) * _PAGE_BYTES
        if not has_data[begin]:
            rows.append(LayeredMapping(offset, length, _NIL, 0))
        else:
            number = int(owners[begin])
            rows.append(LayeredMapping(offset, length, BUILDS[number], int(slots[number][begin]) * _PAGE_BYTES))
    compressed = LayeredBuild(BUILDS[1], len(frames) and frames[-1].start + frames[-1].size, codec=Codec.zstd,
                              frames=tuple(frames))  # fmt: skip
    builds = (LayeredBuild(BUILDS[0]), compressed, LayeredBuild(BUILDS[2]))
    made = LayeredHeader(5, _PAGE_BYTES, len(pages) * _PAGE_BYTES, 2, BUILDS[2], BUILDS[0], tuple(rows), builds)
    header.write_bytes(made.write())
