"""Reads round the end of a memory whose size is no multiple of a page, held against those of a file."""

from __future__ import annotations

from vmthaw import PageSource
from vmthaw.errors import SourceRangeError

PAGE = 4096
HUGE = 2 << 20
LAST = 13 * PAGE  # where the last page begins
SIZE = LAST + 123

_RANGES = [
    (LAST, PAGE), (LAST, PAGE - 1), (LAST, SIZE - LAST), (LAST, SIZE - LAST + 1), (LAST + 100, 23), (LAST + 100, 24),
    (LAST - PAGE, 2 * PAGE), (LAST - 2 * PAGE, 3 * PAGE), (0, LAST + PAGE), (0, HUGE), (SIZE, 0), (SIZE, 1),
    (SIZE + 50, 10), (LAST + PAGE, PAGE), (LAST, 3 * PAGE), (0, 2 * HUGE), (LAST + PAGE, 0),
]  # fmt: skip


def read_or_refusal(source: PageSource, offset: int, size: int) -> bytes | type[Exception]:
    try:
        return source.read(offset, size)
    except SourceRangeError:
        return SourceRangeError


def same_ends(source: PageSource, expected: PageSource) -> None:
    """Asserts that `source` gives and refuses what `expected` does, and promises the pages that a guest may have."""
    assert source.size == expected.size == SIZE
    for offset, size in _RANGES:
        assert read_or_refusal(source, offset, size) == read_or_refusal(expected, offset, size), (offset, size)
    for offset, size in ((0, LAST + PAGE), (LAST, PAGE), (LAST, 2 * PAGE), (LAST + PAGE, PAGE)):
        assert source.covers(offset, size) == expected.covers(offset, size), (offset, size)
    assert sum(size for _, size, _ in source.extents().tolist()) == SIZE
