"""`compare`: what two traces of the same snapshot have in common, and what a prefetch wasted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vmthaw.trace import _runs
from vmthaw.trace._columns import Records
from vmthaw.trace._format import aligned, format_bytes, format_ns, table_html
from vmthaw.trace._schema import DEMAND, FAILED, INSTALLED, KINDS, REMOVE
from vmthaw.trace._summary import summarize

if TYPE_CHECKING:
    from vmthaw.trace._trace import Trace


@dataclass(frozen=True)
class Comparison:
    """Two traces by guest-physical address; sizes in bytes, all VMs of a trace together.

    "Touched" is what demand faults asked for. `jaccard` is the share of what either touched that both touched, and
    `installed_jaccard` the same of all that was installed. `common_runs`: contiguous runs that both touched.

    `unasked_a` is what `a` installed without being asked (prefetch, fault-around, pre-warm). `wasted_a` of it nobody
    touched: neither trace demanded it, and `b` did not have it otherwise. `doubtful_a` of it was not demanded either,
    but `b` installed it unasked too, and what is there already causes no fault: so record one of the two page by page
    and without prefetch (``fill_mode=FillMode.page``) to have no doubt.

    `faults_a`, `waited_a_ns` and `p99_a_ns` are those of `a`'s demand faults, in ns.
    """

    name_a: str
    name_b: str
    touched_a: int
    touched_b: int
    common: int
    jaccard: float
    common_runs: int
    longest_common_run: int
    unasked_a: int
    wasted_a: int
    doubtful_a: int
    unasked_b: int
    wasted_b: int
    doubtful_b: int
    installed_jaccard: float
    faults_a: int
    faults_b: int
    waited_a_ns: int
    waited_b_ns: int
    p99_a_ns: float
    p99_b_ns: float

    @property
    def wasted_share_a(self) -> float:
        """Of what `a` installed unasked; 0 without."""
        return self.wasted_a / self.unasked_a if self.unasked_a else 0.0

    @property
    def wasted_share_b(self) -> float:
        """Of what `b` installed unasked; 0 without."""
        return self.wasted_b / self.unasked_b if self.unasked_b else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "wasted_share_a": self.wasted_share_a, "wasted_share_b": self.wasted_share_b}

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, how much), for people."""
        a, b = self.name_a, self.name_b
        yield "faults", f"{self.faults_a:,} ({a}), {self.faults_b:,} ({b})"
        yield "threads waited", f"{format_ns(self.waited_a_ns)} ({a}), {format_ns(self.waited_b_ns)} ({b})"
        yield "p99 of a fault", f"{format_ns(self.p99_a_ns)} ({a}), {format_ns(self.p99_b_ns)} ({b})"
        yield f"{a} demanded", format_bytes(self.touched_a)
        yield f"{b} demanded", format_bytes(self.touched_b)
        yield "both demanded", f"{format_bytes(self.common)} in {self.common_runs:,} runs"
        yield "longest common run", format_bytes(self.longest_common_run)
        yield "overlap (Jaccard)", f"{self.jaccard:.1%}"
        yield "the same of all installed", f"{self.installed_jaccard:.1%}"
        for name, unasked, wasted, share, doubtful in (
            (a, self.unasked_a, self.wasted_a, self.wasted_share_a, self.doubtful_a),
            (b, self.unasked_b, self.wasted_b, self.wasted_share_b, self.doubtful_b),
        ):
            if unasked:
                text = f"{format_bytes(unasked)}, of which nobody touched {format_bytes(wasted)} ({share:.1%})"
                text += f"; not known of {format_bytes(doubtful)}" if doubtful else ""
                yield f"{name} installed unasked", text

    def __str__(self) -> str:
        return aligned(self.rows())

    def _repr_html_(self) -> str:
        return table_html(self.rows())


def demanded(records: Records) -> _runs.Runs:
    """What demand faults asked for."""
    return _runs.of_records(records[(records["kind"] == DEMAND) & (records["outcome"] != FAILED)])


def unasked(records: Records) -> _runs.Runs:
    """What was installed although nobody had faulted on it."""
    kind = records["kind"]
    return _runs.of_records(records[(kind != DEMAND) & (kind != REMOVE) & (records["outcome"] == INSTALLED)])


def _jaccard(a: _runs.Runs, b: _runs.Runs) -> float:
    either = _runs.size_bytes(_runs.union(a, b))
    return _runs.size_bytes(_runs.intersection(a, b)) / either if either else 1.0


def compare(a: Trace, b: Trace, *, names: tuple[str, str] | None = None) -> Comparison:
    """Compares two traces of one snapshot, called `names` (by default as their titles or files). See `Comparison`."""
    sums = summarize(a), summarize(b)
    p99 = [summary.latency[KINDS[DEMAND]].p99_ns if KINDS[DEMAND] in summary.latency else 0.0 for summary in sums]
    touched_a, touched_b = demanded(a.records), demanded(b.records)
    common = _runs.intersection(touched_a, touched_b)
    either = _runs.union(touched_a, touched_b)
    spare_a, spare_b = unasked(a.records), unasked(b.records)
    idle_a, idle_b = _runs.difference(spare_a, either), _runs.difference(spare_b, either)
    both_idle = _runs.intersection(idle_a, idle_b)
    found = list(names or (a.name, b.name))
    if found[0] == found[1]:
        found = [f"{name} ({number})" for number, name in enumerate(found, 1)]
    return Comparison(
        name_a=found[0],
        name_b=found[1],
        touched_a=_runs.size_bytes(touched_a),
        touched_b=_runs.size_bytes(touched_b),
        common=_runs.size_bytes(common),
        jaccard=_jaccard(touched_a, touched_b),
        common_runs=len(common),
        longest_common_run=int((common[:, 1] - common[:, 0]).max()) if len(common) else 0,
        unasked_a=_runs.size_bytes(spare_a),
        wasted_a=_runs.size_bytes(idle_a) - _runs.size_bytes(both_idle),
        doubtful_a=_runs.size_bytes(both_idle),
        unasked_b=_runs.size_bytes(spare_b),
        wasted_b=_runs.size_bytes(idle_b) - _runs.size_bytes(both_idle),
        doubtful_b=_runs.size_bytes(both_idle),
        installed_jaccard=_jaccard(_runs.union(touched_a, spare_a), _runs.union(touched_b, spare_b)),
        faults_a=sums[0].faults,
        faults_b=sums[1].faults,
        waited_a_ns=sums[0].waited_ns,
        waited_b_ns=sums[1].waited_ns,
        p99_a_ns=p99[0],
        p99_b_ns=p99[1],
    )
