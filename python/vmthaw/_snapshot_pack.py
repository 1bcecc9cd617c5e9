"""Packing: a memory as files named by what is in them, so that equal chunks of many snapshots are stored once.

    DIR/chunks/ab/cdef....zst    one zstd (or LZ4: .lz4) frame; the name is blake2b-256 of what it decompresses to
    DIR/snapshots/NAME.json      size, chunk size, codec, and for each chunk its hash, or null for zeros

A chunk is written beside its place and renamed; the manifest comes last. So whatever is interrupted leaves whole
chunks, which the next try finds, and no manifest that lacks any.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from vmthaw import _core
from vmthaw._core import ExtentKind, PageSource
from vmthaw._run_ahead import run_ahead
from vmthaw.errors import VmthawError, VmthawValueError
from vmthaw.source._packed_source import SUFFIXES, PackedChunk, PackedSource, PackManifest, chunk_file

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
    directory: Path,
    name: str,
    *,
    codec: str = "zstd",
    level: int | None = None,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PackResult:
    """Packs the memory that `source` is into `directory` as `name`. Chunks that are there are not written again.

    `progress(done, total)`, in bytes, is called on the calling thread after each chunk. Reading, hashing and
    compressing run on `threads` threads (default: one for each processor) without the GIL. Raises VmthawValueError,
    OSError, or what reading the source raises; chunks that were written stay, and are found again.
    """
    if codec not in SUFFIXES:
        raise VmthawValueError(f"codec must be zstd or lz4, not {codec!r}")
    if chunk_bytes & (chunk_bytes - 1) or not 4096 <= chunk_bytes <= 4 << 20:
        raise VmthawValueError(f"chunk_bytes is {chunk_bytes}; it must be a power of two from 4096 to 4194304")
    if source.start or not source.size:
        raise VmthawValueError(f"{source.description} does not begin at 0, or is empty: it cannot be packed")
    manifest_path = PackManifest.path(directory, name)
    _core.ChunkCompressor(codec, level)  # refuses the level before a thread meets it
    manifest_path.parent.mkdir(parents=True, exist_ok=True)
    packer = _Packer(source, directory, codec, level, chunk_bytes)
    result = PackResult(size=source.size)
    chunks: list[PackedChunk | None] = []
    with contextlib.closing(packer.run(threads)) as packed:
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
    _sync(directory)
    _write_whole(manifest_path, PackManifest(source.size, chunk_bytes, codec, chunks).to_json(), sync=True)
    _sync(directory)
    return result


class _Packer:
    """Packs chunks on threads, a few ahead of whoever takes them in order."""

    def __init__(self, source: PageSource, directory: Path, codec: str, level: int | None, chunk_bytes: int) -> None:
        self._source = source
        self._directory = directory
        self._codec = codec
        self._level = level
        self._chunk_bytes = chunk_bytes
        self._zeros = bytes(chunk_bytes)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._claimed: set[bytes] = set()

    def run(self, threads: int | None) -> Generator[tuple[PackedChunk | None, bool] | None, None, None]:
        """For each chunk what it became and whether it was written; None for one of zeros."""
        offsets = range(0, self._source.size, self._chunk_bytes)
        wanted = (None if self._is_hole(offset) else offset for offset in offsets)
        return run_ahead(self._pack, wanted, "vmthaw-pack", threads)

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
        path = chunk_file(self._directory, digest, self._codec)
        with contextlib.suppress(OSError):
            if size := path.stat().st_size:
                return PackedChunk(digest, size, checksum), False
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = _core.ChunkCompressor(self._codec, self._level)
        frame = compressor.compress(data)
        with self._lock:
            is_first = digest not in self._claimed  # another thread may be writing the same bytes just now
            self._claimed.add(digest)
        if is_first:
            try:
                _write_whole(path, frame)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_whole(path, frame)
        return PackedChunk(digest, len(frame), checksum), is_first


def unpack(
    directory: Path, name: str, output: Path, *, threads: int | None = None, progress: Progress | None = None
) -> int:
    """Writes the memory `name` of `directory` to `output`, sparse, complete or not at all. Gives its size in bytes.

    Reading, decompressing and writing run on `threads` threads (default: one for each processor) without the GIL.
    `progress(done, total)`, in bytes, is called on the calling thread. Raises SourceOpenError, SourceIoError (which
    names the damaged chunk and its file), ShortReadError or OSError.
    """
    with PackedSource(directory, name) as source, _partial(output) as file:
        os.truncate(file, source.size)
        step = source.largest_chunk

        def copy(piece: tuple[int, int]) -> int:
            offset, size = piece
            _write_at(file, source.read(offset, size), offset)
            return offset + size

        pieces = (
            (offset, min(step, end - offset))
            for begin, end in _data(source)
            for offset in range(begin, end, step)
        )  # fmt: skip
        with contextlib.closing(run_ahead(copy, pieces, "vmthaw-unpack", threads)) as copied:
            for done in copied:
                if progress is not None and done is not None:
                    progress(done, source.size)
        if progress is not None:
            progress(source.size, source.size)
        return source.size


def _data(source: PageSource) -> Iterator[tuple[int, int]]:
    """Where data begins and ends."""
    for offset, size, kind in source.extents().tolist():
        if kind == ExtentKind.data:
            yield offset, offset + size


@dataclass(frozen=True)
class Damage:
    """A chunk that is not what its name says: the file, what is wrong, and where it is in which snapshot."""

    path: Path
    why: str
    snapshot: str
    offset: int

    def __str__(self) -> str:
        return f"{self.path}: {self.why} (memory from {self.offset:#x} on, of {self.snapshot})"


def verify(
    directory: Path, names: list[str], *, threads: int | None = None, progress: Progress | None = None
) -> list[Damage]:
    """Reads every chunk of the snapshots `names` (none: all there are), once, and holds it against its hash. Gives what
    is damaged. Runs as `unpack` does. Raises SourceOpenError for a manifest that is wrong."""
    names = names or sorted(path.stem for path in (directory / "snapshots").glob("*.json"))
    manifests = {name: PackManifest.read(directory, name) for name in names}
    wanted = {
        (chunk.hash, manifest.codec): (chunk, name, number * manifest.chunk_bytes, manifest)
        for name, manifest in manifests.items()
        for number, chunk in reversed(list(enumerate(manifest.chunks)))
        if chunk is not None
    }
    total = sum(chunk.packed_bytes for chunk, *_ in wanted.values())

    def check(one: tuple[PackedChunk, str, int, PackManifest]) -> tuple[int, Damage | None]:
        chunk, name, offset, manifest = one
        path = chunk_file(directory, chunk.hash, manifest.codec)
        why = _wrong_with(path, chunk, manifest, min(manifest.chunk_bytes, manifest.size - offset))
        return chunk.packed_bytes, Damage(path, why, name, offset) if why else None

    done = 0
    damage = []
    with contextlib.closing(run_ahead(check, wanted.values(), "vmthaw-verify", threads)) as checked:
        for packed_bytes, wrong in filter(None, checked):
            if wrong is not None:
                damage.append(wrong)
            done += packed_bytes
            if progress is not None:
                progress(done, total)
    return damage


def _wrong_with(path: Path, chunk: PackedChunk, manifest: PackManifest, size: int) -> str:
    try:
        data = _core.decompress_chunk(path.read_bytes(), manifest.codec, size)
    except VmthawError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    if hashlib.blake2b(data, digest_size=32).digest() != chunk.hash:
        return "what it decompresses to does not have the hash that names it"
    return "" if _core.xxh64(data) & 0xFFFFFFFF == chunk.checksum else "the manifest has another checksum for it"


def _write_whole(path: Path, data: bytes, *, sync: bool = False) -> None:
    with _partial(path, sync=sync) as file:
        _write_at(file, data, 0)


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(file, view, offset)
        offset += count
        view = view[count:]


@contextlib.contextmanager
def _partial(path: Path, *, sync: bool = True) -> Iterator[int]:
    """A descriptor of a new file that becomes `path` when all went well, and is removed otherwise. Mode 0600."""
    file, partial = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".partial", dir=path.parent)
    try:
        yield file
        if sync:
            os.fsync(file)
        Path(partial).rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        raise
    finally:
        os.close(file)


def _sync(directory: Path) -> None:
    """Everything that was written to the file system of `directory` is on its disk: one call for all chunks."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(file):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(file)
