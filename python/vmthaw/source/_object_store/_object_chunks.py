"""Packed chunks and manifests as objects."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from vmthaw._closing import Closing
from vmthaw.source._object_store._answer_to import answer_to
from vmthaw.source._object_store._questions import Questions
from vmthaw.source._object_store._store import explained, store_of
from vmthaw.source._packed_chunks import MOST_MANIFEST_BYTES, chunk_name, manifest_name, wrong_manifest

_TIMEOUT_S = 60.0
_RETRIES = 5

T = TypeVar("T")


class ObjectChunks(Closing):
    """`PackedChunks` below a prefix. A chunk is put only if it is not there: of two who pack, one stores it. What may
    pass is tried again by obstore. The GIL is released while a store is asked, and Ctrl-C ends that."""

    at_once = 32

    def __init__(self, url: str, config: Mapping[str, Any] | None = None) -> None:
        self._url = url.rstrip("/")
        self._store, self._prefix = store_of(self._url, _TIMEOUT_S, config, retries=_RETRIES)
        self._questions = Questions()

    def close(self) -> None:
        self._questions.close()

    def place(self, digest: bytes, codec: str) -> str:
        return f"{self._url}/{chunk_name(digest, codec)}"

    def manifest_place(self, name: str) -> str:
        return f"{self._url}/{manifest_name(self._url, name)}"

    def bytes_of(self, digest: bytes, codec: str) -> int:
        return self._ask(chunk_name(digest, codec), self._size)

    def put(self, digest: bytes, codec: str, frame: bytes) -> None:
        self._ask(chunk_name(digest, codec), self._put_first, frame)

    def get(self, digest: bytes, codec: str) -> bytes:
        return self._ask(chunk_name(digest, codec), self._get)

    def names(self) -> list[str]:
        paths = [path.rpartition("/")[2] for path in self._ask("snapshots", self._list)]
        return sorted(path.removesuffix(".json") for path in paths if path.endswith(".json"))

    def has_manifest(self, name: str) -> bool:
        return self._ask(manifest_name(self._url, name), self._size) > 0

    def put_manifest(self, name: str, content: bytes) -> None:
        self._ask(manifest_name(self._url, name), self._put, content)

    def get_manifest(self, name: str) -> bytes:
        place = manifest_name(self._url, name)
        url = f"{self._url}/{place}"
        try:
            if self._ask(place, self._size) > MOST_MANIFEST_BYTES:
                raise wrong_manifest(url, "size", "it is larger than any manifest")
            return self._ask(place, self._get)
        except OSError as error:
            why = f"{error.strerror}; was the memory packed to its end?"
            raise wrong_manifest(url, "file", why, error.errno) from error

    async def _put_first(self, path: str, frame: bytes) -> None:
        import obstore

        with contextlib.suppress(obstore.exceptions.AlreadyExistsError):
            try:
                await answer_to(obstore.put_async(self._store, path, frame, mode="create"))
            except (obstore.exceptions.NotSupportedError, NotImplementedError):
                await self._put(path, frame)  # the same memory, whoever was first

    async def _put(self, path: str, content: bytes) -> None:
        import obstore

        await answer_to(obstore.put_async(self._store, path, content))

    async def _get(self, path: str) -> bytes:
        import obstore

        found = await answer_to(obstore.get_async(self._store, path))
        return (await answer_to(found.bytes_async())).to_bytes()

    async def _size(self, path: str) -> int:
        """0 when it is not there, which a bucket that is not there says too: a GET or PUT tells them apart."""
        import obstore

        try:
            return (await answer_to(obstore.head_async(self._store, path)))["size"]
        except FileNotFoundError:
            return 0

    async def _list(self, path: str) -> list[str]:
        import obstore

        listed = await answer_to(obstore.list(self._store, prefix=path).collect_async())
        return [str(one["path"]) for one in listed]

    def _ask(self, name: str, ask: Callable[..., Coroutine[Any, Any, T]], *arguments: bytes) -> T:
        """What the store refuses is an OSError that says where and why."""
        import obstore

        try:
            return self._questions.ask(ask(f"{self._prefix}/{name}", *arguments))
        except (obstore.exceptions.BaseError, OSError) as error:
            number, why = explained(error)
            raise OSError(number or errno.EIO, f"{self._url}/{name}: {why}") from error
