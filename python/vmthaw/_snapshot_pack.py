"""Packing: a memory as files, or objects, named by what is in them: equal chunks of many snapshots are stored once.

A chunk is there whole or not at all, and the manifest comes last. So whatever is interrupted leaves whole chunks, which
the next try finds, and no manifest that lacks any.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from vmthaw import _core
from vmthaw._core import ExtentKind, PageSource
from vmthaw._run_ahead import run_ahead
from vmthaw._whole_file import whole_file, write_at
from vmthaw.errors import VmthawError, VmthawValueError
from vmthaw.source._object_store import PackedStoreSource
from vmthaw.source._packed_chunks import SUFFIXES, PackedChunks, packed_chunks
from vmthaw.source._packed_source import PackedChunk, PackedSource, PackManifest

Progress = Callable[[int, int], object]

DEFAULT_CHUNK_BYTES = 256 << 10


@dataclass
class PackResult:
    """What `pack` did, in bytes and chunks. `stored` chunks were written, `shared` ones were there."""

    size: int = 0
    zero_bytes: int = 0
    chunks: int = 0
    stored: int = 0
    shared: int = 0
    stored_bytes: int = 0


def pack(
    source: PageSource,
    directory: Path | str,
    name: str,
    *,
    codec: str = "zstd",
    level: int | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Packs the memory that `source` is into `directory` (or ``s3://bucket/prefix``) as `name`. Chunks that are there
    are not written again.

    `progress(done, total)`, in bytes, is called on the calling thread after each chunk. Reading, hashing and
    compressing run on `threads` threads (default: one for each processor, 32 for an object store) without the GIL.
    Raises VmthawValueError, OSError, SourceOpenError, or what reading the source raises; chunks that were written stay,
    and are found again. Ctrl-C ends it, also where the store or the source does not answer: a read that is under way
    then ends when the source is closed, or answers; nothing comes of it.
    """
    if codec not in SUFFIXES:
        raise VmthawValueError(f"codec must be zstd or lz4, not {codec!r}")
    if chunk_bytes & (chunk_bytes - 1) or not 4096 <= chunk_bytes <= 4 << 20:
        raise VmthawValueError(f"chunk_bytes is {chunk_bytes}; it must be a power of two from 4096 to 4194304")
    if source.start or not source.size:
        raise VmthawValueError(f"{source.description} does not begin at 0, or is empty: it cannot be packed")
    result = PackResult(size=source.size)
    chunks: list[PackedChunk | None] = []
    with contextlib.closing(packed_chunks(directory)) as store:
        store.manifest_place(name)  # refuses the name
        _core.ChunkCompressor(codec, level)  # refuses the level before a thread meets it
        with _Packer(source, store, codec, level, chunk_bytes).run(threads or store.at_once) as packed:
            for one in packed:
                chunk, stored = one or (None, False)
                chunks.append(chunk)
                begin = (len(chunks) - 1) * chunk_bytes
                if chunk is None:
                    result.zero_bytes += min(chunk_bytes, source.size - begin)
                else:
                    result.stored += stored
                    result.shared += not stored
                    result.stored_bytes += chunk.packed_bytes if stored else 0
                if progress is not None:
                    progress(min(begin + chunk_bytes, source.size), source.size)
        result.chunks = len(chunks)
        store.put_manifest(name, PackManifest(source.size, chunk_bytes, codec, chunks).to_json())
    return result


class _Packer:
    """Packs chunks on threads, a few ahead of whoever takes them in order."""

    def __init__(
        self, source: PageSource, store: PackedChunks, codec: str, level: int | None, chunk_bytes: int
    ) -> None:
        self._source = source
        self._store = store
        self._codec = codec
        self._level = level
        self._chunk_bytes = chunk_bytes
        self._zeros = bytes(chunk_bytes)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()

    def run(self, threads: int) -> AbstractContextManager[Iterator[tuple[PackedChunk | None, bool] | None]]:
        """For each chunk what it became and whether it was written; None for one of zeros."""
        offsets = range(0, self._source.size, self._chunk_bytes)
        wanted = (None if self._is_hole(offset) else offset for offset in offsets)
        return run_ahead(self._pack, wanted, "vmthaw-pack", threads, give_up=self._store.close)

    def _size_at(self, offset: int) -> int:
        return min(self._chunk_bytes, self._source.size - offset)

    def _is_hole(self, offset: int) -> bool:
        size = self._size_at(offset)
        _, length, kind = self._source.extent_at(offset, size)
        return kind == ExtentKind.zero and length >= size

    def _pack(self, offset: int) -> tuple[PackedChunk | None, bool]:
        data = self._source.read(offset, self._size_at(offset))
        if data == self._zeros or (len(data) < self._chunk_bytes and not any(data)):
            return None, False
        digest = hashlib.blake2b(data, digest_size=32).digest()
        checksum = _core.xxh64(data) & 0xFFFFFFFF
        if size := self._store.bytes_of(digest, self._codec):
            return PackedChunk(digest, size, checksum), False
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = _core.ChunkCompressor(self._codec, self._level)
        frame = compressor.compress(data)
        with self._lock:
            is_first = digest not in self._claimed  # another thread may be writing the same bytes just now
            self._claimed.add(digest)
        if is_first:
            self._store.put(digest, self._codec, frame)
        return PackedChunk(digest, len(frame), checksum), is_first


