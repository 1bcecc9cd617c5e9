"""`WorkingSet`: the pages a VM touches after a restore, recorded once and installed at once the next time."""

from __future__ import annotations

import html
import os
from collections.abc import Collection, Iterable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vmthaw._working_set_file import read_pages, write_pages
from vmthaw.errors import VmthawValueError

__all__ = ["Recorded", "WorkingSet", "touched_pages"]

_SMALLEST_PAGE, _LARGEST_PAGE = 4096, 1 << 30
_MOST_PAGES = 1 << 26
# Numbers in fault records (trace/fault_record.hpp).
_KINDS = {"demand": 0, "fault_around": 1, "prefetch": 2, "prewarm": 3}
_INSTALLED, _PRESENT = 0, 1
_REMOVED = 2


class Recorded(Protocol):
    """Whatever has fault records: a `vmthaw.trace.Trace`."""

    @property
    def records(self) -> NDArray[Any]:
        """A structured array with the fields of a fault record."""


def _records_of(trace: Recorded | NDArray[Any]) -> NDArray[Any]:
    records = trace if isinstance(trace, np.ndarray) else trace.records
    wanted = {"t_fault_ns", "guest_address", "pages", "page_size_log2", "kind", "page_class", "outcome", "session"}
    missing = wanted - set(records.dtype.names or ())
    if missing:
        raise VmthawValueError(f"these are no fault records: the fields {sorted(missing)} are missing")
    return records


