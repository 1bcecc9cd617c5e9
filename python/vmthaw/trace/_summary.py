"""The figures of a trace: `TraceSummary`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmthaw.trace import _runs
from vmthaw.trace._columns import Records
from vmthaw.trace._dax_summary import DaxSummary, summarize_dax
from vmthaw.trace._exit_summary import ExitSummary, summarize_exits
from vmthaw.trace._format import aligned, format_bytes, format_ns, table_html
from vmthaw.trace._schema import DEFERRED, DEMAND, INSTALLED, KINDS, PAGE_CLASSES, PREFETCH, REMOVE

if TYPE_CHECKING:
    from vmthaw.trace._trace import Trace

BLOCK = 2 << 20


@dataclass(frozen=True)
class LatencySummary:
    """From the message read to the page installed and the toucher woken, in ns, of `count` fills."""

    count: int
    p50_ns: float
    p95_ns: float
    p99_ns: float
    max_ns: float


@dataclass(frozen=True)
class Breakdown:
    """Where the time of all demand faults went, as sums in ns.

    queue: read, but its worker was still busy with earlier faults (an estimate: until the worker's previous install).
    fetch: from there until the bytes were there (nothing for zeros). install: from there until the page was in.
    """

    queue_ns: int
    fetch_ns: int
    install_ns: int

    @property
    def total_ns(self) -> int:
        """All of it."""
        return self.queue_ns + self.fetch_ns + self.install_ns


@dataclass(frozen=True)
class RunSummary:
    """Runs of contiguous pages that were demanded, however long that took: their number, and pages per run."""

    count: int
    mean_pages: float
    median_pages: float
    longest_pages: int


@dataclass(frozen=True)
class TraceSummary:
    """What happened in a trace. Pages are those of their records (`page_size`); sizes in bytes, times in ns.

    faults: demand faults that were answered or failed. deferred: answers put off because the VM was just giving memory
    back (they come again). pages_by_kind and pages_by_class: pages installed. removed_pages: given back by the VM.
    touched_bytes: guest memory of demand faults. installed_bytes: guest memory that was installed, whoever asked.
    next_page_probability: that the next fault of a VM is the page behind the last. blocks: aligned 2 MiB blocks with a
    demand fault; block_fill: the share of their bytes that was demanded. zero_share: of the installed pages.
    memory_bytes: of all VMs (0: not known). exits: of the vCPUs; dax: of DAX sessions; None when not recorded.
    """

    vms: int
    records: int
    duration_ns: int
    faults: int
    failed: int
    already_present: int
    deferred: int
    pages_by_kind: dict[str, int]
    pages_by_class: dict[str, int]
    removed_pages: int
    touched_bytes: int
    installed_bytes: int
    memory_bytes: int
    latency: dict[str, LatencySummary]
    breakdown: Breakdown
    runs: RunSummary
    next_page_probability: float
    blocks: int
    block_fill: float
    zero_share: float
    dropped: int
    complete: bool
    exits: ExitSummary | None = None
    dax: DaxSummary | None = None

    @property
    def pages(self) -> int:
        """All that was installed."""
        return sum(self.pages_by_kind.values())

    @property
    def waited_ns(self) -> int:
        """What the VMs' threads waited for demand faults, all together."""
        return self.breakdown.total_ns

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "pages": self.pages, "waited_ns": self.waited_ns}

    def rows(self) -> Iterator[tuple[str, str]]:
        """(what, how much), for people."""
        yield "VMs", f"{self.vms}"
        yield "duration", format_ns(self.duration_ns)
        yield "faults", f"{self.faults:,}" + (f" ({self.failed:,} failed)" if self.failed else "")
        by_kind = ", ".join(f"{count:,} {kind}" for kind, count in self.pages_by_kind.items())
        yield "pages installed", f"{self.pages:,}" + (f": {by_kind}" if by_kind else "")
        yield "zero pages", f"{self.zero_share:.0%} of those installed"
        if self.removed_pages:
            yield "given back", f"{self.removed_pages:,} pages"
        memory = f" of {format_bytes(self.memory_bytes)} ({self.touched_share:.1%})" if self.memory_bytes else ""
        yield "memory demanded", f"{format_bytes(self.touched_bytes)}{memory}"
        yield "2 MiB blocks", f"{self.blocks:,} demanded from, {self.block_fill:.0%} of their bytes"
        runs = self.runs
        yield (
            "contiguous runs",
            f"{runs.count:,}; median {runs.median_pages:.0f}, longest {runs.longest_pages:,} pages",
        )
        yield "next fault is the next page", f"{self.next_page_probability:.0%}"
        for kind, latency in self.latency.items():
            text = f"p50 {format_ns(latency.p50_ns)}, p95 {format_ns(latency.p95_ns)}, p99 {format_ns(latency.p99_ns)}"
            yield (
                f"{kind} took",
                text + (" after the fault it went with; nobody waited" if kind == "fault-around" else ""),
            )
        parts = self.breakdown
        if parts.total_ns:
            shares = (
                f"{parts.queue_ns / parts.total_ns:.0%} queue, {parts.fetch_ns / parts.total_ns:.0%} fetch, "
                f"{parts.install_ns / parts.total_ns:.0%} install"
            )
            yield "threads waited", f"{format_ns(parts.total_ns)} in all: {shares}"
        yield "records dropped", f"{self.dropped:,}" + ("" if self.complete else "; the recording was cut off")
        if self.exits is not None:
            yield from self.exits.rows()
        if self.dax is not None:
            yield from self.dax.rows()

    @property
    def touched_share(self) -> float:
        """Of the VMs' memory; 0 where that is not known."""
        return self.touched_bytes / self.memory_bytes if self.memory_bytes else 0.0

    def __str__(self) -> str:
        return aligned(self.rows())

    def _repr_html_(self) -> str:
        return table_html(self.rows())


