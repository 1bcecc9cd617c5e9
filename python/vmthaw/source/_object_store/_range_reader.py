"""Reads ranges of one object: checked, tried again, and asked for twice where the first answer is late."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmthaw.source._object_store._latencies import Latencies
from vmthaw.source._object_store._store import said

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_EARLIEST_SECOND_S = 0.002


@dataclass
class ObjectStoreStats:
    """What one source asked its store for. Written by the source's thread; a reader may see it a request late."""

    requests: int = 0
    """Ranges asked for, retries and second requests included."""
    bytes: int = 0
    """That came."""
    retries: int = 0
    """Requests after one that failed."""
    hedges: int = 0
    """Second requests, because the first took longer than the 95th percentile."""
    hedges_won: int = 0
    """Second requests that answered first."""


class RetryableError(OSError):
    """What may pass: the next attempt asks again."""


class RangeReader:
    """A coroutine for `PythonSource`: gives exactly the bytes of a range of the object as it was when it was opened.

    A store that answers with another version, range, size or length is never believed: the first is ESTALE, the rest is
    tried again. So is what may pass (500, 503, a connection that ends), with pauses that double and are random (full
    jitter), at most `attempts` times in all. For one event loop.
    """

    def __init__(
        self, store: ObjectStore, path: str, url: str, *, size: int, etag: str | None, attempts: int, hedge: bool
    ) -> None:
        import obstore

        self._get = obstore.get_async
        self._errors = obstore.exceptions
        self._store = store
        self._path = path
        self._url = url
        self._size = size
        self._etag = etag
        self._attempts = attempts
        self._hedge = hedge
        self._random = random.Random()
        self._latencies = Latencies()
        self.stats = ObjectStoreStats()

    async def __call__(self, offset: int, size: int) -> Buffer:
        """OSError with what the store said, where, and the remedy."""
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._first_of_two(offset, size)
            except RetryableError as error:
                if attempt == self._attempts:
                    tried = f"{attempt} attempts failed: see what the store suffers from, or allow more"
                    raise OSError(error.errno, f"{error.strerror}; {tried}") from error
            self.stats.retries += 1
            await asyncio.sleep(self._pause(attempt))
        raise AssertionError  # attempts is at least 1

    def _pause(self, attempt: int) -> float:
        return self._random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1)))

    async def _first_of_two(self, offset: int, size: int) -> Buffer:
        first = asyncio.create_task(self._timed(offset, size))
        late = self._latencies.p95 if self._hedge else None
        if late is None:
            return await first
        running = {first}
        try:
            done, _ = await asyncio.wait(running, timeout=max(late, _EARLIEST_SECOND_S))
            if not done:
                self.stats.hedges += 1
                running.add(asyncio.create_task(self._timed(offset, size)))
            return await self._winner(running, first)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _winner(self, running: set[asyncio.Task[Buffer]], first: asyncio.Task[Buffer]) -> Buffer:
        """The first that has bytes; an error only when no other may still have them."""
        left = set(running)
        while True:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    self.stats.hedges_won += task is not first
                    return task.result()
            if not left:
                return next(iter(done)).result()

    async def _timed(self, offset: int, size: int) -> Buffer:
        start = time.monotonic()
        data = await self._once(offset, size)
        self._latencies.add(time.monotonic() - start)
        return data

    async def _once(self, offset: int, size: int) -> Buffer:
        where = f"{size} bytes at offset {offset:#x} of {self._url}"
        self.stats.requests += 1
        try:
            options: dict[str, Any] = {"range": (offset, offset + size)}
            if self._etag is not None:
                options["if_match"] = self._etag
            result = await self._get(self._store, self._path, options=options)  # type: ignore[arg-type]
            data = await result.bytes_async()
        except self._errors.PreconditionError as error:
            raise _stale(where) from error
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, f"{where}: the object is gone: it must stay while VMs stand on it") from error
        except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
            why = f"the store refuses: check the credentials: {said(error)}"
            raise OSError(errno.EACCES, f"{where}: {why}") from error
        except self._errors.NotSupportedError as error:
            raise OSError(errno.EOPNOTSUPP, f"{where}: the server ignores ranges: put the file elsewhere") from error
        except (self._errors.BaseError, OSError) as error:
            raise self._other_error(where, error) from error
        if self._etag is not None and result.meta["e_tag"] not in (None, self._etag):
            raise _stale(where)  # by a store that does not know If-Match
        if result.meta["size"] != self._size or result.range != (offset, offset + size) or len(data) != size:
            raise RetryableError(
                errno.EBADMSG,
                f"{where}: the store gave {len(data)} bytes as {result.range} of {result.meta['size']}, which is not"
                f" what was asked for (the object has {self._size} bytes)",
            )
        self.stats.bytes += size
        return data

    @staticmethod
    def _other_error(where: str, error: Exception) -> OSError:
        text = said(error)
        if "status code: 416" in text:
            return OSError(errno.ESTALE, f"{where}: the object has become shorter: write snapshots anew: {text}")
        return RetryableError(errno.EREMOTEIO, f"{where}: {text}")


def _stale(where: str) -> OSError:
    return OSError(
        errno.ESTALE, f"{where}: the object was changed since it was opened: give snapshots names of their own"
    )
