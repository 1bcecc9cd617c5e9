"""The figures of DAX events: `DaxSummary`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmthaw.trace._dax_schema import EVENTS, REPLACE, SET_UP
from vmthaw.trace._exit_summary import exact_total, percentiles
from vmthaw.trace._format import format_bytes, format_ns

if TYPE_CHECKING:
    from vmthaw.trace._columns import Records
    from vmthaw.trace._info import TraceInfo


@dataclass(frozen=True)
class DaxKindSummary:
    """The events of one kind: how many, how many of them failed, the bytes of those that did not, and the percentiles
    of what one took in ns, failed ones included."""

    count: int
    failed: int
    size_bytes: int
    p50_ns: float
    p99_ns: float


@dataclass(frozen=True)
class DaxSummary:
    """What became of the windows. failed: events with an errno. by_kind: by the word of the column `kind`, those that
    occurred. set_up_p50_ns and set_up_p99_ns: of set-ups that succeeded, from the request until the mapping was usable.
    duration_ns: from the first event's start to the last one's end."""

    count: int
    sessions: int
    failed: int
    duration_ns: int
    set_up_p50_ns: float
    set_up_p99_ns: float
    by_kind: dict[str, DaxKindSummary]
    dropped: int
    complete: bool

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, how much), for people."""
        of = f" of {self.sessions:,} sessions" if self.sessions > 1 else ""
        yield "DAX events", f"{self.count:,}{of}" + (f", {self.failed:,} failed" if self.failed else "")
        if self.count:
            yield "DAX events by kind", ", ".join(f"{one.count:,} {name}" for name, one in self.by_kind.items())
        if mapped := [self.by_kind[name] for name in (EVENTS[SET_UP], EVENTS[REPLACE]) if name in self.by_kind]:
            size = format_bytes(sum(one.size_bytes for one in mapped))
            took = f"p50 {format_ns(self.set_up_p50_ns)}, p99 {format_ns(self.set_up_p99_ns)}"
            yield "set up in all", f"{size}; one took {took}"
        yield "DAX events dropped", f"{self.dropped:,}" + ("" if self.complete else "; the recording was cut off")


def summarize_dax(records: Records, info: TraceInfo) -> DaxSummary:
    """The figures of DAX records whose times are in order."""
    took = (records["t_done_ns"] - records["t_start_ns"]).astype(np.int64)
    failed = records["error"] != 0
    by_kind = {}
    for number, name in enumerate(EVENTS):
        chosen = records["kind"] == number
        if chosen.any():
            by_kind[name] = DaxKindSummary(
                int(chosen.sum()), int((chosen & failed).sum()), exact_total(records["length"][chosen & ~failed]),
                *percentiles(took[chosen]),
            )  # fmt: skip
    mapped = ((records["kind"] == SET_UP) | (records["kind"] == REPLACE)) & ~failed
    p50, p99 = percentiles(took[mapped])
    return DaxSummary(
        count=len(records),
        sessions=len({*(session.id for session in info.sessions), *np.unique(records["session"]).tolist()}),
        failed=int(failed.sum()),
        duration_ns=int(records["t_done_ns"].max()) - int(records["t_start_ns"].min()) if len(records) else 0,
        set_up_p50_ns=p50,
        set_up_p99_ns=p99,
        by_kind=by_kind,
        dropped=info.dropped,
        complete=info.complete,
    )