def answered_demand(records: Records) -> Records:
    """Demand faults that came to an end, in the order of their messages."""
    chosen = records[(records["kind"] == DEMAND) & (records["outcome"] != DEFERRED)]
    ordered: Records = chosen[np.argsort(chosen["t_fault_ns"], kind="stable")]
    return ordered


def latencies_ns(records: Records) -> NDArray[np.int64]:
    """Of those that were installed (or found present), from the message to the end."""
    done = records[(records["t_installed_ns"] >= records["t_fault_ns"]) & (records["t_fault_ns"] > 0)]
    found: NDArray[np.int64] = (done["t_installed_ns"] - done["t_fault_ns"]).astype(np.int64)
    return found


def summarize(trace: Trace) -> TraceSummary:
    """See `Trace.summary`."""
    records = trace.records
    installed = records[(records["outcome"] == INSTALLED) & (records["kind"] != REMOVE)]
    demand = answered_demand(records)
    by_kind = _pages_by(installed, "kind", KINDS)
    by_class = _pages_by(installed, "page_class", PAGE_CLASSES)
    pages = sum(by_kind.values())
    demanded = demand[demand["outcome"] != 3]
    per_vm = [_runs.of_records(demanded[demanded["session"] == vm]) for vm in np.unique(demanded["session"])]
    touched = sum(map(_runs.size_bytes, per_vm))
    blocks = sum(_runs.blocks(runs, BLOCK) for runs in per_vm)
    covered = sum(
        _runs.size_bytes(_runs.of_records(installed[installed["session"] == vm]))
        for vm in np.unique(installed["session"])
    )
    return TraceSummary(
        vms=len({*(session.id for session in trace.info.sessions), *np.unique(records["session"]).tolist()}),
        records=len(records),
        duration_ns=trace.duration_ns,
        faults=len(demand),
        failed=int((demand["outcome"] == 3).sum()),
        already_present=int((demand["outcome"] == 1).sum()),
        deferred=int((records["outcome"] == DEFERRED).sum()),
        pages_by_kind=by_kind,
        pages_by_class=by_class,
        removed_pages=int(records["pages"][records["kind"] == REMOVE].sum()),
        touched_bytes=touched,
        installed_bytes=covered,
        memory_bytes=trace.info.memory_bytes,
        latency=_latency_by_kind(records),
        breakdown=_breakdown(records),
        runs=_run_summary(per_vm, demanded),
        next_page_probability=next_page_probability(demand),
        blocks=blocks,
        block_fill=touched / (blocks * BLOCK) if blocks else 0.0,
        zero_share=(pages - by_class.get(PAGE_CLASSES[0], 0)) / pages if pages else 0.0,
        dropped=trace.info.dropped,
        complete=trace.info.complete,
        exits=None if trace.exits_info is None else summarize_exits(trace.exit_records, trace.exits_info),
        dax=None if trace.dax_info is None else summarize_dax(trace.dax_records, trace.dax_info),
    )


