"""A layered memory spread over one of so many runs that `LayeredSource` looks places up in its flat table."""

from __future__ import annotations

import random
from collections.abc import Iterable
from uuid import UUID

from vmthaw import _core
from vmthaw.source import LayeredHeader, LayeredMapping

NIL = UUID(int=0)
WIDE = UUID(int=3 << 64 | 3)


def spread(chance: random.Random, header: LayeredHeader, base_size: int) -> tuple[LayeredHeader, LayeredHeader]:
    """A header of the same builds with the pieces of `header` here and there in it, and one of a single build, that
    memory, which gives back what `header` said. Between pieces lie blocks of the base build, of `base_size` bytes, and
    of nothing by turns: a wrong place has wrong bytes.
    """
    block, base = header.block_size, header.base_build
    pieces = _pieces(chance, header)
    filling = _core.LAYERED_FEW_RUNS + 2 * len(pieces) + 2  # a piece may join both of its neighbours
    chance.shuffle(pieces)
    places = sorted(chance.choices(range(filling), k=len(pieces)), reverse=True)
    rows: list[LayeredMapping] = []
    found: list[LayeredMapping] = []
    size = 0
    for number in range(filling):
        while places and places[-1] == number:
            places.pop()
            piece = pieces.pop()
            found.append(LayeredMapping(piece[0].offset, sum(row.length for row in piece), WIDE, size))
            for row in piece:
                rows.append(row._replace(offset=size))
                size += row.length
        storage = chance.randrange(base_size // block) * block if number % 2 else 0
        rows.append(LayeredMapping(size, block, base if number % 2 else NIL, storage))
        size += block
    if runs_of(rows) <= _core.LAYERED_FEW_RUNS:
        raise AssertionError(f"{runs_of(rows)} runs are too few for a table")
    wide = LayeredHeader(
        header.version, block, size, header.generation, header.build, base, tuple(rows), header.builds
    )  # fmt: skip
    narrow = LayeredHeader(3, block, header.size, 0, WIDE, WIDE, tuple(sorted(found)))
    return wide, narrow


def runs_of(rows: Iterable[LayeredMapping]) -> int:
    """How many there are, neighbours whose storage is contiguous being one."""
    count = 0
    last = LayeredMapping(0, 0, WIDE, 0)  # of no header that is asked about
    for row in rows:
        joined = last.build == row.build and (row.build == NIL or last.storage + last.length == row.storage)
        count += not joined
        last = row
    return count


def _pieces(chance: random.Random, header: LayeredHeader) -> list[list[LayeredMapping]]:
    """The memory in pieces of a few blocks, each of one mapping or of parts of several."""
    pieces: list[list[LayeredMapping]] = []
    end = 0
    for row in header.mappings:
        at = row.offset
        while at < row.offset + row.length:
            if at == end:
                end += chance.randrange(1, 17) * header.block_size
                pieces.append([])
            size = min(end, row.offset + row.length) - at
            storage = 0 if row.build == NIL else row.storage + at - row.offset
            pieces[-1].append(LayeredMapping(at, size, row.build, storage))
            at += size
    return pieces
