"""Asks a store: again where that may help, and a second time where the first answer is late."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from vmthaw.source._object_store._latencies import Latencies
from vmthaw.source._object_store._store import said

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_EARLIEST_SECOND_S = 0.002

T = TypeVar("T")


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


class Asker:
    """Asks with a coroutine function, at most `attempts` times: what is a RetryableError is tried again, after pauses
    that double and are random (full jitter). For one event loop."""

    def __init__(self, attempts: int, *, hedge: bool) -> None:
        self._attempts = attempts
        self._hedge = hedge
        self._random = random.Random()
        self._latencies = Latencies()
        self.stats = ObjectStoreStats()

    async def ask(self, once: Callable[[], Awaitable[T]]) -> T:
        """What `once` gives. OSError with what the store said, where, and the remedy."""
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._first_of_two(once)
            except RetryableError as error:
                if attempt == self._attempts:
                    tried = f"{attempt} attempts failed: see what the store suffers from, or allow more"
                    raise OSError(error.errno, f"{error.strerror}; {tried}") from error
            self.stats.retries += 1
            await asyncio.sleep(self._pause(attempt))
        raise AssertionError  # attempts is at least 1

    def _pause(self, attempt: int) -> float:
        return self._random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1)))

    async def _first_of_two(self, once: Callable[[], Awaitable[T]]) -> T:
        first = asyncio.create_task(self._timed(once))
        late = self._latencies.p95 if self._hedge else None
        if late is None:
            return await first
        running = {first}
        try:
            done, _ = await asyncio.wait(running, timeout=max(late, _EARLIEST_SECOND_S))
            if not done:
                self.stats.hedges += 1
                running.add(asyncio.create_task(self._timed(once)))
            return await self._winner(running, first)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _winner(self, running: set[asyncio.Task[T]], first: asyncio.Task[T]) -> T:
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

    async def _timed(self, once: Callable[[], Awaitable[T]]) -> T:
        start = time.monotonic()
        self.stats.requests += 1
        given = await once()
        self._latencies.add(time.monotonic() - start)
        return given


def read_error(where: str, error: Exception) -> OSError:
    """Of what obstore raised for a GET: to be tried again or not, with what to do about it. `where` begins the text."""
    import obstore

    errors = obstore.exceptions
    text = said(error)
    if isinstance(error, errors.PreconditionError):
        return stale(where)
    if isinstance(error, FileNotFoundError):
        return OSError(errno.ENOENT, f"{where}: the object is gone: it must stay while VMs stand on it")
    if isinstance(error, errors.PermissionDeniedError | errors.UnauthenticatedError):
        return OSError(errno.EACCES, f"{where}: the store refuses: check the credentials: {text}")
    if isinstance(error, errors.NotSupportedError):
        return OSError(errno.EOPNOTSUPP, f"{where}: the server ignores ranges: put the file elsewhere")
    if "status code: 416" in text:
        return OSError(errno.ESTALE, f"{where}: the object has become shorter: write snapshots anew: {text}")
    return RetryableError(errno.EREMOTEIO, f"{where}: {text}")


def stale(where: str) -> OSError:
    """The object is another one."""
    return OSError(
        errno.ESTALE, f"{where}: the object was changed since it was opened: give snapshots names of their own"
    )
