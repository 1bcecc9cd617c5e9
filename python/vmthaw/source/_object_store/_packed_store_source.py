"""`PackedStoreSource`: a memory that `vmthaw snapshot pack` wrote to an object store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from vmthaw import _core
from vmthaw.errors import VmthawError
from vmthaw.source._object_store._answer_to import answer_to
from vmthaw.source._object_store._asker import Asker, RetryableError, read_error
from vmthaw.source._object_store._store_source import MIB, Found, StoreSource
from vmthaw.source._packed_chunks import chunk_name, packed_chunks
from vmthaw.source._packed_source import PackManifest

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer

__all__ = ["PackedStoreSource"]

_MOST_FRAME_BYTES = 8 * MIB  # as the core's PackedSource: twice the largest chunk
_REMEDY = "remove it and pack the memory again, which stores only what is missing"


class PackedStoreSource(StoreSource):
    """The memory `name` of what `vmthaw snapshot pack` wrote to an object store: ``s3://bucket/prefix``.

    Chunks are objects named by the hash of their contents. Each is fetched and decompressed when a page of it is first
    wanted, once for however many faults wait for it, up to `concurrency` at once, and kept, decompressed, in `memory`
    bytes, and below `disk` as far as `disk_size` goes. Zeros are known from the manifest and never fetched. Credentials
    and `hedge`, `attempts`, `timeout` and `config` are as of `ObjectStoreSource`. A chunk that is damaged is tried
    again, and then an EBADMSG of the reads that need it, which names the object. The rest of the last page is zeros.

    Raises SourceOpenError, whose `field` names what is wrong with the manifest, MissingExtraError, VmthawValueError and
    OSError when the store cannot be asked. The GIL is taken on threads of the source's alone. In a forked child the
    source is inert.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        memory: int = 256 * MIB,
        disk: str | os.PathLike[str] | None = None,
        disk_size: int = 10 * 1024 * MIB,
        concurrency: int = 32,
        attempts: int = 5,
        hedge: bool = True,
        timeout: float = 30.0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        url = url.rstrip("/")

        def find(store: ObjectStore, prefix: str, asker: Asker) -> Found:
            with contextlib.closing(packed_chunks(url, config)) as packed:
                manifest = PackManifest.read(packed, name)
            self.largest_chunk = manifest.chunk_bytes
            reader = _ChunkReader(store, prefix, url, manifest, asker)
            version = hashlib.blake2b(manifest.to_json(), digest_size=16).hexdigest()
            identity = f"{url} {name} {version}"
            return Found(reader, manifest.size, manifest.chunk_bytes, manifest.extents(), f"{url}/{name}", identity)

        super().__init__(
            url,
            find,
            memory=memory,
            disk=disk,
            disk_size=disk_size,
            concurrency=concurrency,
            attempts=attempts,
            hedge=hedge,
            timeout=timeout,
            config=config,
        )
        self.name = name


class _ChunkReader:
    """A coroutine for `PythonSource`: gives the memory of a chunk, or of several for a page that is larger than they
    are. For one event loop."""

    def __init__(self, store: ObjectStore, prefix: str, url: str, manifest: PackManifest, asker: Asker) -> None:
        import obstore

        self._get = obstore.get_async
        self._errors = (obstore.exceptions.BaseError, OSError)
        self._store = store
        self._prefix = prefix
        self._url = url
        self._manifest = manifest
        self._asker = asker

    async def __call__(self, offset: int, size: int) -> Buffer:
        """OSError with what is wrong, which object, and the remedy."""
        first, inside = divmod(offset, self._manifest.chunk_bytes)
        numbers = range(first, (offset + size - 1) // self._manifest.chunk_bytes + 1)
        chunks = [await self._asker.ask(partial(self._once, number)) for number in numbers]
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return data if inside == 0 and len(data) == size else memoryview(data)[inside : inside + size]

    async def _once(self, number: int) -> bytes:
        chunk = self._manifest.chunks[number]
        assert chunk is not None  # zeros are not asked for
        name = chunk_name(chunk.hash, self._manifest.codec)
        where = f"{self._url}/{name}"
        try:
            result = await answer_to(self._get(self._store, f"{self._prefix}/{name}"))
            if result.meta["size"] > _MOST_FRAME_BYTES:
                raise RetryableError(errno.EBADMSG, f"{where} is larger than any chunk: {_REMEDY}")
            frame = await answer_to(result.bytes_async())
        except RetryableError:
            raise
        except self._errors as error:
            raise read_error(where, error) from error
        self._asker.stats.bytes += len(frame)
        begin = number * self._manifest.chunk_bytes
        size = min(self._manifest.chunk_bytes, self._manifest.size - begin)
        try:
            data = _core.decompress_chunk(frame, self._manifest.codec, size)
        except VmthawError as error:
            raise RetryableError(errno.EBADMSG, f"{where}: {error}: {_REMEDY}") from error
        if _core.xxh64(data) & 0xFFFFFFFF != chunk.checksum:
            raise RetryableError(errno.EBADMSG, f"{where} does not have the manifest's checksum: {_REMEDY}")
        return data
