"""`StoreSource`: what the sources in object stores have in common."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmthaw import _core
from vmthaw.errors import VmthawValueError
from vmthaw.source._object_store._asker import Asker, ObjectStoreStats
from vmthaw.source._object_store._store import store_of
from vmthaw.source._python_source import PythonSource

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer

MIB = 1 << 20


@dataclass(frozen=True)
class Found:
    """What a store has: a memory of `size` bytes that `read` reads by aligned pieces of `chunk` bytes; rows of
    `extents` as of `PythonSource`. `name` is for messages, `identity` for the cache on disk."""

    read: Callable[[int, int], Awaitable[Buffer]]
    size: int
    chunk: int
    extents: Iterable[Any] | None
    name: str
    identity: str


class StoreSource(_core.CachedSource):
    """A memory that an object store has, behind a cache of its chunks. Options are as of `ObjectStoreSource`.

    `find(store, path, asker)` looks for it at the path that `url` names; reading asks by `asker` alone. Raises what
    `find` does, MissingExtraError, VmthawValueError and SourceOpenError.
    """

    def __init__(
        self,
        url: str,
        find: Callable[[ObjectStore, str, Asker], Found],
        *,
        memory: int,
        disk: str | os.PathLike[str] | None,
        disk_size: int,
        concurrency: int,
        attempts: int,
        hedge: bool,
        timeout: float,
        config: Mapping[str, Any] | None,
    ) -> None:
        if attempts < 1:
            raise VmthawValueError(f"attempts is {attempts}; it must be at least 1")
        store, path = store_of(url, timeout / 2, config)
        self._asker = Asker(attempts, hedge=hedge)
        found = find(store, path, self._asker)
        queued = max(64, 2 * concurrency)
        self._far = PythonSource(
            found.read, found.size, found.extents, concurrency, found.name, timeout=timeout, max_queued=queued
        )
        try:
            super().__init__(
                self._far, chunk=found.chunk, memory=memory, disk=disk, disk_size=disk_size, identity=found.identity
            )
        except BaseException:
            self._far.close()
            raise
        self.url = url

    @property
    def stats(self) -> ObjectStoreStats:
        """What the store was asked for so far; `cache_stats` has what the caches answered."""
        return self._asker.stats

    def close(self) -> None:
        """Ends waiting reads and requests, then waits up to 2 s for the source's threads. Idempotent."""
        super().close()
        self._far.close()
