"""Every kind of source that reads files, each over files that a test may damage."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support.faulty_restore import PAGE, PAGES
from tests.support.layers import uuid_of
from vmthaw import (
    CachedSource,
    CompressedSource,
    FileSource,
    LayeredSource,
    PageExporter,
    PageSource,
    PythonSource,
    SocketSource,
    SparseDiffSource,
    _core,
    compress_file,
)
from vmthaw._snapshot_pack import pack
from vmthaw.source import Codec, LayeredBuild, LayeredFrame, LayeredHeader, LayeredMapping, PackedSource

SIZE = PAGES * PAGE
CONTENT = os.urandom(SIZE)
CHUNK = 4 * PAGE
HALF = PAGES // 2


Place = Callable[[str, bytes], Path]
"""Puts a file there, ``place(name, data)``, and says where it is."""


@dataclass
class Built:
    """A source, and the file that gives `page` by its byte `at`. `chunk` is how many pages fail together."""

    source: PageSource
    victim: str
    page: int
    at: int
    chunk: int = 1
    said: tuple[str, ...] = ()
    """What a message about it must name."""

    @property
    def others(self) -> list[int]:
        """Pages that do not fail with `page`. A page of the file may hold the ends of two chunks."""
        first = self.page // self.chunk * self.chunk
        around = range(first - self.chunk, first + 2 * self.chunk) if self.chunk > 1 else [self.page]
        return [page for page in range(PAGES) if page not in around]


Kind = Callable[[Place], "Iterator[Built]"]


def mapped(place: Place) -> Iterator[Built]:
    path = place("memory", CONTENT)
    with FileSource(path) as source:
        yield Built(source, "memory", 9, 9 * PAGE, said=(str(path), "0x9000"))


def pread(place: Place) -> Iterator[Built]:
    path = place("memory", CONTENT)
    with FileSource(path, mode="pread") as source:
        yield Built(source, "memory", 9, 9 * PAGE, said=(str(path), "0x9000"))


def _diffs(place: Place) -> tuple[SparseDiffSource, Path, Path]:
    base = place("base", CONTENT[: HALF * PAGE] + os.urandom(HALF * PAGE))
    diff = place("diff", os.urandom(HALF * PAGE) + CONTENT[HALF * PAGE :])
    changed = np.packbits([0] * HALF + [1] * HALF, bitorder="little").tobytes()
    return SparseDiffSource(FileSource(base), [diff], [changed]), base, diff


def base_of_diffs(place: Place) -> Iterator[Built]:
    source, base, _ = _diffs(place)
    with source:
        yield Built(source, "base", 9, 9 * PAGE, said=(str(base), "0x9000"))


def diff(place: Place) -> Iterator[Built]:
    source, _, newest = _diffs(place)
    with source:
        yield Built(source, "diff", HALF + 9, (HALF + 9) * PAGE, said=(str(newest), f"{(HALF + 9) * PAGE:#x}"))


def _header(*builds: LayeredBuild) -> LayeredHeader:
    half = HALF * PAGE
    rows = (LayeredMapping(0, half, uuid_of(1), 0), LayeredMapping(half, half, uuid_of(2), 0))
    return LayeredHeader(4, PAGE, SIZE, 1, uuid_of(2), uuid_of(1), rows, builds)


def layered(place: Place) -> Iterator[Built]:
    paths = {uuid_of(1): place("first", CONTENT[: HALF * PAGE]), uuid_of(2): place("second", CONTENT[HALF * PAGE :])}
    with LayeredSource(_header(), paths) as source:
        said = (str(uuid_of(2)), f"{(HALF + 9) * PAGE:#x}", "second")
        yield Built(source, "second", HALF + 9, 9 * PAGE, said=said)


def layered_frames(place: Place) -> Iterator[Built]:
    packed, frames = b"", []
    for start in range(0, HALF * PAGE, CHUNK):
        frame = _core.compress_frame(CONTENT[HALF * PAGE + start :][:CHUNK], Codec.zstd)
        frames.append(LayeredFrame(start, len(packed), CHUNK, len(frame)))
        packed += frame
    paths = {uuid_of(1): place("first", CONTENT[: HALF * PAGE]), uuid_of(2): place("second", packed)}
    build = LayeredBuild(uuid_of(2), HALF * PAGE, bytes(32), Codec.zstd, tuple(frames))
    with LayeredSource(_header(build), paths) as source:
        said = (str(uuid_of(2)), f"{(HALF + 8) * PAGE:#x}", "second")
        yield Built(source, "second", HALF + 8, frames[2].compressed_start + 100, 4, said)


def _compressed(place: Place, codec: str) -> Iterator[Built]:
    with tempfile.TemporaryDirectory() as folder:
        memory, out = Path(folder, "memory"), Path(folder, "out")
        memory.write_bytes(CONTENT)
        with FileSource(memory) as source:
            compress_file(source, out, codec=codec, chunk=CHUNK)
        data = out.read_bytes()
    path = place(f"memory.{codec}", data)
    # Random bytes do not shrink: the frame of chunk 9 begins a little behind its place in the memory.
    with CompressedSource(path) as source:
        yield Built(source, path.name, 37, 9 * CHUNK + 6000, 4, (str(path), f"{37 * PAGE:#x}"))


def zstd(place: Place) -> Iterator[Built]:
    yield from _compressed(place, "zstd")


def lz4(place: Place) -> Iterator[Built]:
    yield from _compressed(place, "lz4")


def packed(place: Place) -> Iterator[Built]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "memory").write_bytes(CONTENT)
        with FileSource(folder / "memory") as source:
            pack(source, folder / "packed", "vm", chunk_bytes=CHUNK, threads=1)
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del found["memory"]
    root = next(place(name, data) for name, data in found.items() if name.endswith("vm.json")).parents[1]
    for name, data in found.items():
        place(name, data)
    with PackedSource(root, "vm") as source:
        victim = _chunk_name(found, 9)
        yield Built(source, victim, 37, 2000, 4, (Path(victim).name, f"{37 * PAGE:#x}", "chunk 9"))


def _chunk_name(found: dict[str, bytes], number: int) -> str:
    manifest = json.loads(next(data for name, data in found.items() if name.endswith("vm.json")))
    digest = manifest["chunks"][number][0]
    return next(name for name in found if name.endswith(f"{digest[:2]}/{digest[2:]}.zst"))


def socket(place: Place) -> Iterator[Built]:
    path = place("memory", CONTENT)
    with (
        tempfile.TemporaryDirectory(prefix="vmt-") as folder,
        FileSource(path) as far,
        PageExporter(far, Path(folder, "s")) as exporter,
        SocketSource(exporter.address, SIZE, timeout=20) as source,
    ):
        yield Built(source, "memory", 9, 9 * PAGE, said=(exporter.address, "0x9000", "its log"))


def cached(place: Place) -> Iterator[Built]:
    path = place("memory", CONTENT)
    with CachedSource(FileSource(path), chunk=CHUNK) as source:
        yield Built(source, "memory", 9, 9 * PAGE, 4, (str(path), "0x9000"))


def python(place: Place) -> Iterator[Built]:
    path = place("memory", CONTENT)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with PythonSource(lambda offset, size: os.pread(file, size, offset), SIZE, name="preader") as source:
            yield Built(source, "memory", 9, 9 * PAGE, said=("python:preader", "0x9000"))
    finally:
        os.close(file)


KINDS: list[Kind] = [
    mapped, pread, base_of_diffs, diff, layered, layered_frames, zstd, lz4, packed, socket, cached, python,
]  # fmt: skip
opened = {kind.__name__: contextmanager(kind) for kind in KINDS}
