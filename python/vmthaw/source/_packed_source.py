"""`PackedSource`: a memory that `vmthaw snapshot pack` wrote, and the manifest that says what it consists of."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any, TypeGuard

from vmthaw import _core
from vmthaw.source._packed_chunks import SUFFIXES, PackedChunks, packed_chunks, wrong_manifest

__all__ = ["PackManifest", "PackedChunk", "PackedSource"]

FORMAT = "vmthaw-pack"
VERSION = 1
HASH_BYTES = 32
_MOST_CHUNKS = 1 << 24  # as the core's kMostChunks


@dataclasses.dataclass(frozen=True)
class PackedChunk:
    """A chunk that is a file. `hash` is blake2b (32 bytes) of its memory, `packed_bytes` the size of the file,
    `checksum` the low half of XXH64 of its memory."""

    hash: bytes
    packed_bytes: int
    checksum: int


@dataclasses.dataclass(frozen=True)
class PackManifest:
    """What `DIR/snapshots/NAME.json` says: `size` and `chunk_bytes` in bytes, and for each chunk its file, or None for
    zeros."""

    size: int
    chunk_bytes: int
    codec: str
    chunks: list[PackedChunk | None]

    @classmethod
    def read(cls, where: PackedChunks, name: str) -> PackManifest:
        """Reads and checks a manifest. Raises SourceOpenError, whose `field` says what is wrong."""
        content = where.get_manifest(name)
        path = where.manifest_place(name)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise wrong_manifest(path, "json", f"it is no JSON: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
            raise wrong_manifest(path, "format", f"it is no {FORMAT} of version {VERSION}")
        return cls._checked(path, found)

    @classmethod
    def _checked(cls, path: Path | str, found: dict[str, Any]) -> PackManifest:
        size, chunk_bytes, codec, rows = (found.get(key) for key in ("size", "chunk_bytes", "codec", "chunks"))
        if not _is_count(size, 1 << 62) or not size:
            raise wrong_manifest(path, "size", f"{size!r} is no size in bytes")
        if not _is_count(chunk_bytes, 4 << 20) or chunk_bytes < 4096 or chunk_bytes & (chunk_bytes - 1):
            raise wrong_manifest(path, "chunk_bytes", f"{chunk_bytes!r} is no power of two from 4096 to 4194304")
        if not isinstance(codec, str) or codec not in SUFFIXES:
            raise wrong_manifest(path, "codec", f"{codec!r} is none of {', '.join(SUFFIXES)}")
        if not isinstance(rows, list) or len(rows) != -(-size // chunk_bytes) or len(rows) > _MOST_CHUNKS:
            raise wrong_manifest(path, "chunks", f"they are not the {-(-size // chunk_bytes)} chunks of the memory")
        return cls(size, chunk_bytes, codec, [_chunk(path, number, row) for number, row in enumerate(rows)])

    def extents(self) -> list[tuple[int, int, str]]:
        """Rows of offset, size and kind, one for each run of chunks of one kind."""
        rows: list[tuple[int, int, str]] = []
        for number, chunk in enumerate(self.chunks):
            begin = number * self.chunk_bytes
            size, kind = min(self.chunk_bytes, self.size - begin), "zero" if chunk is None else "data"
            if rows and rows[-1][2] == kind:
                begin, size = rows[-1][0], rows.pop()[1] + size
            rows.append((begin, size, kind))
        return rows

    def to_json(self) -> bytes:
        """The manifest as it is written."""
        rows = [chunk and [chunk.hash.hex(), chunk.packed_bytes, chunk.checksum] for chunk in self.chunks]
        head = {"format": FORMAT, "version": VERSION, "size": self.size, "chunk_bytes": self.chunk_bytes}
        return json.dumps({**head, "codec": self.codec, "hash": "blake2b-256", "chunks": rows}).encode()


class PackedSource(_core.PackedSource):
    """The memory `name` of a directory that `vmthaw snapshot pack` wrote.

    Chunks are files named by the hash of their contents; each is read and decompressed on a source thread when a page
    of it is first wanted, once for however many faults wait for it, and up to `cache_bytes` of them are held. Zeros are
    known from the manifest and never read. A damaged or missing file is a `SourceIoError` of the reads that need it,
    which names the file.

    Raises SourceOpenError, whose `field` names what is wrong with the manifest.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, *, cache_bytes: int = 64 << 20) -> None:
        manifest = PackManifest.read(packed_chunks(Path(directory)), name)
        none = bytes(HASH_BYTES + 8)
        rows = b"".join(
            none if chunk is None else chunk.hash + struct.pack("<II", chunk.packed_bytes, chunk.checksum)
            for chunk in manifest.chunks
        )
        super().__init__(directory, name, manifest.codec, manifest.size, manifest.chunk_bytes, rows, cache_bytes)


def _is_count(value: object, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _chunk(path: Path | str, number: int, row: Any) -> PackedChunk | None:
    if row is None:
        return None
    try:
        text, packed_bytes, checksum = row
        digest = bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise wrong_manifest(
            path, f"chunks[{number}]", "it is neither null nor a hash, a size and a checksum"
        ) from error
    if len(digest) != HASH_BYTES or not any(digest):
        raise wrong_manifest(path, f"chunks[{number}]", f"{text!r} is no hash of 32 bytes")
    if not _is_count(packed_bytes, (1 << 32) - 1) or not packed_bytes or not _is_count(checksum, (1 << 32) - 1):
        raise wrong_manifest(path, f"chunks[{number}]", "its size or its checksum is none")
    return PackedChunk(digest, packed_bytes, checksum)