def _first_of_each(pages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each value once, where it first was."""
    _, where = np.unique(pages, return_index=True)
    return pages[np.sort(where)]


def _spread(first: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """first[i], first[i] + 1, ... counts[i] of them, one i after the other."""
    total = int(counts.sum(dtype=np.float64))  # hostile counts would overflow an integer
    if total > _MOST_PAGES:
        raise VmthawValueError(f"that comes to {total} pages; a working set holds at most {_MOST_PAGES}")
    starts = np.cumsum(counts) - counts
    steps = np.arange(total, dtype=np.uint64) - np.repeat(starts, counts).astype(np.uint64)
    return np.repeat(first, counts) + steps


def touched_pages(
    trace: Recorded | NDArray[Any], include: Collection[str], session: int | None
) -> tuple[NDArray[np.uint64], int]:
    """Guest addresses in first-touch order and the page size, out of fault records; see `WorkingSet.from_trace`."""
    if unknown := set(include) - set(_KINDS):
        raise VmthawValueError(f"include holds {sorted(unknown)}; there are {', '.join(_KINDS)}")
    records = _records_of(trace)
    kinds = np.array(sorted(_KINDS[name] for name in include), dtype=np.uint8)
    kept = np.isin(records["kind"], kinds) & (records["outcome"] <= _PRESENT)
    # What the VM had given back held zeros. Of a page that was there already (present) the class says nothing.
    kept &= ~((records["page_class"] == _REMOVED) & (records["outcome"] == _INSTALLED))
    if session is not None:
        kept &= records["session"] == session
    records = records[kept]
    if not len(records):
        return np.zeros(0, dtype=np.uint64), _SMALLEST_PAGE
    records = records[np.argsort(records["t_fault_ns"], kind="stable")]
    logs = records["page_size_log2"].astype(np.uint64)
    smallest = int(logs.min())
    if smallest < 12 or int(logs.max()) > 30:
        raise VmthawValueError(f"fault records name page sizes of 2**{smallest} to 2**{int(logs.max())} bytes")
    # A fault that found its page present installed none, and yet the page was touched.
    demand = records["kind"] == _KINDS["demand"]
    counts = np.where(demand, np.maximum(records["pages"], 1), records["pages"]).astype(np.int64)
    counts <<= (logs - np.uint64(smallest)).astype(np.int64)
    first = (records["guest_address"] >> logs) << (logs - np.uint64(smallest))
    return _first_of_each(_spread(first, counts)) << np.uint64(smallest), 1 << smallest


class WorkingSet:
    """Pages in first-touch order, as guest addresses. A plain value that does not change.

    `pages` are guest addresses in bytes, aligned down to `page_size` (a power of two, 4096 to 1 GiB), each page once.
    Give one to ``PageServer(..., working_set=...)``, which installs it in the order of addresses, in large pieces. It
    may be used for VMs whose pages have another size.

    Raises VmthawValueError for an address that is negative or above 2**64 - 1, or a wrong page size. Thread-safe.
    """

    __slots__ = ("_page_size", "_pages")

    def __init__(self, pages: Iterable[int] | NDArray[np.uint64], page_size: int = _SMALLEST_PAGE) -> None:
        if not _SMALLEST_PAGE <= page_size <= _LARGEST_PAGE or page_size & (page_size - 1):
            raise VmthawValueError(f"page_size must be a power of two from 4096 to 1 GiB, got {page_size}")
        if isinstance(pages, np.ndarray):
            if pages.ndim != 1 or pages.dtype.kind not in "ui" or (pages.dtype.kind == "i" and (pages < 0).any()):
                raise VmthawValueError("pages must be one row of guest addresses: integers from 0 to 2**64 - 1")
            addresses = pages.astype(np.uint64)
        else:
            try:
                addresses = np.fromiter(pages, dtype=np.uint64)
            except (OverflowError, TypeError, ValueError) as error:
                raise VmthawValueError(f"guest addresses must be integers from 0 to 2**64 - 1: {error}") from error
        self._pages = _first_of_each(addresses & np.uint64(~(page_size - 1) & (1 << 64) - 1))
        self._pages.flags.writeable = False
        self._page_size = page_size

    @classmethod
    def from_trace(
        cls, trace: Recorded | NDArray[Any], *, include: Collection[str] = ("demand",), session: int | None = None
    ) -> Self:
        """The pages of a recorded run, in first-touch order.

        `trace` has ``records`` (a `vmthaw.trace.Trace`), or is such an array itself. By default only what a fault asked
        for: `include` adds ``"fault_around"`` (installed beside it), ``"prefetch"`` and ``"prewarm"``, of which nobody
        knows whether they were touched. A run that was itself restored with a working set shows fewer faults than it
        has touches: record without one, or include ``"prefetch"``. `session` picks one VM of several. Pages that the VM
        had given back are left out. Pages of mixed sizes are counted in the smallest.

        Raises VmthawValueError for what are no fault records.
        """
        return cls(*touched_pages(trace, include, session))

    @property
    def pages(self) -> NDArray[np.uint64]:
        """Guest addresses in bytes, in first-touch order: one row, read-only."""
        return self._pages

    @property
    def page_size(self) -> int:
        """In bytes."""
        return self._page_size

    @property
    def nbytes(self) -> int:
        """What it comes to in the VM's memory, in bytes."""
        return len(self._pages) * self._page_size

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, guest_address: object) -> bool:
        if not isinstance(guest_address, int) or not 0 <= guest_address < 1 << 64:
            return False
        return bool((self._pages == np.uint64(guest_address & ~(self._page_size - 1))).any())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WorkingSet):
            return NotImplemented
        return self._page_size == other._page_size and np.array_equal(self._pages, other._pages)

    def __hash__(self) -> int:
        return hash((self._page_size, self._pages.tobytes()))

    def runs(self) -> NDArray[np.uint64]:
        """What lies together as one row of (guest address, size in bytes) each, by address: shape (n, 2)."""
        pages = np.sort(self._pages)
        if not len(pages):
            return np.zeros((0, 2), dtype=np.uint64)
        breaks = np.flatnonzero(np.diff(pages) != self._page_size) + 1
        first = np.concatenate(([0], breaks))
        counts = np.diff(np.concatenate((first, [len(pages)])))
        return np.column_stack((pages[first], counts.astype(np.uint64) * np.uint64(self._page_size)))

    def with_page_size(self, page_size: int) -> WorkingSet:
        """The same memory counted in other pages: smaller ones exactly, larger ones whole."""
        if page_size >= self._page_size:
            return WorkingSet(self._pages, page_size)
        each = WorkingSet((), page_size)._split(self._pages, self._page_size)
        return WorkingSet(each, page_size)

    def _split(self, pages: NDArray[np.uint64], page_size: int) -> NDArray[np.uint64]:
        parts = np.full(len(pages), page_size // self._page_size, dtype=np.int64)
        return _spread(pages // np.uint64(self._page_size), parts) * np.uint64(self._page_size)

    def _alike(self, others: tuple[WorkingSet, ...]) -> list[WorkingSet]:
        smallest = min(each._page_size for each in (self, *others))
        return [each.with_page_size(smallest) for each in (self, *others)]

    def intersection(self, *others: WorkingSet) -> WorkingSet:
        """The pages that all of them hold, in this one's order; of different page sizes, in the smallest."""
        first, *rest = self._alike(others)
        pages = first._pages
        for other in rest:
            pages = pages[np.isin(pages, other._pages)]
        return WorkingSet(pages, first._page_size)

    def union(self, *others: WorkingSet) -> WorkingSet:
        """The pages that any of them holds: this one's first, then what each of the others adds."""
        alike = self._alike(others)
        return WorkingSet(np.concatenate([each._pages for each in alike]), alike[0]._page_size)

    def __and__(self, other: WorkingSet) -> WorkingSet:
        return self.intersection(other)

    def __or__(self, other: WorkingSet) -> WorkingSet:
        return self.union(other)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file, whole or not at all; what was there is replaced. Raises VmthawOSError, OSError."""
        write_pages(path, self._pages, self._page_size)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote. Raises WorkingSetFileError, which says what is wrong with the file, and OSError."""
        return cls(*read_pages(path))

    def __repr__(self) -> str:
        return f"<WorkingSet {len(self)} pages of {self._page_size} bytes, {self.nbytes / (1 << 20):.1f} MiB>"

    def _repr_html_(self) -> str:
        runs = self.runs()
        mean = self.nbytes / len(runs) / self._page_size if len(runs) else 0.0
        rows = [
            ("pages", f"{len(self):,} of {self._page_size:,} bytes"),
            ("memory", f"{self.nbytes / (1 << 20):.1f} MiB"),
            ("runs", f"{len(runs):,}, on average {mean:.1f} pages"),
        ]
        if len(runs):
            rows.append(("between", f"{int(runs[0, 0]):#x} and {int(runs[-1, 0] + runs[-1, 1]) - 1:#x}"))
        cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
        return f"<table><caption>WorkingSet</caption>{cells}</table>"
