"""Layered memories for tests: builds on disk, the header over them and the bytes that must come out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from vmthaw import _core
from vmthaw.source import Codec, LayeredBuild, LayeredFrame, LayeredHeader, LayeredMapping

PAGE = 4096
NIL = UUID(int=0)


def uuid_of(number: int) -> UUID:
    """The UUID of the build of that number; 0 is nil."""
    return UUID(int=number << 64 | number)


def page_of(number: int, page: int) -> bytes:
    """What the build of that number has in a page: never zeros."""
    return random.Random(number << 32 | page).randbytes(64) * (PAGE // 64)


@dataclass
class Stack:
    """A memory of `pages` pages, changed generation by generation. `owner[page]` is the build that has it (0: zeros),
    `builds[number]` what that build's file holds when decompressed."""

    pages: int
    owner: list[tuple[int, int]] = field(default_factory=list)
    builds: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner = [(0, 0)] * self.pages

    def write(self, number: int, pages: list[int], zeros: list[int] = []) -> None:  # noqa: B006 - read only
        """A new generation: its dirty pages, packed in ascending order, and those that became zeros."""
        self.builds[number] = b"".join(page_of(number, page) for page in sorted(pages))
        for slot, page in enumerate(sorted(pages)):
            self.owner[page] = (number, slot)
        for page in zeros:
            self.owner[page] = (0, 0)

    def memory(self) -> bytes:
        """The bytes that a reader must see."""
        return b"".join(page_of(number, page) if number else bytes(PAGE) for page, (number, _) in enumerate(self.owner))

    def mappings(self) -> tuple[LayeredMapping, ...]:
        """As a writer makes them: neighbours of one build are joined only when their storage is contiguous."""
        rows: list[LayeredMapping] = []
        for page, (number, slot) in enumerate(self.owner):
            build, storage = uuid_of(number), slot * PAGE if number else 0
            last = rows[-1] if rows else None
            if last is not None and last.build == build and (number == 0 or last.storage + last.length == storage):
                rows[-1] = last._replace(length=last.length + PAGE)
            else:
                rows.append(LayeredMapping(page * PAGE, PAGE, build, storage))
        return tuple(rows)

    def store(self, folder: Path, codecs: dict[int, Codec] | None = None, frame_pages: int = 4) -> dict[UUID, Path]:
        """Writes the builds' files; `header()` then speaks of compressed ones."""
        self.compressed: dict[int, LayeredBuild] = {}
        paths = {}
        for number, data in self.builds.items():
            codec = (codecs or {}).get(number, Codec.none)
            path = folder / f"build-{number}"
            path.write_bytes(self._compress(number, data, codec, frame_pages) if codec else data)
            if data:
                paths[uuid_of(number)] = path
        return paths

    def header(self, version: int = 5) -> LayeredHeader:
        """The header of the memory as it is."""
        builds = tuple(self.compressed[number] for number in sorted(getattr(self, "compressed", {})))
        newest = uuid_of(max(self.builds))
        return LayeredHeader(
            version, PAGE, self.pages * PAGE, len(self.builds), newest, uuid_of(1), self.mappings(), builds
        )

    def _compress(self, number: int, data: bytes, codec: Codec, frame_pages: int) -> bytes:
        out, frames = b"", []
        for start in range(0, len(data), frame_pages * PAGE):
            piece = data[start : start + frame_pages * PAGE]
            packed = _core.compress_frame(piece, codec)
            frames.append(LayeredFrame(start, len(out), len(piece), len(packed)))
            out += packed
        self.compressed[number] = LayeredBuild(uuid_of(number), len(data), bytes(32), codec, tuple(frames))
        return out


def random_stack(seed: int, pages: int, generations: int) -> Stack:
    """Generations of random dirty and zeroed pages."""
    chance = random.Random(seed)
    stack = Stack(pages)
    for number in range(1, generations + 1):
        start = chance.randrange(pages)
        run = list(range(start, min(pages, start + chance.randrange(1, 9))))
        dirty = sorted({*run, *chance.sample(range(pages), chance.randrange(1, max(2, pages // 4)))})
        zeros = [page for page in chance.sample(range(pages), chance.randrange(pages // 4 + 1)) if page not in dirty]
        stack.write(number, dirty, zeros)
    return stack
