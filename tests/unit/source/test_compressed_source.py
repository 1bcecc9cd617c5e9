"""`CompressedSource` and `compress_file` as Python sees them, beside readers and writers of others."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmthaw import CompressedSource, ExtentKind, FileSource, PythonSource, compress_file
from vmthaw.errors import ShortReadError, SourceIoError, SourceOpenError, StateError, VmthawValueError
from vmthaw.testing import write_memory_file

PAGE = 4096
PAGES = 300
CODECS = pytest.mark.parametrize("codec", ["zstd", "lz4"])


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """300 pages and a half, of which a third are holes, with a long hole in the middle."""
    path = tmp_path / "memory"
    write_memory_file(path, PAGES * PAGE, zero_share=0.3, seed=21)
    with path.open("r+b") as file:
        file.seek(100 * PAGE)
        file.write(bytes(80 * PAGE))
        file.seek(PAGES * PAGE)
        file.write(random.Random(1).randbytes(PAGE // 2))
    return path


def pack(memory: Path, path: Path, **options: Any) -> dict[str, int]:
    with FileSource(memory) as source:
        return compress_file(source, path, **options)


@pytest.fixture
def packed(memory: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(**options: Any) -> Path:
        path = tmp_path / "packed"
        pack(memory, path, **options)
        return path

    return make


@CODECS
@pytest.mark.parametrize("chunk", [4096, 65536, 4 << 20])
def test_what_was_compressed_comes_back(codec: str, chunk: int, memory: Path, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    calls: list[tuple[int, int]] = []
    result = pack(memory, path, codec=codec, chunk=chunk, progress=lambda done, total: calls.append((done, total)))
    content = memory.read_bytes()
    assert result["bytes"] == len(content)
    assert result["packed_bytes"] == path.stat().st_size
    assert calls[-1] == (len(content), len(content))
    with CompressedSource(path, cache_bytes=1 << 20) as source:
        assert (source.codec, source.size, source.chunks) == (codec, len(content), result["chunks"])
        assert source.read(0, source.size) == content
        rng = random.Random(3)
        for _ in range(100):
            offset = rng.randrange(source.size)
            size = rng.randrange(1, min(9 * PAGE, source.size - offset) + 1)
            assert source.read(offset, size) == content[offset : offset + size]
        zeros = [row for row in source.extents() if row["kind"] == ExtentKind.zero]
        assert all(not any(content[row["offset"] : row["offset"] + row["size"]]) for row in zeros)
        assert result["zero_chunks"] == sum(row["size"] for row in zeros) // source.largest_chunk
        assert source.read(PAGES * PAGE, PAGE) == content[PAGES * PAGE :] + bytes(PAGE // 2)


@CODECS
def test_the_codecs_own_tool_reads_it(codec: str, memory: Path, packed: Callable[..., Path]) -> None:
    if shutil.which(codec) is None:
        pytest.skip(f"needs the tool {codec} (apt-get install {codec})")
    with packed(codec=codec).open("rb") as file:
        tool = subprocess.run([codec, "-dc"], stdin=file, capture_output=True, check=True)
    assert tool.stdout == memory.read_bytes()


def test_another_reader_of_the_seekable_format_agrees(memory: Path, packed: Callable[..., Path]) -> None:
    pyzstd = pytest.importorskip("pyzstd", reason="needs pyzstd (make setup)")
    content = memory.read_bytes()
    with pyzstd.SeekableZstdFile(packed(chunk=16384), "r") as file:
        for page in (250, 3, 299, 100):
            file.seek(page * PAGE)
            assert file.read(PAGE) == content[page * PAGE : (page + 1) * PAGE]


def test_what_another_writer_of_the_seekable_format_wrote_is_read(memory: Path, tmp_path: Path) -> None:
    pyzstd = pytest.importorskip("pyzstd", reason="needs pyzstd (make setup)")
    content = memory.read_bytes()
    path = tmp_path / "foreign"
    with pyzstd.SeekableZstdFile(path, "w", max_frame_content_size=65536) as file:
        file.write(content)
    with CompressedSource(path) as source:
        assert source.codec == "zstd"
        assert source.read(0, source.size) == content
        assert source.extent_at(112 * PAGE, PAGE)[2] is ExtentKind.zero


def test_what_another_writer_of_lz4_frames_wrote_is_read(memory: Path, tmp_path: Path) -> None:
    lz4 = pytest.importorskip("lz4.frame", reason="needs lz4 (make setup)")
    content = memory.read_bytes()
    path = tmp_path / "foreign"
    with path.open("wb") as file:
        for start in range(0, len(content), 1 << 17):
            file.write(lz4.compress(content[start : start + (1 << 17)], block_linked=True, block_checksum=True))
    with CompressedSource(path) as source:
        assert source.codec == "lz4"
        assert source.read(0, source.size) == content


def test_a_file_of_another_kind_is_refused_with_the_way_out(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(random.Random(2).randbytes(10000))
    with pytest.raises(SourceOpenError, match="compress_file") as caught:
        CompressedSource(plain)
    assert caught.value.field == "seek_table.magic"
    assert caught.value.path == str(plain)
    with pytest.raises(SourceOpenError):
        CompressedSource(tmp_path / "missing")


@CODECS
def test_damage_is_named_and_stays_where_it_is(codec: str, memory: Path, packed: Callable[..., Path]) -> None:
    path = packed(codec=codec, chunk=4096)
    content = memory.read_bytes()
    damaged = bytearray(path.read_bytes())
    for place in range(2000, len(damaged) - 8000, 20000):
        damaged[place] ^= 0x10
    path.write_bytes(damaged)
    with CompressedSource(path) as source:
        failures: list[SourceIoError] = []
        for page in range(PAGES):
            try:
                data = source.read(page * PAGE, PAGE)
            except SourceIoError as error:
                failures.append(error)
            else:
                assert data == content[page * PAGE : (page + 1) * PAGE]
        assert 0 < len(failures) <= len(damaged) // 20000
        assert {error.errno for error in failures} == {errno.EBADMSG}
        assert "chunk " in str(failures[0])
        assert "take another copy of the file, or compress the memory anew" in str(failures[0])


def test_a_file_that_was_cut_is_a_short_read(packed: Callable[..., Path]) -> None:
    path = packed(chunk=4096)
    with CompressedSource(path) as source, path.open("r+b") as file:
        assert source.still_whole()
        file.truncate(5000)
        assert not source.still_whole()
        with pytest.raises(ShortReadError):
            source.read(0, PAGE)


def test_a_closed_source_says_so(packed: Callable[..., Path]) -> None:
    with CompressedSource(packed()) as source:
        assert repr(source).startswith("<CompressedSource compressed:")
    with pytest.raises(StateError):
        source.read(0, PAGE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "gzip"}, "codec must be"),
        ({"chunk": 5000}, "power of two"),
        ({"chunk": 8 << 20}, "power of two"),
        ({"level": 99}, "level is 99"),
        ({"threads": 1000}, "threads is 1000"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(
    options: dict[str, Any], message: str, memory: Path, tmp_path: Path
) -> None:
    with pytest.raises(VmthawValueError, match=message):
        pack(memory, tmp_path / "packed", **options)
    assert not (tmp_path / "packed").exists()


def test_a_failure_leaves_nothing_behind_and_what_was_there_alone(memory: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "packed"
    target.parent.mkdir()
    target.write_bytes(b"before")

    def fails(done: int, total: int) -> None:
        raise RuntimeError("enough")

    def reads(offset: int, size: int) -> bytes:
        if offset > 40 * PAGE:
            raise OSError(errno.EIO, "gone")
        return bytes([1]) * size

    with pytest.raises(RuntimeError, match="enough"):
        pack(memory, target, progress=fails)
    with PythonSource(reads, 100 * PAGE) as source, pytest.raises(SourceIoError):
        compress_file(source, target, chunk=PAGE)
    assert target.read_bytes() == b"before"
    assert list(target.parent.iterdir()) == [target]


def test_many_readers_decompress_a_chunk_once(memory: Path, packed: Callable[..., Path]) -> None:
    content = memory.read_bytes()
    with CompressedSource(packed(chunk=4 << 20)) as source:
        threads = [
            threading.Thread(target=lambda page=page: results.append((page, source.read(page * PAGE, PAGE))))
            for page in range(0, 100, 7)
        ]
        results: list[tuple[int, bytes]] = []
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == len(threads)
        assert all(data == content[page * PAGE : (page + 1) * PAGE] for page, data in results)
        assert source.cache_stats()["loads"] == 1


@CODECS
def test_frames_that_are_as_small_as_those_of_zeros_are_looked_into(codec: str, tmp_path: Path) -> None:
    content = bytes(8 * PAGE) + b"\1" * (8 * PAGE) + bytes(8 * PAGE)
    (tmp_path / "memory").write_bytes(content)
    pack(tmp_path / "memory", tmp_path / "packed", codec=codec, chunk=4 * PAGE)
    with CompressedSource(tmp_path / "packed") as source:
        assert [int(row["size"]) // PAGE for row in source.extents()] == [8, 8, 8]
        assert source.read(0, source.size) == content
