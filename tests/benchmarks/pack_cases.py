"""Packing beside `zstd -3` over the pages that are not zeros, and reading what was compressed beside the memory file.

The memory is what a guest's is made of: programs and libraries of this machine, between zeros. All of it lies in
tmpfs: what a disk costs is not ours to measure.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.bench import Bench, Case, Sample
from vmthaw import CompressedSource, FileSource, compress_file
from vmthaw._snapshot_pack import pack

PAGE = 4096
_DATA_BYTES = 64 << 20
_RUN_PAGES = 64
_PLACES = ("/usr/lib", "/usr/bin")


@functools.cache
def _programs() -> bytes:
    """64 MiB of this machine's libraries and programs, the largest first, without their pages of zeros."""
    files = {path for place in _PLACES for path in Path(place).rglob("*") if path.is_file() and not path.is_symlink()}
    data = bytearray()
    for path in sorted(files, key=lambda path: (-path.stat().st_size, path)):
        content = path.read_bytes()
        for start in range(0, len(content) - PAGE, PAGE):
            page = content[start : start + PAGE]
            if any(page):
                data += page
        if len(data) >= _DATA_BYTES:
            break
    return bytes(data[:_DATA_BYTES])


@contextmanager
def _memory() -> Iterator[tuple[Path, Path]]:
    """(a memory file of which half are holes, its data alone), in a directory that goes again."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="vmthaw-pack-") as name:
        data = _programs()
        memory, dense = Path(name, "memory"), Path(name, "dense")
        dense.write_bytes(data)
        run = _RUN_PAGES * PAGE
        with memory.open("wb") as file:
            file.truncate(2 * len(data))
            for start in range(0, len(data), run):
                file.seek(2 * start)
                file.write(data[start : start + run])
        yield memory, dense


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _zstd(dense: Path) -> float:
    output = dense.with_suffix(".zst")
    return _timed(lambda: subprocess.run(["zstd", "-q", "-f", "-3", dense, "-o", output], check=True))


def packed(chunk_bytes: int) -> Callable[[Bench], Sample]:
    """`vmthaw snapshot pack` to an empty directory, on as many threads as there are processors."""

    def measure(_: Bench) -> Sample:
        with _memory() as (memory, dense), FileSource(memory) as source:
            theirs = _zstd(dense)
            seconds = _timed(lambda: pack(source, memory.with_name("store"), "one", chunk_bytes=chunk_bytes))
            return Sample(seconds, dense.stat().st_size // PAGE, baseline_seconds=(theirs + _zstd(dense)) / 2)

    return measure


def compressed(codec: str, threads: int) -> Callable[[Bench], Sample]:
    """`compress_file` of the whole memory; 0 threads are one for each processor."""

    def measure(_: Bench) -> Sample:
        with _memory() as (memory, dense), FileSource(memory) as source:
            output = memory.with_name("packed")
            seconds = _timed(lambda: compress_file(source, output, codec, threads=threads))
            return Sample(seconds, dense.stat().st_size // PAGE, baseline_seconds=_zstd(dense))

    return measure


def pack_cases() -> list[Case]:
    """Only where there are the tool zstd and tmpfs. A page's time is that of a page which is no zeros."""
    if shutil.which("zstd") is None or not Path("/dev/shm").is_dir():
        return []
    return [
        Case("pack/pack", packed(256 << 10), "snapshot pack, chunks of 256 KiB, hashes and all"),
        Case("pack/pack-64KiB", packed(64 << 10), "the same, chunks of 64 KiB"),
        Case("pack/compress", compressed("zstd", 0), "compress_file, zstd's seekable format"),
        Case("pack/compress-one", compressed("zstd", 1), "the same on one thread"),
        Case("pack/compress-lz4", compressed("lz4", 0), "compress_file, LZ4 frames"),
    ]


@contextmanager
def _compressed(memory: Path, codec: str) -> Iterator[CompressedSource]:
    with FileSource(memory) as source:
        compress_file(source, memory.with_name("packed"), codec)
    with CompressedSource(memory.with_name("packed"), cache_bytes=2 * _DATA_BYTES) as compressed_source:
        yield compressed_source


def reading(codec: str, *, warm: bool) -> Callable[[Bench], Sample]:
    """64 pages a read, chunks of 64 KiB, in turns with `FileSource`; `warm`: all of it was decompressed before."""

    def measure(_: Bench) -> Sample:
        with _memory() as (memory, _dense), FileSource(memory) as file, _compressed(memory, codec) as source:
            offsets = range(0, file.size, _RUN_PAGES * PAGE * 2)

            def read(where: FileSource | CompressedSource) -> None:
                for offset in offsets:
                    where.read(offset, _RUN_PAGES * PAGE)

            if warm:
                read(source)
            read(file)
            theirs = _timed(lambda: read(file))
            return Sample(_timed(lambda: read(source)), len(offsets) * _RUN_PAGES, baseline_seconds=theirs)

    return measure


def unpack_cases() -> list[Case]:
    """The baseline is `FileSource`."""
    if not Path("/dev/shm").is_dir():
        return []
    return [
        Case("unpack/zstd", reading("zstd", warm=False), "CompressedSource, zstd, each chunk for the first time"),
        Case("unpack/lz4", reading("lz4", warm=False), "the same, LZ4"),
        Case("unpack/held", reading("zstd", warm=True), "chunks that are held"),
    ]
