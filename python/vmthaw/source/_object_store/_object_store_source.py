"""`ObjectStoreSource`: a memory file in an object store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vmthaw.source._object_store._answer_to import answer_to
from vmthaw.source._object_store._asker import Asker
from vmthaw.source._object_store._questions import Questions
from vmthaw.source._object_store._range_reader import RangeReader
from vmthaw.source._object_store._store import explained, open_error, why_missing
from vmthaw.source._object_store._store_source import MIB, Found, StoreSource

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ObjectStoreSource"]


class ObjectStoreSource(StoreSource):
    """A memory file in S3, GCS, Azure or behind HTTP: ``s3://bucket/key``, ``gs://...``, ``az://...``, ``https://...``.

    Needs the extra ``[s3]`` (obstore). Credentials, regions and endpoints come from the environment, as the stores' own
    tools read them (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``,
    ``AZURE_STORAGE_ACCOUNT_NAME``...), or from `config`, in obstore's words.

    It is read in aligned ranges of `chunk` bytes, up to `concurrency` at once, each fetched once and kept in `memory`
    bytes, and below `disk` as far as `disk_size` goes (by URL and version of the object, so another restore finds it).
    When an answer is later than 19 of 20 were lately, the range is asked for a second time and the first answer counts
    (`hedge`). What may pass (500, 503, ended connections, answers that are no answer to what was asked) is tried
    `attempts` times in all, with pauses that grow and are random. An object that is replaced while it is in use is
    noticed by its ETag: reads fail with ESTALE then, so that no guest sees a mixture. A request that takes half of
    `timeout` seconds has failed, a read that is not answered within all of them is ETIMEDOUT.

    `extents` (rows of offset, size, kind) tell data from zeros, which are never fetched; without it all is data. An
    object whose size is no multiple of 4 KiB is followed by zeros to the end of its last page, as a `FileSource` is.

    Raises SourceOpenError when the object cannot be found or reached, MissingExtraError, VmthawValueError. Reads raise
    what `PageSource.read` does, with what the store said; ``vmthaw.source`` logs more of it. The GIL is taken on
    threads of the source's alone, where the requests are made. In a forked child the source is inert.
    """

    def __init__(
        self,
        url: str,
        *,
        chunk: int = MIB,
        memory: int = 256 * MIB,
        disk: str | os.PathLike[str] | None = None,
        disk_size: int = 10 * 1024 * MIB,
        concurrency: int = 32,
        attempts: int = 5,
        hedge: bool = True,
        timeout: float = 30.0,
        extents: Iterable[Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:

        def find(store: ObjectStore, path: str, asker: Asker) -> Found:
            with Questions() as questions:
                size, etag = questions.ask(_look(store, path, url))
            reader = RangeReader(store, path, url, size=size, etag=etag, asker=asker)
            return Found(reader, size, chunk, extents, url, f"{url} {etag} {size} {chunk}")

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


async def _look(store: ObjectStore, path: str, url: str) -> tuple[int, str | None]:
    """Size in bytes and ETag."""
    import obstore

    try:
        found = await answer_to(obstore.head_async(store, path))
    except FileNotFoundError as error:
        raise open_error(url, *await why_missing(store, path, error)) from error
    except Exception as error:
        number, why = explained(error)
        remedy = "the store cannot be asked: " if number == errno.EREMOTEIO else ""
        raise open_error(url, number, remedy + why) from error
    if found["size"] == 0:
        raise open_error(url, 0, "the object is empty: it holds no memory")
    return found["size"], found["e_tag"]
