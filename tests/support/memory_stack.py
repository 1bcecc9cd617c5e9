"""`MemoryStack`: a memory whose bytes are known, behind sources stacked upon each other at random."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from tests.support.layer_writer import LayerWriter
from tests.support.many_runs import WIDE, spread
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
    compress_file,
)
from vmthaw._snapshot_merge import merge
from vmthaw._snapshot_pack import pack, unpack
from vmthaw.source import LayeredHeader, PackedSource

PAGE = 4096
TIMEOUT_S = 60.0
SPREAD_SHARE = 0.05  # of the steps: one takes as long as many others


def random_bytes(chance: random.Random, size: int) -> bytes:
    """Not zeros; half of the pages are easy to compress, and no two are alike."""
    pages = []
    for _ in range(0, size, PAGE):
        unit = chance.choice([64, PAGE])
        pages.append(b"\1" + (chance.randbytes(unit) * (PAGE // unit))[1:])
    return b"".join(pages)[:size]


class MemoryStack(contextlib.ExitStack):
    """`source` must give `model`. Each step puts a layer on top, and may change the model too, as a guest would have.

    `story` says what was done. Files lie in `folder`, sockets too, so its path must be short.
    """

    def __init__(self, chance: random.Random, folder: Path, size: int) -> None:
        super().__init__()
        self.chance = chance
        self.folder = folder
        self.size = size
        self.story: list[str] = []
        self._paths = 0
        self.model = bytearray(size)
        for offset in range(0, size, PAGE):
            if chance.random() < 0.7:
                self.model[offset : offset + PAGE] = random_bytes(chance, PAGE)
        self.source: PageSource
        self.file()

    def grow(self) -> None:
        """One step of any kind."""
        steps: list[Callable[[], None]] = [
            self.file, self.cached, self.socket, self.python, self.diffs, self.merged, self.compressed, self.packed,
            self.unpacked, self.layered, self.layered,
        ]  # fmt: skip
        step = self.spread if self.chance.random() < SPREAD_SHARE else self.chance.choice(steps)
        step()

    def become(self, memory: bytearray) -> None:
        """What a guest left behind is the memory from now on: a diff over what it was restored from."""
        pages = [page for page in range(self.size // PAGE) if self._page(self.model, page) != self._page(memory, page)]
        self.model[:] = memory
        self._lay_diffs([self._write_diff(pages)], f"guest's diff ({len(pages)} pages)")

    def file(self) -> None:
        """All of it, in a file, zeros as holes."""
        mode = self.chance.choice(["mapped", "pread"])
        self._put(FileSource(self._write_file(), mode=mode), f"file ({mode})")

    def cached(self) -> None:
        """Chunks in memory, little of it, and sometimes on disk."""
        chunk = self.chance.choice([PAGE, 4 * PAGE, 64 << 10, 1 << 20])
        memory = self.chance.choice([0, 16 * chunk, 64 << 20])
        if self.chance.random() < 0.5:
            self.cached_on_disk(chunk, memory, f"step {len(self.story)}")
        else:
            self._put(CachedSource(self.source, chunk=chunk, memory=memory), f"cached (chunk {chunk}, memory {memory})")

    def cached_on_disk(self, chunk: int, memory: int, identity: str) -> None:
        """In a directory for all; `identity` is that of the bytes, which no other memory of this stack has."""
        source = CachedSource(self.source, chunk=chunk, memory=memory, disk=self.folder / "cache", identity=identity)
        self._put(source, f"cached (chunk {chunk}, memory {memory}, on disk)")

    def socket(self) -> None:
        """Served by an exporter."""
        page_size = self.chance.choice([PAGE, 16 * PAGE, 2 << 20])
        exporter = self.enter_context(PageExporter(self.source, self._path("socket")))
        options: dict[str, Any] = {
            "connections": self.chance.randrange(1, 4),
            "max_in_flight": self.chance.choice([1, 8, 128]),
        }
        extents = self.source.extents() if self.chance.random() < 0.5 else None
        source = SocketSource(
            exporter.address, self.size, page_size=page_size, timeout=TIMEOUT_S, extents=extents, **options
        )
        self._put(source, f"socket (page {page_size}, {options})")

    def python(self) -> None:
        """Read by Python, singly or in batches, by threads or coroutines."""
        below = self.source
        batch = self.chance.choice([1, 1, 8])
        is_async = self.chance.random() < 0.5

        def read(offset: int, size: int) -> bytes:
            return below.read(offset, size)

        def read_all(ranges: list[tuple[int, int]]) -> list[bytes]:
            return [below.read(*one) for one in ranges]

        async def read_later(*arguments: object) -> object:
            return await asyncio.to_thread(read if batch == 1 else read_all, *arguments)  # type: ignore[arg-type]

        source = PythonSource(
            read_later if is_async else read if batch == 1 else read_all,  # type: ignore[arg-type]
            self.size,
            below.extents() if self.chance.random() < 0.5 else None,
            self.chance.randrange(1, 4),
            timeout=TIMEOUT_S,
            batch=batch,
        )
        self._put(source, f"python (batch {batch}, {'coroutine' if is_async else 'function'})")

    def diffs(self) -> None:
        """Sparse diffs over what there is. Now and then without a hole, told by a bitmap what changed."""
        paths, bitmaps, told = [], [], self.chance.random() < 0.3
        for _ in range(self.chance.randrange(1, 4)):
            pages = self._change(PAGE)
            paths.append(self._write_diff(pages, dense=told))
            bitmap = np.zeros((self.size // PAGE + 63) // 64 * 64, np.uint8)
            bitmap[pages] = 1
            bitmaps.append(np.packbits(bitmap, bitorder="little").tobytes())
        self._lay_diffs(paths, f"diffs ({len(paths)}{', with bitmaps' if told else ''})", bitmaps if told else None)

    def merged(self) -> None:
        """A file and diffs over it, as one file."""
        base = self._write_file()
        paths = [self._write_diff(self._change(PAGE)) for _ in range(self.chance.randrange(1, 4))]
        out = self._path("merged")
        merge(base, paths, out)
        self._put(FileSource(out), f"merged ({len(paths)} diffs)")

    def compressed(self) -> None:
        """One file of zstd or LZ4 frames."""
        codec, chunk = self.chance.choice(["zstd", "lz4"]), self.chance.choice([PAGE, 16 * PAGE, 256 << 10])
        path = self._path("compressed")
        compress_file(self.source, path, codec=codec, chunk=chunk, threads=1)
        self._put(
            CompressedSource(path, cache_bytes=self.chance.choice([1, 64 << 20])), f"compressed ({codec} {chunk})"
        )

    def packed(self) -> None:
        """Chunks by their hashes, in one directory for all."""
        name = self._pack()
        source = PackedSource(self.folder / "packed", name, cache_bytes=self.chance.choice([1, 64 << 20]))
        self._put(source, "packed")

    def unpacked(self) -> None:
        """Packed, and unpacked to a file."""
        out = self._path("unpacked")
        unpack(self.folder / "packed", self._pack(), out)
        self._put(FileSource(out), "unpacked")

    def layered(self) -> None:
        """Generations of builds over what there is, plain and compressed."""
        header, builds = self._generations([512, PAGE, PAGE, 2 * PAGE, 16 * PAGE])
        source = LayeredSource(header, builds, cache_bytes=self.chance.choice([0, 64 << 20]))
        self._put(source, f"layered (block {header.block_size}, {len(builds)} builds, version {header.version})")

    def spread(self) -> None:
        """The same, spread over a memory of so many runs that its source looks places up in a table."""
        header, builds = self._generations([PAGE, PAGE, 2 * PAGE])
        wide, narrow = spread(self.chance, header, self.size)
        below = LayeredSource(wide, {**builds, header.base_build: self.source})
        source = LayeredSource(narrow, {WIDE: self.enter_context(below)})
        self._put(source, f"spread (block {header.block_size}, {len(wide.mappings)} mappings)")

    def _generations(self, blocks: list[int]) -> tuple[LayeredHeader, dict[UUID, Path | PageSource]]:
        """The model changed a few times, by blocks of a size that is one of `blocks`, or pages."""
        block = self.chance.choice(blocks)
        if self.size % block:
            block = PAGE
        writer = LayerWriter(self.chance, self.folder, block, self.model, prefix=f"{len(self.story)}-")
        for _ in range(self.chance.randrange(1, 6)):
            writer.write(self._change(block))
        return writer.finish(self.source)

    def _put(self, source: PageSource, what: str) -> None:
        self.source = self.enter_context(source)
        self.story.append(what)

    def _lay_diffs(self, paths: list[Path], what: str, bitmaps: list[bytes] | None = None) -> None:
        self._put(SparseDiffSource(self.source, paths, bitmaps), what)

    def _pack(self) -> str:
        name = f"m{len(self.story)}"
        codec, chunk = self.chance.choice(["zstd", "lz4"]), self.chance.choice([PAGE, 16 * PAGE, 256 << 10])
        pack(self.source, self.folder / "packed", name, codec=codec, chunk_bytes=chunk, threads=2)
        return name

    def _change(self, block: int) -> list[int]:
        """Writes and zeroes blocks of the model, a run and some alone; their numbers, sorted."""
        count = self.size // block
        start = self.chance.randrange(count)
        run = range(start, min(count, start + self.chance.randrange(1, 9)))
        alone = self.chance.sample(range(count), self.chance.randrange(min(count, 16)))
        blocks = sorted({*run, *alone})
        for number in blocks:
            new = bytes(block) if self.chance.random() < 0.3 else random_bytes(self.chance, block)
            self.model[number * block : (number + 1) * block] = new
        return blocks

    def _page(self, memory: bytearray, page: int) -> bytearray:
        return memory[page * PAGE : (page + 1) * PAGE]

    def _write_file(self) -> Path:
        data = (page for page in range(self.size // PAGE) if any(self._page(self.model, page)))
        return self._write(self._path("file"), data)

    def _write_diff(self, pages: list[int], *, dense: bool = False) -> Path:
        # Zeros are data in a diff: its holes are what lies below.
        return self._write(self._path("diff"), range(self.size // PAGE) if dense else pages)

    def _path(self, name: str) -> Path:
        self._paths += 1
        return self.folder / f"{name}{self._paths}"

    def _write(self, path: Path, pages: Iterable[int]) -> Path:
        with path.open("wb") as file:
            file.truncate(self.size)
            for page in pages:
                file.seek(page * PAGE)
                file.write(self._page(self.model, page))
        return path
