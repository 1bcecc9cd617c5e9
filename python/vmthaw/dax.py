"""Host files mapped into a guest: the DAX session of virtio-fs.

::

    files = HostFiles()
    node = files.add("data.bin")
    window = WindowMapper(guest_base=0x80_0000_0000, size=1 << 30)
    vm.set_memory_slot(1, window.guest_base, window.host_address, window.size)
    with DaxSession(files, window) as session:
        session.set_up(node, window_offset=0, file_offset=0, length=2 << 20, write=True)
        ...  # the guest reads and writes the file at guest address 0x80_0000_0000

A *backend* turns a region of a file into a lease (descriptor, offset, length), a *mapper* puts leases at guest
addresses. Those of this module are C++; either may also be a Python object with the methods of `DaxBackend` or
`DaxMapper`. These are called with the GIL, by whichever thread makes the request, and without a lock held: they may
call the session for other ranges (for the range at hand that is EBUSY). What they raise becomes the request's errno: an
OSError's own, else EIO and a line of the logger ``vmthaw.dax``.

Calls of a session are logged at debug level under ``vmthaw.dax``; the environment variable
``VMTHAW_DAX_TRACE=stderr|FILE``, read once, also writes them there.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from vmthaw import _core, _lifecycle
from vmthaw._core import DaxFile, DaxStats, Exit, HostFiles, Lease, RecordingMapper, SlotMapper, WindowMapper
from vmthaw._dax_feed import DaxFeed
from vmthaw.errors import VmthawValueError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "EVENTS",
    "READ",
    "WRITE",
    "DaxBackend",
    "DaxFile",
    "DaxMapper",
    "DaxPolicy",
    "DaxSession",
    "DaxStats",
    "HostFiles",
    "Lease",
    "RecordingMapper",
    "SlotMapper",
    "WindowMapper",
]

READ, WRITE = 1, 2  # of a mapper's `prot`: the reverse of the wire's
EVENTS = ("set_up", "replace", "remove", "evict", "reset", "lost")
"""What the numbers in `DaxSession.take_records()["kind"]` mean; lost: a mapping that a failed set-up took with it."""

_log = logging.getLogger("vmthaw.dax")


@runtime_checkable
class DaxMapper(Protocol):
    """Puts leases at guest addresses. May also have `restore`, with the parameters of `map`, which is called after a
    `map` that raised, for each mapping of its range: it has to be there again. Addresses and lengths in bytes."""

    def map(self, guest_address: int, lease: Lease, prot: int) -> object:
        """Maps all of the lease there, in place of what is there; usable on return. `prot`: READ, or READ | WRITE."""

    def unmap(self, guest_address: int, length: int) -> object:
        """Makes a hole, within one mapping."""


@runtime_checkable
class DaxBackend(Protocol):
    """Turns regions of files into leases. Any thread."""

    def dax_map(self, node: int, handle: int, offset: int, length: int, prot: int) -> Lease:
        """A lease of a regular file's bytes (or a memfd's), which may go past its end. `handle` is the client's file
        handle, or 2**64 - 1. `prot`: READ, or READ | WRITE. The very object is given to `dax_unmap`, once."""

    def dax_unmap(self, lease: Lease) -> object:
        """The lease is not used any more."""


def _errno_of(what: str, error: BaseException) -> int:
    """The errno that a Python mapper's or backend's exception stands for."""
    if isinstance(error, OSError) and isinstance(error.errno, int) and 0 < error.errno < 4096:
        return error.errno
    _log.error("%s raised; the request is answered with EIO", what, exc_info=error)
    return errno.EIO


def _describe(row: Any) -> str:
    access = "writable" if row["prot"] & WRITE else "read-only"
    start, end = int(row["guest_address"]), int(row["guest_address"] + row["length"])
    return f"{start:#x} to {end:#x}: node {row['node']} from {int(row['file_offset']):#x} on, {access}"


def _first(texts: list[str]) -> list[str]:
    """As many as a person reads."""
    return texts if len(texts) <= 8 else [*texts[:8], f"and {len(texts) - 8} more of these"]


class DaxPolicy(_core.DaxDecisions):
    """Which files a client maps; the others are read and written by requests, which is faster where they are small.

    By rules: at least `smallest` bytes, a name that one of the `include` patterns matches (all, without any) and none
    of `exclude` (fnmatch). Or by `decide`, a callable that takes a `DaxFile` and gives a bool; it is called once for
    each open, on the thread that serves the request; raising means False. VmthawValueError for both at once.
    """

    def __init__(
        self,
        smallest: int = 0,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        *,
        decide: Callable[[DaxFile], bool] | None = None,
    ) -> None:
        if decide is None:
            super().__init__(smallest, list(include), list(exclude))
            return
        if smallest or list(include) or list(exclude):
            raise VmthawValueError("give rules or `decide`, not both: it can look at the file's size and name itself")
        super().__init__(decide)


class DaxSession(_core.DaxSession):
    """A client's mappings in one window of `size` bytes from guest address `guest_base` on.

    Both come from the mapper where that is a `WindowMapper`. `granule` is 4096, 16384 or 65536 bytes (the host's page
    by default): what requests are multiples of. A `read_only` session refuses WRITE with EROFS. With a `quota`, in
    bytes, the mappings that were set up longest ago go when a new one would exceed it: a guest that touches them exits.
    `most_mappings` bounds what a client can make this process remember.

    Any thread, several at once. Requests raise OSError; ForkedError in a forked child. Leaving the ``with`` block, and
    the end of the object, release everything.
    """

    def __init__(
        self,
        backend: DaxBackend | _core.DaxBackend,
        mapper: DaxMapper | _core.DaxMapper,
        *,
        guest_base: int | None = None,
        size: int | None = None,
        granule: int = 0,
        read_only: bool = False,
        quota: int = 0,
        most_mappings: int = 1 << 20,
    ) -> None:
        if isinstance(mapper, WindowMapper):
            guest_base = mapper.guest_base if guest_base is None else guest_base
            size = mapper.size if size is None else size
            inside = mapper.guest_base <= guest_base and guest_base + size <= mapper.guest_base + mapper.size
            if not inside:
                raise VmthawValueError("guest_base and size are not within the mapper's window")
        if guest_base is None or size is None:
            raise VmthawValueError("guest_base and size must be given: only a WindowMapper has them itself")
        super().__init__(backend, mapper, guest_base, size, granule, read_only, quota, most_mappings)
        self._dax_feed = DaxFeed(self._share_events(), self.id, self.guest_base, self.size, self.granule)
        _lifecycle.register(self, _lifecycle.Stage.SOURCE)

    def explain(self, exit_: Exit) -> str:
        """What a guest's exit says about the window: a sentence, empty when it is about something else.

        An emulating KVM tells the address (MMIO), others (VMX, SVM) fail with EFAULT alone: then all is named that it
        may be, first what lies past the end of its file.
        """
        address = exit_.fields.get("guest_address")
        if address is None:
            if exit_.errno != errno.EFAULT:
                return ""
            past = [f"{_describe(row)}, past the end of the file" for row in self.past_end()]
            read_only = [_describe(row) for row in self.mappings() if not row["prot"] & WRITE]
            return "; ".join([*_first(past), *_first(read_only), "or no mapping: a hole of the window"])
        if not self.guest_base <= address < self.guest_base + self.size:
            return ""
        page = f"guest page {address & -4096:#x}"
        rows = self.mapping_at(address)
        if not len(rows):
            return f"{page}: no mapping, a hole of the window"
        row = rows[0]
        if any(
            int(past["guest_address"]) <= address < int(past["guest_address"] + past["length"])
            for past in self.past_end()
        ):
            return f"{page}: {_describe(row)}, past the end of the file"
        return f"{page}: {_describe(row)}"

    def enable_trace(self, records: int = 65536) -> None:
        """Keeps an event for each request from now on, in a ring of `records` (the first call, or recorder, decides).
        A `TraceRecorder` does that by itself. Raises VmthawValueError, ForkedError."""
        self._dax_feed.keep(records)

    def disable_trace(self) -> None:
        """Ends it; what the ring holds can still be taken. A recorder goes on."""
        self._dax_feed.keep_no_longer()

    def take_records(self, limit: int = 65536) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """At most `limit` events, oldest first, out of the ring: a structured numpy array with t_start_ns and t_done_ns
        (CLOCK_MONOTONIC), guest_address, window_offset, length, file_offset (bytes), node, session (`id`), error
        (errno), kind (an index into `EVENTS`) and prot (READ, WRITE). Raises StateError while a `TraceRecorder` takes
        them, ForkedError."""
        self._dax_feed.check_free()
        return self._dax_feed.events.take(limit)

    @property
    def dropped_records(self) -> int:
        """Events lost so far because nobody took them in time."""
        return self._dax_feed.events.dropped

    def close(self) -> None:
        """Releases every mapping; requests fail from then on (ENODEV). Idempotent. Raises OSError when the mapper or
        the backend failed, EBUSY from within one of their methods."""
        if error := self._close():
            if error == errno.ENODEV:
                return
            _core._raise_system_error(error, "closing a DAX session")
        _lifecycle.unregister(self)

    def close_at_exit(self) -> None:
        """For `_lifecycle`."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
