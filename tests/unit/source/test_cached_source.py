"""`CachedSource`: chunks of a far source in memory and on disk."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmthaw import CachedSource, PythonSource
from vmthaw.errors import SourceIoError, SourceRangeError, StateError, VmthawError, VmthawValueError

PAGE = 4096
CHUNK = 4 * PAGE
SIZE = 16 * CHUNK + PAGE
CONTENT = os.urandom(SIZE)


class Far:
    """Counts what it is asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []

    def __call__(self, offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        return self.content[offset : offset + size]


OpenCache = Callable[..., CachedSource]


@pytest.fixture
def open_cache() -> Iterator[OpenCache]:
    """Makes caches over a callable; all are closed when the test ends."""
    opened: list[tuple[CachedSource, PythonSource]] = []

    def open_it(read: Callable[[int, int], bytes], *, extents: Any = None, **options: Any) -> CachedSource:
        far = PythonSource(read, SIZE, extents, 4)
        source = CachedSource(far, **{"chunk": CHUNK, **options})
        opened.append((source, far))
        return source

    yield open_it
    for source, far in opened:
        source.close()
        far.close()


def test_a_chunk_is_fetched_once_for_all_its_pages(open_cache: OpenCache) -> None:
    far = Far()
    source = open_cache(far)
    for page in (5, 4, 7, 6):
        assert source.read(page * PAGE, PAGE) == CONTENT[page * PAGE : (page + 1) * PAGE]
    assert far.asked == [(CHUNK, CHUNK)]
    assert (source.cache_stats["loads"], source.cache_stats["hits"]) == (1, 3)


def test_many_readers_of_one_chunk_wait_for_one_fetch(open_cache: OpenCache) -> None:
    far, go = Far(), threading.Event()

    def read(offset: int, size: int) -> bytes:
        assert go.wait(30)
        return far(offset, size)

    source = open_cache(read)
    got: list[bytes] = []
    readers = [threading.Thread(target=lambda: got.append(source.read(0, PAGE))) for _ in range(8)]
    for reader in readers:
        reader.start()
    go.set()
    for reader in readers:
        reader.join(30)
    assert got == [CONTENT[:PAGE]] * 8
    assert far.asked == [(0, CHUNK)]


@pytest.mark.parametrize(("offset", "size"), [(PAGE, 3 * CHUNK), (0, SIZE), (SIZE - PAGE, PAGE), (17, 5000)])
def test_ranges_over_chunks_and_at_the_end_are_whole(open_cache: OpenCache, offset: int, size: int) -> None:
    assert open_cache(Far()).read(offset, size) == CONTENT[offset : offset + size]


def test_zeros_are_never_fetched(open_cache: OpenCache) -> None:
    data = bytes(2 * CHUNK) + CONTENT[2 * CHUNK :]
    far = Far(data)
    source = open_cache(far, extents=[(0, 2 * CHUNK, "zero"), (2 * CHUNK, SIZE - 2 * CHUNK, "data")])
    assert source.read(0, 2 * CHUNK + PAGE) == data[: 2 * CHUNK + PAGE]
    assert far.asked == [(2 * CHUNK, CHUNK)]
    assert source.ready(0, CHUNK)


def test_memory_is_bounded_and_what_went_is_fetched_again(open_cache: OpenCache) -> None:
    far = Far()
    source = open_cache(far, memory=4 * CHUNK)
    for _ in range(2):
        assert source.read(0, SIZE) == CONTENT
    assert len(far.asked) > 17
    assert source.cache_stats["evictions"] > 0


def test_a_failed_fetch_is_an_error_once_and_tried_again_by_the_next(open_cache: OpenCache) -> None:
    far = Far()
    failing = [True]

    def read(offset: int, size: int) -> bytes:
        if failing.pop() if failing else False:
            raise OSError(errno.EREMOTEIO, "far away")
        return far(offset, size)

    source = open_cache(read)
    with pytest.raises(SourceIoError) as caught:
        source.read(0, PAGE)
    assert caught.value.errno == errno.EREMOTEIO
    assert source.read(0, PAGE) == CONTENT[:PAGE]


def test_closing_ends_readers_and_closes_the_source(open_cache: OpenCache) -> None:
    entered = threading.Event()
    never = threading.Event()

    def read(_offset: int, _size: int) -> bytes:
        entered.set()
        never.wait(30)
        return b""

    source = open_cache(read)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            source.read(0, PAGE)
        except VmthawError as error:
            raised.append(error)

    reader = threading.Thread(target=ask)
    reader.start()
    assert entered.wait(30)
    source.close()
    reader.join(30)
    never.set()
    assert isinstance(raised[0], StateError)
    assert source.closed


def test_ranges_outside_are_refused(open_cache: OpenCache) -> None:
    with pytest.raises(SourceRangeError):
        open_cache(Far()).read(SIZE, 1)


@pytest.mark.parametrize("chunk", [0, 1000, 3 * PAGE, 128 << 20])
def test_chunks_that_cannot_be_are_refused(open_cache: OpenCache, chunk: int) -> None:
    with pytest.raises(VmthawValueError, match="a chunk is a power of two"):
        open_cache(Far(), chunk=chunk)


def test_a_disk_cache_needs_to_know_whose_bytes_they_are(open_cache: OpenCache, tmp_path: Path) -> None:
    with pytest.raises(VmthawValueError, match="identity"):
        open_cache(Far(), disk=tmp_path)


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_the_disk_serves_the_next_source_without_a_fetch(open_cache: OpenCache, tmp_path: Path) -> None:
    open_cache(Far(), disk=tmp_path, identity="vm 1").read(0, SIZE)
    far = Far()
    second = open_cache(far, disk=tmp_path, identity="vm 1")
    assert second.read(0, SIZE) == CONTENT
    assert far.asked == []
    assert second.cache_stats["disk_hits"] == 17


def test_the_disk_never_gives_another_identitys_bytes(open_cache: OpenCache, tmp_path: Path) -> None:
    open_cache(Far(), disk=tmp_path, identity="vm 1").read(0, PAGE)
    other = Far(os.urandom(SIZE))
    assert open_cache(other, disk=tmp_path, identity="vm 2").read(0, PAGE) == other.content[:PAGE]
    # Not even when its files are put there.
    first, second = (directory for directory in sorted(tmp_path.iterdir()))
    (second / files_in(second)[0].name).write_bytes(files_in(first)[0].read_bytes())
    for identity, content in (("vm 1", CONTENT), ("vm 2", other.content)):
        assert open_cache(Far(content), disk=tmp_path, identity=identity).read(0, PAGE) == content[:PAGE]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda path: os.truncate(path, 100),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.rename(path.with_name(f"{1:016x}")),
    ],
)
def test_a_damaged_chunk_on_disk_is_noticed_and_fetched_again(
    open_cache: OpenCache, tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    open_cache(Far(), disk=tmp_path, identity="vm 1").read(0, PAGE)
    damage(files_in(tmp_path)[0])
    far = Far()
    source = open_cache(far, disk=tmp_path, identity="vm 1")
    assert source.read(0, 2 * CHUNK) == CONTENT[: 2 * CHUNK]
    assert source.cache_stats["disk_damaged"] == 1
    assert (0, CHUNK) in far.asked


def test_the_disk_is_bounded_and_loses_what_was_used_longest_ago(open_cache: OpenCache, tmp_path: Path) -> None:
    room = 8 * (CHUNK + 8)
    source = open_cache(Far(), disk=tmp_path, identity="vm 1", disk_size=room, memory=0)
    for chunk in range(16):
        source.read(chunk * CHUNK, CHUNK)
        assert sum(path.stat().st_size for path in files_in(tmp_path)) <= room
        for path in files_in(tmp_path):  # what was used longest ago, by more than the clock's grain
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
    assert f"{15:016x}" in [path.name for path in files_in(tmp_path)]
    assert f"{0:016x}" not in [path.name for path in files_in(tmp_path)]
    assert source.cache_stats["disk_evictions"] > 0


def test_a_half_written_chunk_of_a_killed_process_is_never_read(open_cache: OpenCache, tmp_path: Path) -> None:
    open_cache(Far(), disk=tmp_path, identity="vm 1").read(0, PAGE)
    kept = files_in(tmp_path)[0]
    kept.rename(kept.with_name(kept.name + ".1-0.part"))
    far = Far()
    assert open_cache(far, disk=tmp_path, identity="vm 1").read(0, PAGE) == CONTENT[:PAGE]
    assert far.asked == [(0, CHUNK)]


def test_a_disk_that_fills_up_costs_the_cache_and_not_the_read(open_cache: OpenCache, tmp_path: Path) -> None:
    source = open_cache(Far(), disk=tmp_path, identity="vm 1")
    for directory in tmp_path.iterdir():
        directory.rmdir()
    assert source.read(0, SIZE) == CONTENT
    assert source.cache_stats["disk_failures"] == 17


def test_a_directory_that_cannot_be_is_refused(open_cache: OpenCache, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="the disk cache"):
        open_cache(Far(), disk=tmp_path / "file", identity="vm 1")
