"""`compare`: what two traces of the same snapshot have in common, and what a prefetch wasted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vmthaw.trace import _runs
from vmthaw.trace._schema import DEMAND, FAILED, INSTALLED, REMOVE, Records
from vmthaw.trace._summary import format_bytes, table_html

if TYPE_CHECKING:
    from vmthaw.trace._trace import Trace


@dataclass(frozen=True)
class Comparison:
    """Two traces by guest-physical address; sizes in bytes, all VMs of a trace together.

    "Touched" is what demand faults asked for, and what was installed unasked and would have been asked for without
    that is not known: so compare a trace that was recorded page by page, without prefetch. `jaccard` is the share of
    what either touched that both touched. `common_runs`: contiguous runs that both touched. `wasted_a`: what `a`
    installed unasked (prefetch, fault-around, pre-warm) and neither it nor `b` demanded; `unasked_a`: all of it.
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
    unasked_b: int
    wasted_b: int

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
        yield f"{a} demanded", format_bytes(self.touched_a)
        yield f"{b} demanded", format_bytes(self.touched_b)
        yield "both demanded", f"{format_bytes(self.common)} in {self.common_runs:,} runs"
        yield "longest common run", format_bytes(self.longest_common_run)
        yield "overlap (Jaccard)", f"{self.jaccard:.1%}"
        for name, unasked, wasted, share in (
            (a, self.unasked_a, self.wasted_a, self.wasted_share_a),
            (b, self.unasked_b, self.wasted_b, self.wasted_share_b),
        ):
            if unasked:
                text = f"{format_bytes(unasked)}, of which neither demanded {format_bytes(wasted)} ({share:.1%})"
                yield f"{name} installed unasked", text

    def __str__(self) -> str:
        rows = list(self.rows())
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _repr_html_(self) -> str:
        return table_html(self.rows())


def demanded(records: Records) -> _runs.Runs:
    """What demand faults asked for."""
    return _runs.of_records(records[(records["kind"] == DEMAND) & (records["outcome"] != FAILED)])


def unasked(records: Records) -> _runs.Runs:
    """What was installed although nobody had faulted on it."""
    kind = records["kind"]
    return _runs.of_records(records[(kind != DEMAND) & (kind != REMOVE) & (records["outcome"] == INSTALLED)])


def compare(a: Trace, b: Trace) -> Comparison:
    """Compares two traces of one snapshot. See `Comparison`."""
    touched_a, touched_b = demanded(a.records), demanded(b.records)
    common = _runs.intersection(touched_a, touched_b)
    either = _runs.union(touched_a, touched_b)
    spare_a, spare_b = unasked(a.records), unasked(b.records)
    names = [trace.path.stem if trace.path else f"trace {number}" for number, trace in enumerate((a, b), 1)]
    if names[0] == names[1]:
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    return Comparison(
        name_a=names[0],
        name_b=names[1],
        touched_a=_runs.size_bytes(touched_a),
        touched_b=_runs.size_bytes(touched_b),
        common=_runs.size_bytes(common),
        jaccard=_runs.size_bytes(common) / _runs.size_bytes(either) if len(either) else 1.0,
        common_runs=len(common),
        longest_common_run=int((common[:, 1] - common[:, 0]).max()) if len(common) else 0,
        unasked_a=_runs.size_bytes(spare_a),
        wasted_a=_runs.size_bytes(spare_a) - _runs.size_bytes(_runs.intersection(spare_a, either)),
        unasked_b=_runs.size_bytes(spare_b),
        wasted_b=_runs.size_bytes(spare_b) - _runs.size_bytes(_runs.intersection(spare_b, either)),
    )
