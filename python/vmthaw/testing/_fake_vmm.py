"""`FakeVmm`: what Firecracker does to a page server, checked byte by byte."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vmthaw._closing import Closing
from vmthaw.errors import VmthawValueError
from vmthaw.testing._host import ChildProcess, PendingCall
from vmthaw.testing._reports import (
    Report,
    StormReport,
    TouchReport,
    make_report,
    make_storm_report,
    make_touch_report,
)

if TYPE_CHECKING:
    from vmthaw.testing._fake_vmm_host import FakeVmmHost

MemoryKind = Literal["anonymous", "shmem", "hugetlb"]
Pattern = Literal["sequential", "random", "subset", "zipf", "stride"]
PageSizeFields = Literal["both", "page_size", "page_size_kib", "neither"]
SentDescriptor = Literal["userfaultfd", "none", "memfd"]

_FIRST_REGION_BYTES = 3 << 30  # as Firecracker on x86: what is more lies behind the gap at guest 3 GiB
_FEATURE_BITS = {"event_fork": 1 << 1, "event_remap": 1 << 2, "event_unmap": 1 << 6, "thread_id": 1 << 8}


def _regions_of(
    path: str, size: int | None, regions: Iterable[tuple[int, int]] | None, page_size: int
) -> list[tuple[int, int]]:
    if regions is not None:
        if size is not None:
            raise VmthawValueError("give size or regions, not both")
        return list(regions)
    if size is None:
        size = -(-Path(path).stat().st_size // page_size) * page_size
    if size <= _FIRST_REGION_BYTES:
        return [(size, 0)]
    return [(_FIRST_REGION_BYTES, 0), (size - _FIRST_REGION_BYTES, _FIRST_REGION_BYTES)]


class FakeVmm(Closing):
    """A stand-in for a VMM, in a process of its own.

    Maps memory as Firecracker does (anonymous, private, NORESERVE, 2 MiB-aligned; or ``kind`` ``"hugetlb"``,
    ``"shmem"``), with a userfaultfd that has every region registered MISSING and EVENT_REMOVE on. `handover` sends it
    to a page server; then touch, write, remove and verify. It knows what every page must hold and reads the memory file
    at ``memory_path`` by itself.

    ``size`` (bytes; default: the file's, rounded up) becomes regions as Firecracker lays them out; or give ``regions``
    as (size, file offset) pairs. ``features``: of ``thread_id``, ``event_unmap``, ``event_remap``, ``event_fork``.

    Methods of one VM run one at a time; all wait with the GIL released, have time-outs in seconds and can be
    interrupted by Ctrl-C. They report what they found instead of hanging: a page that is never served is a
    ``timed_out`` report. The process ends with `close`, `kill`, the ``with`` block, or its parent.
    """

    def __init__(
        self,
        memory_path: str | os.PathLike[str],
        *,
        size: int | None = None,
        regions: Iterable[tuple[int, int]] | None = None,
        kind: MemoryKind = "anonymous",
        page_size: int | None = None,
        features: Iterable[str] = (),
        _child: ChildProcess | None = None,
        _number: int = 0,
    ) -> None:
        self._path = str(Path(memory_path).absolute())
        self._page_size = page_size if page_size is not None else (2 << 20 if kind == "hugetlb" else 4096)
        bits = 0
        for feature in features:
            if feature not in _FEATURE_BITS:
                raise VmthawValueError(f"feature {feature!r} is not one of {', '.join(_FEATURE_BITS)}")
            bits |= _FEATURE_BITS[feature]
        spans = _regions_of(self._path, size, regions, self._page_size)
        self._owns_child = _child is None
        self._child = ChildProcess() if _child is None else _child
        self._number = _number
        try:
            made, _ = self._submit(
                "create", 30.0, memory_path=self._path, regions=spans, kind=kind, page_size=self._page_size,
                extra_features=bits,
            ).result()  # fmt: skip
        except BaseException:
            if self._owns_child:
                self._child.kill()
            raise
        self._regions = [(host, length, offset) for host, length, offset in made["regions"]]
        self._pages = int(made["pages"])

    @classmethod
    def many(cls, count: int, memory_path: str | os.PathLike[str], **options: Any) -> FakeVmmHost:
        """``count`` VMs in one process, for tests of many sessions. ``options`` as for the constructor."""
        from vmthaw.testing._fake_vmm_host import FakeVmmHost

        return FakeVmmHost(count, memory_path, **options)

    def _submit(self, operation: str, timeout: float, payload: bytes = b"", /, **arguments: Any) -> PendingCall:
        return self._child.submit(operation, self._number, timeout, payload, **arguments)

    @property
    def pid(self) -> int:
        """The process id of the stand-in (shared by all VMs of a `FakeVmmHost`)."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._child.alive

    @property
    def regions(self) -> list[tuple[int, int, int]]:
        """(host address, size, file offset) of each region in bytes, as it is handed over."""
        return list(self._regions)

    @property
    def pages(self) -> int:
        """The number of pages; they are numbered from 0 through all regions."""
        return self._pages

    @property
    def page_size(self) -> int:
        """Bytes per page: 4096, or 2097152 for hugetlb."""
        return self._page_size

    @property
    def rss(self) -> int:
        """Resident memory of the whole process in bytes (hugetlb not counted by the kernel)."""
        statm = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def resident_pages(self) -> int:
        """How many pages of this VM are present, by the kernel's pagemap; asking touches none."""
        return int(self._submit("resident_pages", 10.0).result()[0])

    def handover_text(self, page_size_fields: PageSizeFields = "both", *, unknown_fields: bool = False) -> str:
        """The message that a stock VMM sends for this memory."""
        text = self._submit(
            "handover_text", 10.0, page_size_fields=page_size_fields, unknown_fields=unknown_fields
        ).result()[0]
        return str(text)

    def handover(
        self,
        socket_path: str | os.PathLike[str],
        *,
        text: str | None = None,
        page_size_fields: PageSizeFields = "both",
        unknown_fields: bool = False,
        splits: Sequence[int] = (),
        part_delay: float = 0.0,
        descriptor_part: int = 0,
        descriptor: SentDescriptor = "userfaultfd",
        surplus_descriptors: int = 0,
        close_afterwards: bool = False,
        timeout: float = 10.0,
    ) -> None:
        """Connect to a page server and send one hand-over; the connection stays open, as a VMM's does.

        By default what Firecracker sends. Odd cases: ``text`` instead of the message (``""``: nothing at all);
        ``splits``: byte offsets at which a new part begins, ``part_delay`` seconds apart, the descriptors with part
        ``descriptor_part`` (beyond the last: never); ``descriptor`` of another kind or none; surplus ones after it;
        closing at once. ``"@name"`` is an abstract socket. Raises `OSError` (nobody listens; timed out).
        """
        self.start_handover(
            socket_path, timeout, text=text, page_size_fields=page_size_fields, unknown_fields=unknown_fields,
            splits=list(splits), part_delay=part_delay, descriptor_part=descriptor_part, descriptor=descriptor,
            surplus_descriptors=surplus_descriptors, close_afterwards=close_afterwards,
        ).result()  # fmt: skip

    def start_handover(self, socket_path: str | os.PathLike[str], timeout: float, **options: Any) -> PendingCall:
        """`handover` without waiting: for many VMs at once."""
        path = os.fspath(socket_path)
        delay = float(options.get("part_delay", 0.0)) * len(options.get("splits", ()))
        return self._submit("handover", timeout + delay, socket_path=path, timeout=timeout, **options)

    def touch(
        self,
        pattern: Pattern | Sequence[int] = "sequential",
        *,
        write: bool = False,
        threads: int = 1,
        everybody_touches_all: bool = False,
        cpus: Sequence[int] = (),
        first_page: int = 0,
        pages: int | None = None,
        count: int = 0,
        seed: int = 0,
        stride: int = 1,
        skew: float = 1.0,
        verify: bool = True,
        timeout: float = 30.0,
    ) -> TouchReport:
        """Touch pages and measure each touch.

        ``pattern``: page numbers, or a seeded pattern over ``pages`` pages from ``first_page`` on: ``sequential``,
        ``random`` (a permutation), ``subset`` (``count`` distinct pages), ``zipf`` (``count`` draws with exponent
        ``skew``, repeating), ``stride`` (every ``stride``-th page, until all were touched). A touch reads a word, or
        with ``write`` writes one, at another place in every page. ``threads`` share the plan in contiguous slices
        (or each touches all), thread i pinned to ``cpus[i]``. ``verify`` compares every touched page afterwards.
        """
        return self.touch_result(
            self.start_touch(
                pattern, write=write, threads=threads, everybody_touches_all=everybody_touches_all, cpus=cpus,
                first_page=first_page, pages=pages, count=count, seed=seed, stride=stride, skew=skew, verify=verify,
                timeout=timeout,
            )
        )  # fmt: skip

    def start_touch(
        self,
        pattern: Pattern | Sequence[int] = "sequential",
        *,
        first_page: int = 0,
        pages: int | None = None,
        count: int = 0,
        seed: int = 0,
        stride: int = 1,
        skew: float = 1.0,
        cpus: Sequence[int] = (),
        timeout: float = 30.0,
        **options: Any,
    ) -> PendingCall:
        """`touch` without waiting: for many VMs at once."""
        plan: dict[str, Any] | None = None
        payload = b""
        if isinstance(pattern, str):
            span = self._pages - first_page if pages is None else pages
            plan = {
                "pattern": pattern, "pages": span, "first_page": first_page, "count": count, "seed": seed,
                "stride": stride, "skew": skew,
            }  # fmt: skip
        else:
            payload = array("Q", pattern).tobytes()
        # Twice: the touches and the comparison each have the time-out.
        return self._submit("touch", 2 * timeout, payload, pattern=plan, cpus=list(cpus), timeout=timeout, **options)

    @staticmethod
    def touch_result(call: PendingCall) -> TouchReport:
        """What `start_touch` came to."""
        return make_touch_report(*call.result())

    def verify(self, *, only_touched: bool = True, threads: int = 1, timeout: float = 60.0) -> Report:
        """Compare pages with what they must hold: all that were touched, or all there are (missing ones fault)."""
        return make_report(
            self._submit("verify", timeout, only_touched=only_touched, threads=threads, timeout=timeout).result()[0]
        )

    def remove(self, ranges: Iterable[tuple[int, int]], *, timeout: float = 10.0) -> Report:
        """Give (first page, count) ranges back to the host by MADV_DONTNEED; they must read as zeros from then on.

        As in a VMM, each call blocks until the page server has read its REMOVE event.
        """
        return self._on_ranges("remove", ranges, timeout)

    def unmap(self, ranges: Iterable[tuple[int, int]], *, timeout: float = 10.0) -> Report:
        """Unmap (first page, count) ranges. Needs the feature ``event_unmap`` for the server to hear of it."""
        return self._on_ranges("unmap", ranges, timeout)

    def remap(self, ranges: Iterable[tuple[int, int]], *, timeout: float = 10.0) -> Report:
        """Move (first page, count) ranges to fresh addresses by mremap. Needs the feature ``event_remap``."""
        return self._on_ranges("remap", ranges, timeout)

    def _on_ranges(self, operation: str, ranges: Iterable[tuple[int, int]], timeout: float) -> Report:
        spans = [(first, count) for first, count in ranges]
        return make_report(self._submit(operation, timeout, ranges=spans, timeout=timeout).result()[0])

    def storm(
        self,
        removals: int = 1000,
        *,
        max_pages: int = 256,
        threads: int = 1,
        write_share: float = 0.25,
        seed: int = 0,
        timeout: float = 60.0,
    ) -> StormReport:
        """Remove random ranges (1 to ``max_pages`` pages) while ``threads`` threads touch, write and compare pages.

        The rule is exact: a page whose removal has returned holds zeros, one whose removal has not begun holds the
        file's bytes, and only in between may it hold either; afterwards every page is compared.
        """
        return make_storm_report(
            self._submit(
                "storm", timeout, removals=removals, max_pages=max_pages, threads=threads, write_share=write_share,
                seed=seed, timeout=timeout,
            ).result()[0]
        )  # fmt: skip

    @property
    def peer_has_hung_up(self) -> bool:
        """True when the page server has closed the hand-over's connection."""
        return bool(self._submit("peer_has_hung_up", 10.0).result()[0])

    def close_socket(self) -> None:
        """Close the hand-over's connection and live on."""
        self._submit("close_socket", 10.0).result()

    def close_userfaultfd(self) -> None:
        """Close the VMM's own copy of the userfaultfd (Firecracker keeps it)."""
        self._submit("close_userfaultfd", 10.0).result()

    def kill(self) -> None:
        """Die as a VMM dies: SIGKILL. Takes all VMs of a `FakeVmmHost` along. Idempotent."""
        self._child.kill()

    def close(self) -> None:
        """End the VM: its process, or in a `FakeVmmHost` its memory and connection. Idempotent."""
        if self._owns_child:
            self._child.kill()
        elif self._child.alive:
            self._submit("destroy", 10.0).result()