def _pages_by(records: Records, column: str, names: tuple[str, ...]) -> dict[str, int]:
    counts = np.zeros(len(names), dtype=np.int64)
    np.add.at(counts, records[column], records["pages"].astype(np.int64))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _latency_by_kind(records: Records) -> dict[str, LatencySummary]:
    found = {}
    for number, name in enumerate(KINDS):
        # A prefetch has no toucher: the time of its message says nothing.
        if number in (PREFETCH, REMOVE):
            continue
        values = latencies_ns(records[(records["kind"] == number) & (records["outcome"] != DEFERRED)])
        if len(values):
            p50, p95, p99 = (float(value) for value in np.percentile(values, [50, 95, 99]))
            found[name] = LatencySummary(len(values), p50, p95, p99, float(values.max()))
    return found


def _breakdown(records: Records) -> Breakdown:
    ordered = records[np.argsort(records["t_installed_ns"], kind="stable")]
    demand = (ordered["kind"] == DEMAND) & (ordered["t_installed_ns"] >= ordered["t_fault_ns"])
    queue = fetch = install = 0
    for handler in np.unique(ordered["handler"]):
        mine = ordered["handler"] == handler
        part = ordered[mine]
        ends = part["t_installed_ns"].astype(np.int64)
        free = np.concatenate(([0], ends[:-1]))
        chosen = demand[mine] & (part["outcome"] != DEFERRED) & (ends > 0)
        begin = part["t_fault_ns"].astype(np.int64)[chosen]
        end = ends[chosen]
        ready = np.minimum(np.maximum(part["t_fetched_ns"].astype(np.int64)[chosen], begin), end)
        has_bytes = part["t_fetched_ns"][chosen] > 0
        started = np.clip(free[chosen], begin, np.where(has_bytes, ready, end))
        queue += int((started - begin).sum())
        fetch += int((ready - started)[has_bytes].sum())
        install += int((end - np.where(has_bytes, ready, started)).sum())
    return Breakdown(queue, fetch, install)


def _run_summary(per_vm: list[_runs.Runs], demanded: Records) -> RunSummary:
    if not len(demanded):
        return RunSummary(0, 0.0, 0.0, 0)
    page = 1 << int(demanded["page_size_log2"].min())
    lengths = np.concatenate([runs[:, 1] - runs[:, 0] for runs in per_vm]) // page
    return RunSummary(len(lengths), float(lengths.mean()), float(np.median(lengths)), int(lengths.max()))


def next_page_probability(demand: Records) -> float:
    """Of consecutive faults of a VM, the share that is one page further up. `demand` is in order of time."""
    follows = pairs = 0
    for vm in np.unique(demand["session"]):
        part = demand[demand["session"] == vm]
        addresses = part["guest_address"].astype(np.int64)
        size = np.int64(1) << part["page_size_log2"].astype(np.int64)
        follows += int((addresses[1:] == addresses[:-1] + size[:-1]).sum())
        pairs += max(0, len(part) - 1)
    return follows / pairs if pairs else 0.0
