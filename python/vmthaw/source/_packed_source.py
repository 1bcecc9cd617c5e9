"""`PackedSource`: a memory that `vmthaw snapshot pack` wrote, and the manifest that says what it consists of."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
from pathlib import Path
from typing import Any, TypeGuard

from vmthaw import _core
from vmthaw.errors import SourceOpenError

__all__ = ["PackManifest", "PackedChunk", "PackedSource"]

FORMAT = "vmthaw-pack"
VERSION = 1
HASH_BYTES = 32
SUFFIXES = {"zstd": ".zst", "lz4": ".lz4"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MOST_CHUNKS = 1 << 24  # as the core's kMostChunks
_MOST_MANIFEST_BYTES = 2 << 30


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

    @staticmethod
    def path(directory: Path, name: str) -> Path:
        """Where the manifest is. Raises SourceOpenError for a name with other signs than letters, digits, ``._-``."""
        if not NAME.fullmatch(name):
            raise _wrong(directory / name, "name", "a snapshot's name has letters, digits, '.', '_' and '-' only")
        return directory / "snapshots" / f"{name}.json"

    @classmethod
    def read(cls, directory: Path, name: str) -> PackManifest:
        """Reads and checks a manifest. Raises SourceOpenError, whose `field` says what is wrong."""
        path = cls.path(directory, name)
        try:
            if path.stat().st_size > _MOST_MANIFEST_BYTES:
                raise _wrong(path, "size", "it is larger than any manifest")
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise _wrong(path, "file", f"{error.strerror}; was the memory packed to its end?", error.errno) from error
        except ValueError as error:
            raise _wrong(path, "json", f"it is no JSON: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
            raise _wrong(path, "format", f"it is no {FORMAT} of version {VERSION}")
        return cls._checked(path, found)

    @classmethod
    def _checked(cls, path: Path, found: dict[str, Any]) -> PackManifest:
        size, chunk_bytes, codec, rows = (found.get(key) for key in ("size", "chunk_bytes", "codec", "chunks"))
        if not _is_count(size, 1 << 62) or not size:
            raise _wrong(path, "size", f"{size!r} is no size in bytes")
        if not _is_count(chunk_bytes, 4 << 20) or chunk_bytes < 4096 or chunk_bytes & (chunk_bytes - 1):
            raise _wrong(path, "chunk_bytes", f"{chunk_bytes!r} is no power of two from 4096 to 4194304")
        if not isinstance(codec, str) or codec not in SUFFIXES:
            raise _wrong(path, "codec", f"{codec!r} is none of {', '.join(SUFFIXES)}")
        if not isinstance(rows, list) or len(rows) != -(-size // chunk_bytes) or len(rows) > _MOST_CHUNKS:
            raise _wrong(path, "chunks", f"they are not the {-(-size // chunk_bytes)} chunks of the memory")
        return cls(size, chunk_bytes, codec, [_chunk(path, number, row) for number, row in enumerate(rows)])

    def to_json(self) -> bytes:
        """The manifest as it is written."""
        rows = [chunk and [chunk.hash.hex(), chunk.packed_bytes, chunk.checksum] for chunk in self.chunks]
        head = {"format": FORMAT, "version": VERSION, "size": self.size, "chunk_bytes": self.chunk_bytes}
        return json.dumps({**head, "codec": self.codec, "hash": "blake2b-256", "chunks": rows}).encode()


def chunk_file(directory: Path, digest: bytes, codec: str) -> Path:
    """The file of a chunk: ``chunks/ab/cdef....zst``."""
    text = digest.hex()
    return directory / "chunks" / text[:2] / (text[2:] + SUFFIXES[codec])


class PackedSource(_core.PackedSource):
    """The memory `name` of a directory that `vmthaw snapshot pack` wrote.

    Chunks are files named by the hash of their contents; each is read and decompressed on a source thread when a page
    of it is first wanted, once for however many faults wait for it, and up to `cache_bytes` of them are held. Zeros are
    known from the manifest and never read. A damaged or missing file is a `SourceIoError` of the reads that need it,
    which names the file.

    Raises SourceOpenError, whose `field` names what is wrong with the manifest.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, *, cache_bytes: int = 64 << 20) -> None:
        manifest = PackManifest.read(Path(directory), name)
        none = bytes(HASH_BYTES + 8)
        rows = b"".join(
            none if chunk is None else chunk.hash + struct.pack("<II", chunk.packed_bytes, chunk.checksum)
            for chunk in manifest.chunks
        )
        super().__init__(directory, name, manifest.codec, manifest.size, manifest.chunk_bytes, rows, cache_bytes)


def _is_count(value: object, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _chunk(path: Path, number: int, row: Any) -> PackedChunk | None:
    if row is None:
        return None
    try:
        text, packed_bytes, checksum = row
        digest = bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"chunks[{number}]", "it is neither null nor a hash, a size and a checksum") from error
    if len(digest) != HASH_BYTES or not any(digest):
        raise _wrong(path, f"chunks[{number}]", f"{text!r} is no hash of 32 bytes")
    if not _is_count(packed_bytes, (1 << 32) - 1) or not packed_bytes or not _is_count(checksum, (1 << 32) - 1):
        raise _wrong(path, f"chunks[{number}]", "its size or its checksum is none")
    return PackedChunk(digest, packed_bytes, checksum)


def _wrong(path: Path, field: str, why: str, number: int | None = None) -> SourceOpenError:
    error = SourceOpenError(f"cannot open packed memory {path}: {field}: {why}")
    error.path, error.field, error.errno = str(path), field, number or 0
    return error
