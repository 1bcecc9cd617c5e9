"""Packed chunks and manifests as objects."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmthaw.source._object_store._store import explained, store_of
from vmthaw.source._packed_chunks import MOST_MANIFEST_BYTES, chunk_name, manifest_name, wrong_manifest

if TYPE_CHECKING:
    pass


_TIMEOUT_S = 60.0
_RETRIES = 5


class ObjectChunks:
    """`PackedChunks` below a prefix. A chunk is put only if it is not there: of two who pack, one stores it. What may
    pass is tried again by obstore. The GIL is released while a store is asked."""

    at_once = 32

    def __init__(self, url: str, config: Mapping[str, Any] | None = None) -> None:
        self._url = url.rstrip("/")
        self._store, self._prefix = store_of(self._url, _TIMEOUT_S, config, retries=_RETRIES)

    def place(self, digest: bytes, codec: str) -> str:
        return f"{self._url}/{chunk_name(digest, codec)}"

    def manifest_place(self, name: str) -> str:
        return f"{self._url}/{manifest_name(self._url, name)}"

    def bytes_of(self, digest: bytes, codec: str) -> int:
        return self._size(chunk_name(digest, codec))

    def put(self, digest: bytes, codec: str, frame: bytes) -> None:
        import obstore

        name = chunk_name(digest, codec)
        with contextlib.suppress(obstore.exceptions.AlreadyExistsError), self._saying(name):
            try:
                obstore.put(self._store, self._path(name), frame, mode="create")
            except (obstore.exceptions.NotSupportedError, NotImplementedError):
                obstore.put(self._store, self._path(name), frame)  # the same memory, whoever was first

    def get(self, digest: bytes, codec: str) -> bytes:
        return self._get(chunk_name(digest, codec))

    def names(self) -> list[str]:
        import obstore

        with self._saying("snapshots"):
            listed = obstore.list(self._store, prefix=self._path("snapshots")).collect()
        paths = [str(one["path"]).rpartition("/")[2] for one in listed]
        return sorted(path.removesuffix(".json") for path in paths if path.endswith(".json"))

    def has_manifest(self, name: str) -> bool:
        return self._size(manifest_name(self._url, name)) > 0

    def put_manifest(self, name: str, content: bytes) -> None:
        import obstore

        place = manifest_name(self._url, name)
        with self._saying(place):
            obstore.put(self._store, self._path(place), content)

    def get_manifest(self, name: str) -> bytes:
        place = manifest_name(self._url, name)
        url = f"{self._url}/{place}"
        try:
            if self._size(place) > MOST_MANIFEST_BYTES:
                raise wrong_manifest(url, "size", "it is larger than any manifest")
            return self._get(place)
        except OSError as error:
            why = f"{error.strerror}; was the memory packed to its end?"
            raise wrong_manifest(url, "file", why, error.errno) from error

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _get(self, name: str) -> bytes:
        import obstore

        with self._saying(name):
            return obstore.get(self._store, self._path(name)).bytes().to_bytes()

    def _size(self, name: str) -> int:
        """0 when it is not there, which a bucket that is not there says too: a GET or PUT tells them apart."""
        import obstore

        with self._saying(name):
            try:
                return obstore.head(self._store, self._path(name))["size"]
            except FileNotFoundError:
                return 0

    @contextlib.contextmanager
    def _saying(self, name: str) -> Iterator[None]:
        """What the store refuses as an OSError that says where and why."""
        import obstore

        try:
            yield
        except obstore.exceptions.AlreadyExistsError:
            raise
        except (obstore.exceptions.BaseError, OSError) as error:
            number, why = explained(error)
            raise OSError(number or errno.EIO, f"{self._url}/{name}: {why}") from error
