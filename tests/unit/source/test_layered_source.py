"""Layered memory: every byte comes from the build that the header names, whatever the sizes."""

from __future__ import annotations

import dataclasses
import errno
import random
import threading
from pathlib import Path
from uuid import UUID

import pytest

import vmthaw
from tests.support.layers import NIL, PAGE, Stack, page_of, random_stack, uuid_of
from vmthaw import _core
from vmthaw.errors import LayeredHeaderError, SourceIoError, SourceOpenError, SourceRangeError, StateError
from vmthaw.source import Codec, ExtentKind, FileSource, LayeredHeader, LayeredMapping, LayeredSource, PythonSource

ONE, TWO = uuid_of(1), uuid_of(2)


@pytest.mark.parametrize("seed", range(12))
def test_any_range_of_a_random_stack_is_what_the_model_says(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    stack = random_stack(seed, pages=chance.randrange(3, 90), generations=chance.randrange(1, 12))
    codecs = {number: chance.choice(list(Codec)) for number in stack.builds}
    builds = stack.store(tmp_path, codecs, frame_pages=chance.randrange(1, 6))
    version = 5 if any(codecs.values()) else chance.randrange(1, 6)
    memory = stack.memory()
    cache_bytes = chance.choice([1, 5 * PAGE, 1 << 20])
    with LayeredSource(stack.header(version).write(), builds, cache_bytes=cache_bytes) as source:
        assert source.size == len(memory)
        assert source.read(0, len(memory)) == memory
        for _ in range(200):
            offset = chance.randrange(len(memory))
            size = chance.randrange(1, len(memory) - offset + 1)
            assert source.read(offset, size) == memory[offset : offset + size]
        for offset, size, kind in source.extents().tolist():
            if kind == ExtentKind.zero:
                assert not any(memory[offset : offset + size])
        for page, (number, slot) in enumerate(stack.owner):
            build, storage, remaining = source.resolve(page * PAGE + 1)
            assert (build, storage) == (uuid_of(number), slot * PAGE + 1 if number else 0)
            assert remaining >= PAGE - 1


def test_a_huge_page_over_small_blocks_is_put_together_block_by_block(tmp_path: Path) -> None:
    stack = Stack(1024)
    stack.write(1, list(range(1024)))
    stack.write(2, list(range(0, 1024, 3)), zeros=list(range(1, 1024, 9)))
    with LayeredSource(stack.header(), stack.store(tmp_path)) as source:
        for at in (0, 2 << 20):
            assert source.read(at, 2 << 20) == stack.memory()[at : at + (2 << 20)]


def test_a_page_that_became_zero_stays_zero_and_is_never_read(tmp_path: Path) -> None:
    stack = Stack(4)
    stack.write(1, [0, 1, 2, 3])
    stack.write(2, [3], zeros=[1, 2])
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return stack.builds[1][offset : offset + size]

    base = PythonSource(read, 4 * PAGE)
    with LayeredSource(stack.header(), {**stack.store(tmp_path), ONE: base}) as source:
        assert source.read(0, 4 * PAGE) == stack.memory()
        assert source.extent_at(PAGE, 4 * PAGE) == (PAGE, 2 * PAGE, ExtentKind.zero)
        assert source.ready(PAGE, 2 * PAGE)
        assert asked == [(0, PAGE)]


def test_neighbours_of_one_build_are_one_run_only_where_their_storage_is_contiguous(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"".join(page_of(1, page) for page in range(4)))
    rows = [(0, 0), (1, 1), (2, 3), (3, 2)]
    mappings = tuple(LayeredMapping(page * PAGE, PAGE, ONE, slot * PAGE) for page, slot in rows)
    header = LayeredHeader(5, PAGE, 4 * PAGE, 0, ONE, ONE, mappings)
    with LayeredSource(header, {ONE: tmp_path / "one"}) as source:
        assert [source.resolve(page * PAGE)[2] for page in range(4)] == [2 * PAGE, PAGE, PAGE, PAGE]
        assert source.read(PAGE, 3 * PAGE) == page_of(1, 1) + page_of(1, 3) + page_of(1, 2)


def test_a_thousand_generations_work(tmp_path: Path) -> None:
    stack = random_stack(5, pages=300, generations=1000)
    source = LayeredSource(stack.header(), stack.store(tmp_path))
    assert source.read(0, 300 * PAGE) == stack.memory()
    assert source.still_whole()
    source.close()


def test_the_rest_of_the_last_page_is_zeros(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(page_of(1, 0)[:100])
    header = LayeredHeader(3, PAGE, 100, 0, ONE, ONE, (LayeredMapping(0, PAGE, ONE, 0),))
    with LayeredSource(header, {ONE: tmp_path / "one"}) as source:
        assert source.read(0, PAGE) == page_of(1, 0)[:100] + bytes(PAGE - 100)
        assert source.read(0, 2 << 20) == page_of(1, 0)[:100] + bytes((2 << 20) - 100)
        assert source.covers(0, PAGE)
        assert not source.covers(0, PAGE + 1)
        with pytest.raises(SourceRangeError):
            source.read(PAGE, PAGE)
        with pytest.raises(SourceRangeError):
            source.resolve(100)


def test_a_missing_build_is_named_with_what_it_has(tmp_path: Path) -> None:
    stack = Stack(4)
    stack.write(1, [0, 1, 2, 3])
    stack.write(2, [1, 2])
    builds = stack.store(tmp_path)
    del builds[TWO]
    with pytest.raises(SourceOpenError, match=rf"build {TWO}, which has 8192 bytes .*first at 0x1000.* is missing"):
        LayeredSource(stack.header(), builds)


def test_a_short_build_is_named_with_its_file(tmp_path: Path) -> None:
    stack = Stack(4)
    stack.write(1, [0, 1, 2, 3])
    builds = stack.store(tmp_path)
    builds[ONE].write_bytes(bytes(4 * PAGE - 1))
    said = rf"build {ONE}.* is short: file:{builds[ONE]} has 16383 .* as 16384"
    with pytest.raises(SourceOpenError, match=said) as caught:
        LayeredSource(stack.header(), builds)
    assert str(builds[ONE]) in caught.value.path


def test_a_build_that_cannot_be_opened_is_named_and_the_others_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(4)
    stack.write(1, [0, 1, 2, 3])
    stack.write(2, [1, 2])
    builds = stack.store(tmp_path)
    builds[TWO].unlink()
    opened: list[FileSource] = []

    def open_file(path: Path, mode: str) -> FileSource:
        opened.append(FileSource(path, mode=mode))
        return opened[-1]

    monkeypatch.setattr("vmthaw.source._layered_source.FileSource", open_file)
    with pytest.raises(SourceOpenError, match=f"build {TWO}") as caught:
        LayeredSource(stack.header(), builds)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.path == str(builds[TWO])
    assert [source.closed for source in opened] == [True]


def test_a_wrong_header_opens_nothing() -> None:
    with pytest.raises(LayeredHeaderError):
        LayeredSource(b"x" * 64, {})


class Stubborn(PythonSource):
    def close(self) -> None:
        super().close()
        raise OSError(f"{self.description} does not want to")


def test_close_closes_all_and_raises_what_failed(tmp_path: Path) -> None:
    stack = Stack(3)
    for number in (1, 2, 3):
        stack.write(number, [number - 1])
    layers = {uuid_of(number): Stubborn(lambda _, size: bytes(size), PAGE, name=f"{number}") for number in (1, 2)}
    files = stack.store(tmp_path)
    third = FileSource(files[uuid_of(3)])
    source = LayeredSource(stack.header(), {**layers, uuid_of(3): third})
    with pytest.raises(ExceptionGroup) as caught:
        source.close()
    assert [str(error) for error in caught.value.exceptions] == [f"python:{n} does not want to" for n in (1, 2)]
    assert third.closed
    assert source.closed
    source.close()
    with pytest.raises(StateError):
        source.read(0, 1)


def test_a_build_that_fails_later_is_named(tmp_path: Path) -> None:
    stack = Stack(2)
    stack.write(1, [0, 1])
    builds = stack.store(tmp_path)
    with LayeredSource(stack.header(), builds) as source:
        builds[ONE].write_bytes(bytes(PAGE))
        with pytest.raises(vmthaw.errors.ShortReadError, match=rf"at 0x1000 of build {ONE} \(file:{builds[ONE]}\)"):
            source.read(PAGE, PAGE)
        assert not source.still_whole()


@pytest.mark.parametrize("codec", [Codec.zstd, Codec.lz4])
def test_a_frame_is_decompressed_once_for_all_who_wait(tmp_path: Path, codec: Codec) -> None:
    stack = Stack(64)
    stack.write(1, list(range(64)))
    path = stack.store(tmp_path, {1: codec}, frame_pages=64)[ONE]
    packed = path.read_bytes()
    threads = 8
    meet = threading.Barrier(threads + 1, timeout=30)
    reads: list[int] = []

    def slow(offset: int, size: int) -> bytes:
        reads.append(offset)
        meet.wait()
        return packed[offset : offset + size]

    got: dict[int, bytes] = {}
    with LayeredSource(stack.header(), {ONE: PythonSource(slow, len(packed))}) as source:

        def read(page: int) -> None:
            if page:
                meet.wait()  # the first one is in the middle of it
            got[page] = source.read(page * PAGE, PAGE)

        readers = [threading.Thread(target=read, args=(page,)) for page in range(threads + 1)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout=30)
        assert got == {page: page_of(1, page) for page in range(threads + 1)}
        assert reads == [0]
        assert source.decompressed_frames == 1
        assert source.cached_bytes == 64 * PAGE
        assert not source.ready(0, PAGE)


def test_the_cache_keeps_to_its_bound(tmp_path: Path) -> None:
    stack = Stack(40)
    stack.write(1, list(range(40)))
    builds = stack.store(tmp_path, {1: Codec.zstd}, frame_pages=2)
    with LayeredSource(stack.header(), builds, cache_bytes=5 * PAGE) as source:
        for _ in range(2):
            assert source.read(0, 40 * PAGE) == stack.memory()
        assert source.cached_bytes == 4 * PAGE
        assert source.decompressed_frames == 40
        source.read(38 * PAGE, PAGE)
        assert source.decompressed_frames == 40


@pytest.mark.parametrize("codec", [Codec.zstd, Codec.lz4])
def test_a_damaged_frame_is_an_error_of_its_own_pages_alone(tmp_path: Path, codec: Codec) -> None:
    stack = Stack(8)
    stack.write(1, list(range(8)))
    builds = stack.store(tmp_path, {1: codec})
    data = bytearray(builds[ONE].read_bytes())
    data[-20] ^= 0xFF
    builds[ONE].write_bytes(data)
    with LayeredSource(stack.header(), builds) as source:
        assert source.read(0, 4 * PAGE) == stack.memory()[: 4 * PAGE]
        for _ in range(2):
            with pytest.raises(SourceIoError, match=f"of build {ONE}") as caught:
                source.read(7 * PAGE, PAGE)
            assert caught.value.errno == errno.EBADMSG


def test_a_compressed_build_that_is_cut_is_refused_at_open(tmp_path: Path) -> None:
    stack = Stack(8)
    stack.write(1, list(range(8)))
    builds = stack.store(tmp_path, {1: Codec.lz4})
    builds[ONE].write_bytes(builds[ONE].read_bytes()[:-1])
    with pytest.raises(SourceOpenError, match=rf"build {ONE}.*short.*of the compressed file"):
        LayeredSource(stack.header(), builds)


def test_builds_that_no_mapping_uses_are_left_alone(tmp_path: Path) -> None:
    stack = Stack(2)
    stack.write(1, [0, 1])
    stack.write(2, [0, 1])
    builds = {**stack.store(tmp_path), ONE: tmp_path / "nowhere", UUID(int=9): tmp_path / "nowhere"}
    with LayeredSource(stack.header(), builds) as source:
        assert source.layer_count == 1


def test_block_sizes_below_a_page_work(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(8 * 512)
    (tmp_path / "one").write_bytes(data)
    rows = [(i, ONE, (7 - i) * 512) if i % 3 else (i, NIL, 0) for i in range(8)]
    mappings = tuple(LayeredMapping(i * 512, 512, build, storage) for i, build, storage in rows)
    with LayeredSource(LayeredHeader(3, 512, 4096, 0, ONE, ONE, mappings), {ONE: tmp_path / "one"}) as source:
        expected = b"".join(data[(7 - i) * 512 : (8 - i) * 512] if i % 3 else bytes(512) for i in range(8))
        assert source.read(0, 4096) == expected


def test_a_header_as_path_and_as_value_are_the_same(tmp_path: Path) -> None:
    stack = Stack(2)
    stack.write(1, [0])
    builds = stack.store(tmp_path)
    (tmp_path / "header").write_bytes(stack.header().write())
    for header in (tmp_path / "header", str(tmp_path / "header"), stack.header(), stack.header().write(4)):
        with LayeredSource(header, builds) as source:
            assert source.read(0, 2 * PAGE) == stack.memory()
    assert dataclasses.replace(stack.header(), version=4).version == 4


def test_the_lookup_benchmark_measures_something() -> None:
    stack = random_stack(3, pages=500, generations=9)
    for table in (True, False):
        lookup_ns, load_ns = _core.layered_lookup_ns(stack.header().core(), table, 1000)
        assert lookup_ns > 0
        assert load_ns > 0
