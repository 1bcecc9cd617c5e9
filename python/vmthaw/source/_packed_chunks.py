"""Where `vmthaw snapshot pack` keeps chunks and manifests: a directory, or a prefix of an object store.

DIR/chunks/ab/cdef....zst    one zstd (or LZ4: .lz4) frame; the name is blake2b-256 of what it decompresses to
DIR/snapshots/NAME.json      size, chunk size, codec, and for each chunk its hash, or null for zeros
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vmthaw._whole_file import whole_file, write_at
from vmthaw.errors import SourceOpenError, StateError

SUFFIXES = {"zstd": ".zst", "lz4": ".lz4"}
MOST_MANIFEST_BYTES = 2 << 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class PackedChunks(Protocol):
    """Chunks by their hashes and manifests by their names. Whatever is put is there whole or not at all. Any thread.
    Methods raise OSError, which says where, SourceOpenError for a manifest or a name that cannot be, and StateError
    after `close`."""

    at_once: int
    """How many threads make sense."""

    def place(self, digest: bytes, codec: str) -> Path | str:
        """Where a chunk is, for messages."""

    def manifest_place(self, name: str) -> Path | str:
        """Where a manifest is. Raises SourceOpenError for a name with other signs than letters, digits, ``._-``."""

    def bytes_of(self, digest: bytes, codec: str) -> int:
        """The size of a chunk's frame; 0 when it is not there."""

    def put(self, digest: bytes, codec: str, frame: bytes) -> None:
        """Stores a frame."""

    def get(self, digest: bytes, codec: str) -> bytes:
        """A chunk's frame."""

    def names(self) -> list[str]:
        """The memories that are there, sorted."""

    def has_manifest(self, name: str) -> bool:
        """Whether a memory is there."""

    def put_manifest(self, name: str, content: bytes) -> None:
        """Stores a manifest after all chunks that were put, durably."""

    def get_manifest(self, name: str) -> bytes:
        """A manifest as it was written. SourceOpenError when it is not there."""

    def close(self) -> None:
        """Nothing is stored from now on, and where a store is asked just now, that ends. Idempotent."""


def packed_chunks(where: Path | str, config: Mapping[str, Any] | None = None) -> PackedChunks:
    """A directory, or what ``s3://BUCKET/PREFIX`` and the like name. Raises what `ObjectStoreSource` does."""
    if isinstance(where, str) and "://" in where:
        from vmthaw.source._object_store._object_chunks import ObjectChunks

        return ObjectChunks(where, config)
    return DirectoryChunks(Path(where))


def chunk_name(digest: bytes, codec: str) -> str:
    """``chunks/ab/cdef....zst``."""
    text = digest.hex()
    return f"chunks/{text[:2]}/{text[2:]}{SUFFIXES[codec]}"


def manifest_name(where: Path | str, name: str) -> str:
    """``snapshots/NAME.json``. Raises SourceOpenError for a name that leads elsewhere."""
    if not _NAME.fullmatch(name):
        why = "a snapshot's name has letters, digits, '.', '_' and '-' only"
        raise wrong_manifest(f"{where}/{name}", "name", why)
    return f"snapshots/{name}.json"


def wrong_manifest(path: Path | str, field: str, why: str, number: int | None = None) -> SourceOpenError:
    """To be raised: `field` is what is wrong."""
    error = SourceOpenError(f"cannot open packed memory {path}: {field}: {why}")
    error.path, error.field, error.errno = str(path), field, number or 0
    return error


class DirectoryChunks:
    """`PackedChunks` in a directory: each file is written beside its place and renamed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._closed = False
        self.at_once = len(os.sched_getaffinity(0))

    def place(self, digest: bytes, codec: str) -> Path:
        return self._directory / chunk_name(digest, codec)

    def manifest_place(self, name: str) -> Path:
        return self._directory / manifest_name(self._directory, name)

    def bytes_of(self, digest: bytes, codec: str) -> int:
        try:
            return self.place(digest, codec).stat().st_size
        except OSError:
            return 0

    def put(self, digest: bytes, codec: str, frame: bytes) -> None:
        if self._closed:
            raise StateError(f"the store {self._directory} was closed")
        path = self.place(digest, codec)
        try:
            _write_whole(path, frame)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, frame)

    def close(self) -> None:
        self._closed = True

    def get(self, digest: bytes, codec: str) -> bytes:
        return self.place(digest, codec).read_bytes()

    def names(self) -> list[str]:
        return sorted(path.stem for path in (self._directory / "snapshots").glob("*.json"))

    def has_manifest(self, name: str) -> bool:
        return self.manifest_place(name).exists()

    def put_manifest(self, name: str, content: bytes) -> None:
        path = self.manifest_place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync(self._directory)
        _write_whole(path, content, sync=True)
        _sync(self._directory)

    def get_manifest(self, name: str) -> bytes:
        path = self.manifest_place(name)
        try:
            if path.stat().st_size > MOST_MANIFEST_BYTES:
                raise wrong_manifest(path, "size", "it is larger than any manifest")
            return path.read_bytes()
        except OSError as error:
            why = f"{error.strerror}; was the memory packed to its end?"
            raise wrong_manifest(path, "file", why, error.errno) from error


def _write_whole(path: Path, data: bytes, *, sync: bool = False) -> None:
    with whole_file(path, sync=sync) as file:
        write_at(file, 0, data)


def _sync(directory: Path) -> None:
    """Everything that was written to the file system of `directory` is on its disk: one call for all chunks."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(file):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(file)
