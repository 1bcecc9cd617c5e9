"""`SocketSource`: the memory that a page server has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vmthaw import _core
from vmthaw.source._extent_rows import extent_rows

__all__ = ["SocketSource"]


class SocketSource(_core.SocketSource):
    """Memory that a page server has, over a UNIX or TCP socket (squib's page-server wire): many requests on the way at
    once, every echo checked, connected again when the link was cut.

    `address` is ``unix:/path``, ``unix:@name`` or ``tcp:host:port``. The wire has no hello: `size` says how many bytes
    the memory has, and `ram_start` (a multiple of 4096) which guest-physical address is its first; offsets are those
    addresses. `page_size` is what one request asks for (a power of two from 4096 to 1 GiB; give 2 MiB for huge pages),
    `max_in_flight` how many requests wait on a connection, `connections` how many are made when readers come at once. A
    read fails when no page came for `timeout` seconds; until then what was unanswered is asked again over new
    connections: at once, then after pauses that double to one second at most, and never last longer than an eighth of
    `timeout`, so that a server that dies several times only delays.

    Nor has the wire a word for zeros. `extents` (rows of offset, size and kind that cover the memory, for instance what
    `extents()` of the source at the other end gives) tell data from zeros. Their bounds may lie at any byte; pages of
    zeros are never asked for, one that is data in part is. Without `extents` everything is data.

    Raises SourceOpenError or VmthawValueError. The GIL is released.
    """

    def __init__(
        self,
        address: str,
        size: int,
        *,
        ram_start: int = 0,
        page_size: int = 4096,
        connections: int = 4,
        max_in_flight: int = 128,
        timeout: float = 10.0,
        extents: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(
            address,
            size,
            ram_start=ram_start,
            page_size=page_size,
            connections=connections,
            max_in_flight=max_in_flight,
            timeout=timeout,
            extents=extent_rows(extents),
        )