def unpack(
    directory: Path | str, name: str, output: Path, *, threads: int | None = None, progress: Progress | None = None
) -> int:
    """Writes the memory `name` of `directory` to `output`, sparse, complete or not at all. Gives its size in bytes.

    Reading, decompressing and writing run on `threads` threads (default: one for each processor, 32 for an object
    store) without the GIL. `progress(done, total)`, in bytes, is called on the calling thread. Raises SourceOpenError,
    SourceIoError (which names the damaged chunk and its file), ShortReadError or OSError.
    """
    is_far = isinstance(directory, str) and "://" in directory
    with (
        PackedStoreSource(str(directory), name) if is_far else PackedSource(directory, name) as source,
        whole_file(output) as file,
    ):
        os.truncate(file, source.size)
        step = source.largest_chunk
        output_file = _SharedFile(file)

        def copy(piece: tuple[int, int]) -> int:
            offset, size = piece
            write_at(output_file.number, offset, source.read(offset, size))
            return offset + size

        pieces = (
            (offset, min(step, end - offset))
            for begin, end in _data(source)
            for offset in range(begin, end, step)
        )  # fmt: skip
        threads = threads or packed_chunks(directory).at_once
        with run_ahead(copy, pieces, "vmthaw-unpack", threads, give_up=source.close) as copied:
            for done in copied:
                if progress is not None and done is not None:
                    progress(done, source.size)
        if progress is not None:
            progress(source.size, source.size)
        return source.size


class _SharedFile:
    """A descriptor of the same file, `number`, that stays open as long as somebody may write to it."""

    def __init__(self, file: int) -> None:
        self.number = os.dup(file)

    def __del__(self) -> None:
        os.close(self.number)


def _data(source: PageSource) -> Iterator[tuple[int, int]]:
    """Where data begins and ends."""
    for offset, size, kind in source.extents().tolist():
        if kind == ExtentKind.data:
            yield offset, offset + size


@dataclass(frozen=True)
class Damage:
    """A chunk that is not what its name says: its file or object, what is wrong, and where it is in which snapshot."""

    path: Path | str
    why: str
    snapshot: str
    offset: int

    def __str__(self) -> str:
        return f"{self.path}: {self.why} (memory from {self.offset:#x} on, of {self.snapshot})"


@dataclass(frozen=True)
class _Wanted:
    """A chunk to be verified, and the last of the places that want it."""

    chunk: PackedChunk
    codec: str
    size: int
    snapshot: str
    offset: int


def verify(
    directory: Path | str, names: list[str], *, threads: int | None = None, progress: Progress | None = None
) -> list[Damage]:
    """Reads every chunk of the snapshots `names` (none: all there are), once, and holds it against its hash. Gives what
    is damaged. Runs as `unpack` does. Raises SourceOpenError for a manifest that is wrong."""
    done = 0
    damage = []
    with contextlib.closing(packed_chunks(directory)) as store:
        wanted = _wanted(store, names)
        total = sum(one.chunk.packed_bytes for one in wanted)

        def check(one: _Wanted) -> tuple[int, Damage | None]:
            why = _wrong_with(store, one)
            place = store.place(one.chunk.hash, one.codec)
            return one.chunk.packed_bytes, Damage(place, why, one.snapshot, one.offset) if why else None

        with run_ahead(check, wanted, "vmthaw-verify", threads or store.at_once, give_up=store.close) as checked:
            for packed_bytes, wrong in filter(None, checked):
                if wrong is not None:
                    damage.append(wrong)
                done += packed_bytes
                if progress is not None:
                    progress(done, total)
    return damage


def _wanted(store: PackedChunks, names: list[str]) -> Collection[_Wanted]:
    manifests = {name: PackManifest.read(store, name) for name in names or store.names()}
    return {
        (chunk.hash, manifest.codec): _Wanted(
            chunk, manifest.codec, min(manifest.chunk_bytes, manifest.size - offset), name, offset
        )
        for name, manifest in manifests.items()
        for number, chunk in reversed(list(enumerate(manifest.chunks)))
        if chunk is not None
        for offset in [number * manifest.chunk_bytes]
    }.values()


def _wrong_with(store: PackedChunks, one: _Wanted) -> str:
    try:
        data = _core.decompress_chunk(store.get(one.chunk.hash, one.codec), one.codec, one.size)
    except VmthawError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    if hashlib.blake2b(data, digest_size=32).digest() != one.chunk.hash:
        return "what it decompresses to does not have the hash that names it"
    return "" if _core.xxh64(data) & 0xFFFFFFFF == one.chunk.checksum else "the manifest has another checksum for it"
