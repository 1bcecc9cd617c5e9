"""What a header of layered memory, or a memory file, consists of; and whether it is whole."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from vmthaw.errors import VmthawError
from vmthaw.source import Codec, ExtentKind, FileSource, LayeredHeader, LayeredMapping, LayeredSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmthaw.source import LayeredBuild, PageSource

PAGE = 4096
NIL = UUID(int=0)
_PIECE = 8 << 20
_LARGEST_HEADER = 512 << 20


@dataclass
class Layer:
    """One layer: `bytes` of the memory are in it, in `mappings` runs. `zero_bytes` of them are zeros all the same; None
    when nobody looked. `checksum` is "matches", "differs", "unknown" (the header has none), "incomplete" (nor has it
    all frames of the build, without which its bytes are not known), or None when nobody looked."""

    name: str
    bytes: int
    mappings: int
    codec: str = "none"
    frames: int = 0
    file: str | None = None
    zero_bytes: int | None = None
    checksum: str | None = None


@dataclass
class Inspection:
    """What was found. `problems` are sentences, each naming what is wrong; `zero_bytes` are what is never read."""

    kind: str
    path: str
    size: int
    zero_bytes: int
    layers: list[Layer]
    header: dict[str, int | str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """How many files a restore reads."""
        return len(self.layers)


def inspect(
    path: str | os.PathLike[str], builds: str | os.PathLike[str] | None = None, verify: bool = False
) -> Inspection:
    """Looks at a header or a memory file.

    `builds` is the folder with a header's builds, each named by its UUID; the header's own by default. Where a build is
    there, its share of zeros is counted. `verify` reads everything and lists what is missing, short, damaged or of
    another checksum. Raises LayeredHeaderError, SourceOpenError, or OSError.
    """
    file = Path(path)
    if not _is_header(file):
        return _inspect_memory(file)
    header = LayeredHeader.read(file)
    folder = file.parent if builds is None else Path(builds)
    return _inspect_header(file, header, folder, verify)


def inspect_source(source: PageSource, address: str) -> Inspection:
    """Looks at a memory of any other kind, of which all data is read. What cannot be read is a problem."""
    rows = source.extents().tolist()
    data = [(offset, size) for offset, size, kind in rows if kind == ExtentKind.data]
    layer = Layer(source.description, sum(size for _, size in data), len(data), file=address, zero_bytes=0)
    found = Inspection("memory", address, source.size, source.size - layer.bytes, [layer])
    try:
        layer.zero_bytes = sum(_zeros(source, offset, size) for offset, size in data)
    except VmthawError as error:
        layer.zero_bytes = None
        found.problems.append(str(error))
    return found


def _is_header(path: Path) -> bool:
    """There is no magic: a version and a block size that can be, in a file that is no gigabytes."""
    with path.open("rb") as file:
        start = file.read(16)
        size = os.fstat(file.fileno()).st_size
    if len(start) < 16 or size > _LARGEST_HEADER:
        return False
    version, block_size = struct.unpack("<QQ", start)
    return bool(1 <= version & 0xFFFF <= 5 and 0 < block_size <= 1 << 30 and block_size & (block_size - 1) == 0)


def _inspect_memory(path: Path) -> Inspection:
    with FileSource(path) as source:
        rows = source.extents().tolist()
        data = [(offset, size) for offset, size, kind in rows if kind == ExtentKind.data]
        layer = Layer("the file", sum(size for _, size in data), len(data), file=str(path))
        layer.zero_bytes = sum(_zeros(source, offset, size) for offset, size in data)
        return Inspection("memory", str(path), source.size, source.size - layer.bytes, [layer])


def _inspect_header(path: Path, header: LayeredHeader, folder: Path, verify: bool) -> Inspection:
    known = {one.build: one for one in header.builds}
    layers: dict[UUID, Layer] = {}
    zeros = 0
    for mapping in header.mappings:
        length = min(mapping.length, header.size - mapping.offset)
        if mapping.build == NIL:
            zeros += length
            continue
        layer = layers.setdefault(mapping.build, Layer(str(mapping.build), 0, 0))
        layer.bytes += length
        layer.mappings += 1
    files = {build: folder / str(build) for build in layers if (folder / str(build)).is_file()}
    for build, layer in layers.items():
        layer.file = str(files[build]) if build in files else None
        if build in known:
            layer.codec, layer.frames = known[build].codec.name, len(known[build].frames)
    ordered = sorted(layers.values(), key=lambda layer: -layer.bytes)
    found = Inspection("header", str(path), header.size, zeros, ordered)
    found.header = {
        "version": header.version & 0xFFFF,
        "block_size": header.block_size,
        "generation": header.generation,
        "build": str(header.build),
        "base_build": str(header.base_build),
        "mappings": len(header.mappings),
    }
    if verify:
        found.problems += [f"build {build} is not in {folder}" for build in layers if build not in files]
        for build, layer in layers.items():
            if build in files:
                layer.checksum, problems = _check_file(known.get(build), files[build])
                found.problems += problems
    if files.keys() == layers.keys():
        found.problems += _count_zeros(header, files, layers)
    return found


def _count_zeros(header: LayeredHeader, files: Mapping[UUID, Path], layers: Mapping[UUID, Layer]) -> list[str]:
    try:
        source = LayeredSource(header, files)
    except VmthawError as error:
        return [str(error)]
    with source:
        problems: dict[UUID, str] = {}
        for mapping in header.mappings:
            if mapping.build == NIL or mapping.build in problems:
                continue
            layer = layers[mapping.build]
            length = min(mapping.length, header.size - mapping.offset)
            try:
                layer.zero_bytes = (layer.zero_bytes or 0) + _zeros(source, mapping.offset, length)
            except VmthawError as error:
                problems[mapping.build] = str(error)
                layer.zero_bytes = None
    return list(problems.values())


def _zeros(source: PageSource, offset: int, size: int) -> int:
    """How many bytes of the range are in pages full of zeros."""
    zeros = 0
    for at in range(offset, offset + size, _PIECE):
        piece = source.read(at, min(_PIECE, offset + size - at))
        padded = np.frombuffer(piece.ljust(-(-len(piece) // PAGE) * PAGE, b"\0"), np.uint64).reshape(-1, PAGE // 8)
        empty = np.logical_not(padded.any(axis=1)).tolist()
        last = len(piece) % PAGE or PAGE
        zeros += sum(empty[:-1]) * PAGE + (last if empty[-1] else 0)
    return zeros


def _check_file(build: LayeredBuild | None, path: Path) -> tuple[str, list[str]]:
    """What its checksum says, and what is wrong with its size or its bytes. In versions 4 and 5 both are of what the
    build is when decompressed; the header lists the frames that mappings use, which need not be all."""
    if build is None:
        return "unknown", []
    size = path.stat().st_size
    if build.codec == Codec.none and build.size and size != build.size:
        return "differs", [f"{path} has {size} bytes, the header says {build.size}"]
    if not any(build.checksum):
        return "unknown", []
    try:
        digest = _digest(build, path)
    except VmthawError as error:
        return "differs", [f"{path}: {error}"]
    if digest is None:
        return "incomplete", []
    if digest == build.checksum:
        return "matches", []
    what = "" if build.codec == Codec.none else ", decompressed,"
    return "differs", [f"{path}{what} has the SHA-256 {digest.hex()}, the header says {build.checksum.hex()}"]


def _digest(build: LayeredBuild, path: Path) -> bytes | None:
    """The SHA-256 of the build's bytes; None when the header does not have all of its frames. Raises VmthawError for a
    frame that is damaged."""
    if build.codec == Codec.none:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    end = 0
    for frame in build.frames:
        if frame.start != end:
            return None
        end += frame.size
    if end != build.size:
        return None
    # The build by itself: a memory that is one mapping.
    mapping = LayeredMapping(0, -(-end // PAGE) * PAGE, build.build, 0)
    header = LayeredHeader(5, PAGE, end, 0, build.build, build.build, (mapping,), (build,))
    digest = hashlib.sha256()
    with LayeredSource(header, {build.build: path}) as source:
        for at in range(0, end, _PIECE):
            digest.update(source.read(at, min(_PIECE, end - at)))
    return digest.digest()
