"""`LayerWriter`: layered memory over a source, block by block, generation by generation."""

from __future__ import annotations

import random
from pathlib import Path
from uuid import UUID

from vmthaw import PageSource, _core
from vmthaw.source import Codec, LayeredBuild, LayeredFrame, LayeredHeader, LayeredMapping

NIL = UUID(int=0)


class LayerWriter:
    """Generations over `model` as it is now, in blocks of `block` bytes. Builds are files of `folder`."""

    def __init__(self, chance: random.Random, folder: Path, block: int, model: bytearray, *, prefix: str = "") -> None:
        self._chance = chance
        self._folder = folder
        self.block = block
        self._model = model
        self._prefix = prefix
        self._paths: dict[UUID, Path] = {}
        self._compressed: list[LayeredBuild] = []
        self._base = UUID(int=1 << 64 | 1)
        self._owner = [(self._base, number * block) for number in range(len(model) // block)]
        for number in range(len(self._owner)):
            if not any(self._block_of(number)) and chance.random() < 0.5:
                self._owner[number] = (NIL, 0)

    def write(self, blocks: list[int]) -> None:
        """A build of `blocks`, which are sorted, as they are in the model; those that are zeros are nil."""
        build = UUID(int=(len(self._paths) + 2) << 64 | self._chance.getrandbits(32))
        data = b""
        for number in blocks:
            content = self._block_of(number)
            if any(content):
                self._owner[number] = (build, len(data))
                data += content
            else:
                self._owner[number] = (NIL, 0)
        if data:
            path = self._folder / f"{self._prefix}build{len(self._paths)}"
            path.write_bytes(self._packed(build, data))
            self._paths[build] = path

    def finish(self, base: PageSource) -> tuple[LayeredHeader, dict[UUID, Path | PageSource]]:
        """The header over all, with `base` below, and what the builds are."""
        mappings = self.mappings()
        used = {mapping.build for mapping in mappings}
        builds: dict[UUID, Path | PageSource] = {build: path for build, path in self._paths.items() if build in used}
        if self._base in used:
            builds[self._base] = base
        versions = [4] if self.block % 4096 else [4, 5]
        compressed = tuple(sorted(self._compressed, key=lambda one: one.build.bytes))
        header = LayeredHeader(
            self._chance.choice(versions if compressed else [1, 2, 3, *versions]),
            self.block, len(self._model), len(self._paths), self._base, self._base, mappings, compressed,
        )  # fmt: skip
        return LayeredHeader.read(header.write()), builds

    def _block_of(self, number: int) -> bytearray:
        return self._model[number * self.block : (number + 1) * self.block]

    def _packed(self, build: UUID, data: bytes) -> bytes:
        codec = self._chance.choice(list(Codec))
        if codec is Codec.none:
            return data
        out, frames = b"", []
        size = self._chance.choice([self.block, 3 * self.block, 64 << 10])
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            packed = _core.compress_frame(piece, codec)
            frames.append(LayeredFrame(start, len(out), len(piece), len(packed)))
            out += packed
        self._compressed.append(LayeredBuild(build, len(data), bytes(32), codec, tuple(frames)))
        return out

    def mappings(self) -> tuple[LayeredMapping, ...]:
        """Neighbours are joined where their storage is contiguous."""
        rows: list[LayeredMapping] = []
        for number, (build, storage) in enumerate(self._owner):
            last = rows[-1] if rows else None
            if last is not None and last.build == build and (build == NIL or last.storage + last.length == storage):
                rows[-1] = last._replace(length=last.length + self.block)
            else:
                rows.append(LayeredMapping(number * self.block, self.block, build, storage))
        return tuple(rows)
