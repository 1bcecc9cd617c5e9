"""`LayeredHeader`: the header of layered memory, as E2B and Wrenn write it, in values of Python."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from vmthaw import _core

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Codec", "LayeredBuild", "LayeredFrame", "LayeredHeader", "LayeredMapping"]

NIL = UUID(int=0)


class Codec(enum.IntEnum):
    """How a build's file is compressed."""

    none = 0
    zstd = 1
    lz4 = 2


class LayeredFrame(NamedTuple):
    """`size` bytes at `start` of a build as it is when decompressed: `compressed_size` bytes at `compressed_start` of
    its file."""

    start: int
    compressed_start: int
    size: int
    compressed_size: int


class LayeredMapping(NamedTuple):
    """[`offset`, `offset` + `length`) of the memory, in bytes, is at `storage` of `build`; the nil UUID means zeros."""

    offset: int
    length: int
    build: UUID
    storage: int


@dataclass(frozen=True)
class LayeredBuild:
    """What versions 4 and 5 say of a build: its size in bytes when decompressed (0: unknown), the SHA-256 of its file
    (zeros: unknown), and for a compressed one the frames that mappings use."""

    build: UUID
    size: int = 0
    checksum: bytes = bytes(32)
    codec: Codec = Codec.none
    frames: tuple[LayeredFrame, ...] = ()


@dataclass(frozen=True)
class LayeredHeader:
    """The header of layered memory, versions 1 to 5. `size` and `block_size` are bytes.

    `mappings` are sorted, do not overlap and cover the size: ranges of zeros are there with the nil UUID. `builds`,
    which versions 1 to 3 do not have, are sorted by UUID. Making one checks all that and raises LayeredHeaderError,
    whose ``field`` names what is wrong; so does everything that reads or writes it. Immutable.
    """

    version: int
    block_size: int
    size: int
    generation: int
    build: UUID
    base_build: UUID
    mappings: tuple[LayeredMapping, ...]
    builds: tuple[LayeredBuild, ...] = ()

    def __post_init__(self) -> None:
        self.core()

    @classmethod
    def read(cls, source: str | os.PathLike[str] | Buffer) -> LayeredHeader:
        """Reads the header out of a file, or out of the bytes of one.

        Raises LayeredHeaderError, or OSError where the file cannot be read. The GIL is released while it is parsed.
        """
        core = _core.LayeredHeader.read(header_bytes(source))
        return cls(
            version=core.version,
            block_size=core.block_size,
            size=core.size,
            generation=core.generation,
            build=UUID(bytes=core.build),
            base_build=UUID(bytes=core.base_build),
            mappings=tuple(_mappings(core)),
            builds=tuple(_build(*row) for row in core.build_rows()),
        )

    def write(self, version: int | None = None) -> bytes:
        """The header's bytes in `version` (its own by default).

        Versions 1 to 3 leave out what is known of builds and refuse compressed ones. Raises LayeredHeaderError.
        """
        return self.core().write(self.version & 0xFFFF if version is None else version)

    def core(self) -> _core.LayeredHeader:
        """The same header in C++, made anew."""
        return _core.LayeredHeader(
            self.version,
            self.block_size,
            self.size,
            self.generation,
            self.build.bytes,
            self.base_build.bytes,
            [(offset, length, build.bytes, storage) for offset, length, build, storage in self.mappings],
            [(one.build.bytes, one.size, one.checksum, int(one.codec), one.frames) for one in self.builds],
        )


def header_bytes(source: str | os.PathLike[str] | Buffer) -> Buffer:
    """What a path points at, or the bytes as they were given."""
    return Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else source


def _mappings(core: _core.LayeredHeader) -> list[LayeredMapping]:
    known: dict[bytes, UUID] = {}
    return [
        LayeredMapping(offset, length, known.setdefault(raw, UUID(bytes=raw)), storage)
        for offset, length, raw, storage in core.mapping_rows()
    ]


def _build(raw: bytes, size: int, checksum: bytes, codec: int, frames: list[tuple[int, int, int, int]]) -> LayeredBuild:
    return LayeredBuild(UUID(bytes=raw), size, checksum, Codec(codec), tuple(LayeredFrame(*frame) for frame in frames))
