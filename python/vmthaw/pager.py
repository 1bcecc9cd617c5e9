"""Regions, layouts, configuration and statistics of the pager, and `Pager`, which serves pages by guest address.

These are the core's own types; `PageServer` (vmthaw.server) makes the sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from vmthaw._core import (
    EndReason,
    FailurePolicy,
    FillMode,
    MemoryLayout,
    Pager,
    PagerConfig,
    PagerSession,
    PagerStats,
    Placement,
    Region,
    SessionEventKind,
    SessionState,
    WorkingSetMode,
    check_regions,
)
from vmthaw.errors import VmthawValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmthaw.working_set import Recorded

_PAGE_BYTES = 4096

__all__ = [
    "EndReason",
    "FailurePolicy",
    "FillMode",
    "MemoryLayout",
    "Pager",
    "PagerConfig",
    "PagerSession",
    "PagerStats",
    "Placement",
    "PrewarmList",
    "Region",
    "SessionEventKind",
    "SessionState",
    "WorkingSetMode",
    "check_regions",
]


@dataclass(frozen=True)
class PrewarmList:
    """Guest addresses whose pages are fetched and installed before the VM's first fault is read. A plain value.

    `pages` is kept as given, in order. Each address is aligned down to its page when it is used; each page counts in
    `faults` and in `prewarmed`. `kernel_text_span` (bytes) widens the first one to the aligned neighbourhood of that
    size, a power of two of at least one page; 0 is the page alone.
    """

    pages: list[int]
    kernel_text_span: int = 0

    def __init__(self, pages: Iterable[int], kernel_text_span: int = 0) -> None:
        given = list(pages)
        for address in given:
            if not 0 <= address < 1 << 64:
                raise VmthawValueError(f"a guest address must be from 0 to 2**64 - 1, got {address}")
        span = kernel_text_span
        if span != 0 and (span < _PAGE_BYTES or span & (span - 1)):
            raise VmthawValueError(
                f"kernel_text_span must be 0 or a power of two of at least {_PAGE_BYTES}, got {span}"
            )
        object.__setattr__(self, "pages", given)
        object.__setattr__(self, "kernel_text_span", span)

    @classmethod
    def from_boot_critical(cls, kernel_text: int, vcpu0_stack: int, fdt: int, kernel_text_span: int = 0) -> Self:
        """The three pages that a guest touches first: kernel text, the first vCPU's stack, the device tree.

        `kernel_text_span=2 << 20` adds the 2 MiB round the kernel text, a usual choice.
        """
        return cls([kernel_text, vcpu0_stack, fdt], kernel_text_span)

    @classmethod
    def from_trace(
        cls, trace: Recorded | NDArray[Any], *, limit: int | None = None, session: int | None = None
    ) -> Self:
        """The pages that faults of a recorded run asked for, in first-touch order; the first `limit` of them.

        Takes what `WorkingSet.from_trace` takes. For more than a few pages a `WorkingSet` is faster: it is installed in
        large pieces and needs not hold the VM up. Raises VmthawValueError.
        """
        if limit is not None and limit < 0:
            raise VmthawValueError(f"limit must not be negative, got {limit}")
        from vmthaw.working_set import touched_pages

        pages, _ = touched_pages(trace, ("demand",), session)
        return cls(pages[:limit].tolist())

    def guest_addresses(self) -> list[int]:
        """What is installed, in order and each page once: aligned down, the span filled in."""
        addresses = [address & ~(_PAGE_BYTES - 1) for address in self.pages]
        if self.kernel_text_span and self.pages:
            first = self.pages[0] & ~(self.kernel_text_span - 1)
            addresses.extend(range(first, first + self.kernel_text_span, _PAGE_BYTES))
        return list(dict.fromkeys(addresses))
