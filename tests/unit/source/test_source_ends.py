"""What lies behind the last byte of a memory whose size is no multiple of a page: as `FileSource` has it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.range_server import serving
from tests.support.source_ends import HUGE, LAST, PAGE, SIZE, read_or_refusal, same_ends
from vmthaw import CachedSource, FileSource, ObjectStoreSource, PackedSource, PageSource, PythonSource
from vmthaw._snapshot_pack import pack
from vmthaw.errors import ShortReadError, SourceRangeError

CONTENT = os.urandom(SIZE)
Opened = Iterator[PageSource]


def read(offset: int, size: int) -> bytes:
    assert offset + size <= SIZE, "it was asked for what lies behind the end"
    return CONTENT[offset : offset + size]


@contextlib.contextmanager
def python(_file: Path) -> Opened:
    with PythonSource(read, SIZE) as source:
        yield source


@contextlib.contextmanager
def cached(_file: Path) -> Opened:
    with PythonSource(read, SIZE) as far, CachedSource(far, chunk=2 * PAGE) as source:
        yield source


@contextlib.contextmanager
def cached_file(file: Path) -> Opened:
    with FileSource(file) as far, CachedSource(far, chunk=PAGE) as source:
        yield source


@contextlib.contextmanager
def packed(file: Path) -> Opened:
    with FileSource(file) as source:
        pack(source, file.parent / "packed", "one", chunk_bytes=2 * PAGE)
    with PackedSource(file.parent / "packed", "one") as source:
        yield source


@contextlib.contextmanager
def over_http(_file: Path) -> Opened:
    pytest.importorskip("obstore")
    with serving(CONTENT) as server, ObjectStoreSource(server.url, chunk=2 * PAGE) as source:
        yield source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("kind", [python, cached, cached_file, packed, over_http], ids=lambda kind: kind.__name__)
def test_the_rest_of_the_last_page_is_zeros(
    kind: Callable[[Path], contextlib.AbstractContextManager[PageSource]], file: Path
) -> None:
    with FileSource(file) as expected, kind(file) as source:
        same_ends(source, expected)


def test_the_end_is_in_the_cache_as_the_rest_is() -> None:
    asked: list[tuple[int, int]] = []

    def count(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return read(offset, size)

    with PythonSource(count, SIZE) as far, CachedSource(far, chunk=2 * PAGE) as source:
        for _ in range(3):
            assert source.read(LAST, PAGE) == CONTENT[LAST:].ljust(PAGE, b"\0")
    assert len(asked) == 1


def test_a_file_that_must_not_be_short_is_so_behind_a_cache(file: Path) -> None:
    with FileSource(file, short="error") as far, CachedSource(far, chunk=PAGE) as source:
        assert not source.covers(LAST, PAGE)
        with pytest.raises(ShortReadError):
            source.read(LAST, PAGE)
        assert source.read(LAST, SIZE - LAST) == CONTENT[LAST:]


def test_a_memory_of_whole_pages_ends_there() -> None:
    with PythonSource(lambda offset, size: CONTENT[offset : offset + size], LAST) as source:
        assert not source.covers(LAST - PAGE, 2 * PAGE)
        assert source.covers(LAST, 0)
        with pytest.raises(SourceRangeError, match=f"it serves {LAST} bytes"):
            source.read(LAST, PAGE)
        assert source.read(0, HUGE) == CONTENT[:LAST].ljust(HUGE, b"\0")  # a page that begins before the end


def test_zeros_before_the_end_go_on_behind_it() -> None:
    asked: list[tuple[int, int]] = []
    rows = [(0, PAGE, "data"), (PAGE, SIZE - PAGE, "zero")]
    with PythonSource(lambda *range_: asked.append(range_) or b"", SIZE, rows) as source:  # type: ignore[func-returns-value]
        assert source.read(LAST, PAGE) == bytes(PAGE)
    assert asked == []


def test_random_ranges_are_those_of_the_file(file: Path) -> None:
    chance = random.Random(7)
    with FileSource(file) as expected, python(file) as plain, cached(file) as source:
        for _ in range(300):
            offset = chance.randrange(SIZE + 2 * PAGE)
            size = chance.choice([1, 100, PAGE, 2 * PAGE, 8 * PAGE, chance.randrange(1, SIZE)])
            wanted = read_or_refusal(expected, offset, size)
            assert read_or_refusal(plain, offset, size) == wanted, (offset, size)
            assert read_or_refusal(source, offset, size) == wanted, (offset, size)
