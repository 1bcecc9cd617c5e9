"""What a `FakeVmm` found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from vmthaw.errors import VmthawError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FindingsError(VmthawError, AssertionError):
    """The page server under test was wrong: pages held the wrong bytes, or faults were never answered.

    Attribute ``report`` is the report that says so.
    """

    report: Report


class FakeVmmDiedError(VmthawError):
    """The stand-in's process has ended, so it cannot do this any more."""


@dataclass(frozen=True)
class Mismatch:
    """A page that did not hold what it must. ``byte_offset`` is that of the first wrong 8-byte word in the page.

    ``rule`` says what was allowed there: ``file``, ``zero``, ``file or zero`` (its removal was under way), ``written``
    (by the VM itself), or such with ``or written``.
    """

    page: int
    host_address: int
    byte_offset: int
    found: int
    expected: int
    rule: str

    def __str__(self) -> str:
        return (
            f"page {self.page} (host {self.host_address:#x}) at byte {self.byte_offset}: found {self.found:#018x}, "
            f"expected {self.expected:#018x} ({self.rule})"
        )


@dataclass(frozen=True)
class Report:
    """The findings of one operation.

    ``mismatch_count`` counts all wrong pages, ``mismatches`` describes the first 64. ``timed_out`` says that threads
    were still blocked at the time-out, on ``stuck_pages`` (page numbers): those faults were never answered.
    """

    mismatch_count: int
    mismatches: list[Mismatch]
    timed_out: bool
    stuck_pages: list[int]

    @property
    def ok(self) -> bool:
        """True when every byte was right and nothing was stuck."""
        return self.mismatch_count == 0 and not self.timed_out

    def check(self) -> Self:
        """Give the report back when it is `ok`; raise `FindingsError` otherwise."""
        if self.ok:
            return self
        problems = []
        if self.timed_out:
            problems.append(f"timed out: faults on pages {self.stuck_pages} were not answered")
        if self.mismatch_count:
            shown = "; ".join(str(mismatch) for mismatch in self.mismatches[:3])
            problems.append(f"{self.mismatch_count} pages hold the wrong bytes: {shown}")
        error = FindingsError("; ".join(problems))
        error.report = self
        raise error


@dataclass(frozen=True)
class TouchReport(Report):
    """What touching pages came to. ``touches`` were done, in ``duration_ns`` (checking not included)."""

    touches: int
    duration_ns: int
    latencies_raw: bytes = field(repr=False)

    @property
    def latencies_ns(self) -> NDArray[np.uint64]:
        """The time of every touch in nanoseconds, in the order of the plan; empty when it timed out.

        When each thread touched all: thread by thread. A touch of a present page costs some 50 ns, the clock included.
        """
        import numpy as np

        return np.frombuffer(self.latencies_raw, dtype=np.uint64)


@dataclass(frozen=True)
class StormReport(Report):
    """What a storm of removals during touches came to."""

    touches: int
    removals: int
    removed_pages: int
    duration_ns: int


def _findings(reply: dict[str, Any]) -> dict[str, Any]:
    return {
        "mismatch_count": reply["mismatch_count"],
        "mismatches": [Mismatch(**entry) for entry in reply["mismatches"]],
        "timed_out": reply["timed_out"],
        "stuck_pages": reply["stuck_pages"],
    }


def make_report(reply: dict[str, Any]) -> Report:
    """A report from what the child process answered."""
    return Report(**_findings(reply))


def make_touch_report(reply: dict[str, Any], payload: bytes) -> TouchReport:
    """The same, with the latencies as the raw bytes of 64-bit integers."""
    return TouchReport(
        **_findings(reply), touches=reply["touches"], duration_ns=reply["duration_ns"], latencies_raw=payload
    )


def make_storm_report(reply: dict[str, Any]) -> StormReport:
    """The same, for a storm."""
    counters = {name: reply[name] for name in ("touches", "removals", "removed_pages", "duration_ns")}
    return StormReport(**_findings(reply), **counters)
