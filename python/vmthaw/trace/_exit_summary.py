"""The figures of vCPU exits: `ExitSummary`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmthaw.trace._exit_schema import HANDLER, NO_REASON, reason_name
from vmthaw.trace._format import format_ns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmthaw.trace._columns import Records
    from vmthaw.trace._info import TraceInfo

_MOST_REASONS = 6
FAILED = "error"  # KVM_RUN failed, as `Exit.name` has it


@dataclass(frozen=True)
class ReasonSummary:
    """The exits of one reason. In ns, all together: the guest's time before them, and the host's after; of the host's
    part of one exit, the percentiles."""

    count: int
    guest_ns: int
    host_ns: int
    host_p50_ns: float
    host_p99_ns: float


@dataclass(frozen=True)
class ExitSummary:
    """What the vCPUs did, times in ns. guest_ns: in KVM_RUN before an exit, of all vCPUs and exits together; host_ns:
    from there until the exit was answered. What passed between an answer and the next KVM_RUN, or in KVM_RUNs that came
    back without an exit (a kick, a signal), is in neither.

    by_reason: by KVM's name of the reason (``error``: KVM_RUN failed), the most frequent first. handled: a function of
    yours was asked. duration_ns: from the first KVM_RUN to the last answer.
    """

    count: int
    vcpus: int
    handled: int
    duration_ns: int
    guest_ns: int
    host_ns: int
    host_p50_ns: float
    host_p99_ns: float
    by_reason: dict[str, ReasonSummary]
    dropped: int
    complete: bool

    @property
    def guest_share(self) -> float:
        """The guest's, of its time and the host's; 0 without exits."""
        return self.guest_ns / self._total_ns if self._total_ns else 0.0

    @property
    def host_share(self) -> float:
        """The host's; 0 without exits."""
        return self.host_ns / self._total_ns if self._total_ns else 0.0

    @property
    def _total_ns(self) -> int:
        return self.guest_ns + self.host_ns

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, how much), for people."""
        on = f" on {self.vcpus} vCPU{'s' if self.vcpus > 1 else ''}" if self.count else ""
        yield "exits", f"{self.count:,}{on}" + (f", {self.handled:,} asked of functions" if self.handled else "")
        if self.count:
            most = [f"{one.count:,} {name}" for name, one in list(self.by_reason.items())[:_MOST_REASONS]]
            others = sum(one.count for one in list(self.by_reason.values())[_MOST_REASONS:])
            yield "exits by reason", ", ".join(most) + (f", {others:,} others" if others else "")
            yield (
                "vCPUs were",
                f"{self.guest_share:.0%} in the guest, {self.host_share:.0%} in the host, of "
                f"{format_ns(self._total_ns)}",
            )
            yield "host's part of an exit", f"p50 {format_ns(self.host_p50_ns)}, p99 {format_ns(self.host_p99_ns)}"
        yield "exits dropped", f"{self.dropped:,}" + ("" if self.complete else "; the recording was cut off")


def summarize_exits(records: Records, info: TraceInfo) -> ExitSummary:
    """The figures of exit records whose times are in order."""
    guest = (records["t_exit_ns"] - records["t_enter_ns"]).astype(np.int64)
    host = (records["t_decided_ns"] - records["t_exit_ns"]).astype(np.int64)
    reasons, counts = np.unique(records["reason"], return_counts=True)
    by_reason = {}
    for index in np.argsort(-counts, kind="stable"):
        number = int(reasons[index])
        chosen = records["reason"] == number
        name = FAILED if number == NO_REASON else reason_name(number)
        by_reason[name] = ReasonSummary(
            int(counts[index]), exact_total(guest[chosen]), exact_total(host[chosen]), *percentiles(host[chosen])
        )
    p50, p99 = percentiles(host)
    duration = int(records["t_decided_ns"].max()) - int(records["t_enter_ns"].min()) if len(records) else 0
    return ExitSummary(
        count=len(records),
        vcpus=len(np.unique(records["vcpu"])),
        handled=int(((records["flags"] & HANDLER) != 0).sum()),
        duration_ns=duration,
        guest_ns=exact_total(guest),
        host_ns=exact_total(host),
        host_p50_ns=p50,
        host_p99_ns=p99,
        by_reason=by_reason,
        dropped=info.dropped,
        complete=info.complete,
    )


def exact_total(values: NDArray[np.int64] | NDArray[np.uint64]) -> int:
    """A sum that is exact for files whose times are absurd too."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFF_FFFF).sum())


def percentiles(values: NDArray[np.int64]) -> tuple[float, float]:
    """The 50th and the 99th; 0 of nothing."""
    if not len(values):
        return 0.0, 0.0
    p50, p99 = np.percentile(values, [50, 99])
    return float(p50), float(p99)
