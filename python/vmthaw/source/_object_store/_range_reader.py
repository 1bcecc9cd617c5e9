"""Reads ranges of one object, each of which is checked."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from vmthaw.source._object_store._answer_to import answer_to
from vmthaw.source._object_store._asker import Asker, RetryableError, read_error, stale

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer


class RangeReader:
    """A coroutine for `PythonSource`: gives exactly the bytes of a range of the object as it was when it was opened.

    A store that answers with another version, range, size or length is never believed: the first is ESTALE, the rest is
    tried again. So is what may pass (500, 503, a connection that ends). For one event loop.
    """

    def __init__(self, store: ObjectStore, path: str, url: str, *, size: int, etag: str | None, asker: Asker) -> None:
        import obstore

        self._get = obstore.get_async
        self._errors = (obstore.exceptions.BaseError, OSError)
        self._store = store
        self._path = path
        self._url = url
        self._size = size
        self._etag = etag
        self._asker = asker

    async def __call__(self, offset: int, size: int) -> Buffer:
        """OSError with what the store said, where, and the remedy."""
        return await self._asker.ask(lambda: self._once(offset, size))

    async def _once(self, offset: int, size: int) -> Buffer:
        where = f"{size} bytes at offset {offset:#x} of {self._url}"
        options: dict[str, Any] = {"range": (offset, offset + size)}
        if self._etag is not None:
            options["if_match"] = self._etag
        try:
            result = await answer_to(self._get(self._store, self._path, options=options))  # type: ignore[arg-type]
            data = await answer_to(result.bytes_async())
        except self._errors as error:
            raise read_error(where, error) from error
        if self._etag is not None and result.meta["e_tag"] not in (None, self._etag):
            raise stale(where)  # by a store that does not know If-Match
        if result.meta["size"] != self._size or result.range != (offset, offset + size) or len(data) != size:
            raise RetryableError(
                errno.EBADMSG,
                f"{where}: the store gave {len(data)} bytes as {result.range} of {result.meta['size']}, which is not"
                f" what was asked for (the object has {self._size} bytes)",
            )
        self._asker.stats.bytes += size
        return data
