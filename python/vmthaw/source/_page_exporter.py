"""`PageExporter`: a page source, served to other processes and hosts."""

from __future__ import annotations

import asyncio
import logging
import os
from types import TracebackType
from typing import Self

from vmthaw import _core, _lifecycle
from vmthaw._closing import Closing

_log = logging.getLogger("vmthaw.exporter")
_PATIENCE_S = 2.0


class PageExporter(Closing):
    """Serves `source` to `SocketSource` (and to whoever else speaks squib's page-server wire) until it is closed.

    `address` is ``unix:/path``, ``unix:@name`` or ``tcp:host:port`` (port 0: any; see `address`); a path object is a
    UNIX socket. The wire knows neither passwords nor encryption: a UNIX socket's file has `mode` (0o600: our own user
    alone), a TCP port serves everybody who reaches it, so listen on a private address.

    It listens once made, on C++ threads that never take the GIL: one accepts, one more serves each client, of which
    there are at most `max_clients`. So a source that blocks, or a client that takes nothing, holds up nobody else.
    Clients are dropped that ask for pages larger than `max_page_size` bytes (a power of two up to 1 GiB) or outside the
    source, that take nothing for `send_timeout` seconds, or that ask for nothing for `idle_timeout` seconds, which a
    `SocketSource` does not notice.

    Raises VmthawValueError, or the OSError of listening (EADDRINUSE: somebody listens there already). In a ``with`` or
    ``async with`` block it is closed at the end. In a forked child it is inert.
    """

    def __init__(
        self,
        source: _core.PageSource,
        address: str | os.PathLike[str],
        *,
        max_page_size: int = 2 << 20,
        max_clients: int = 64,
        send_timeout: float = 30.0,
        idle_timeout: float = 600.0,
        mode: int = 0o600,
    ) -> None:
        text = address if isinstance(address, str) else f"unix:{os.fspath(address)}"
        _lifecycle.ensure_drainer()  # what the threads log
        self._core = _core.PageExporter(source, text, max_page_size, max_clients, send_timeout, idle_timeout, mode)
        self._source = source  # its threads, if it is written in Python, live as long as it
        _lifecycle.register(self)

    @property
    def address(self) -> str:
        """Where it listens, as `SocketSource` takes it; with the port that the kernel chose."""
        return self._core.address

    @property
    def source(self) -> _core.PageSource:
        """What it serves."""
        return self._source

    @property
    def stats(self) -> dict[str, int]:
        """Counts since it was made: accepted, turned_away (max_clients), pages, bytes, bad_requests, source_errors,
        slow_clients; and clients, those that are here now. Raises ForkedError in a forked child."""
        return self._core.stats

    @property
    def closed(self) -> bool:
        """True after `close`, and in a forked child."""
        return self._core.inherited or self._core.closed

    def close(self) -> None:
        """Stops listening and drops the clients; the source stays open. Waits at most 2 s for a client's thread that is
        inside the source, and says so in the log when it leaves one there. Idempotent."""
        if self._core.inherited:
            return
        _lifecycle.unregister(self)
        if not self._core.close(_PATIENCE_S):
            _log.warning("%r was closed while its source holds a thread up; closing the source ends it", self)

    def close_at_exit(self) -> None:
        """Ends it at interpreter exit, for `_lifecycle`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "listening"
        return f"<PageExporter of {self._source.description} at {self.address}, {state}>"
