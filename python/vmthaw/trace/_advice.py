"""What to do about a trace: recommendations worked out from its figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vmthaw.trace._format import format_bytes, format_ns
from vmthaw.trace._schema import DEFERRED, DEMAND, FAILED, REMOVED
from vmthaw.trace._summary import BLOCK, TraceSummary, summarize

if TYPE_CHECKING:
    from vmthaw.trace._trace import Trace

Level = Literal["problem", "gain", "note"]
_ORDER: tuple[Level, ...] = ("problem", "gain", "note")

# Below these, figures are noise.
_FEW_FAULTS = 50
_FEW_PAGES = 500


@dataclass(frozen=True)
class Advice:
    """One finding and what follows from it.

    ``level``: "problem" (something is wrong), "gain" (it could be faster), "note" (good to know). ``how`` is what to
    type, or empty.
    """

    level: Level
    title: str
    text: str
    how: str = ""

    def __str__(self) -> str:
        how = "".join(f"\n    {line}" for line in self.how.splitlines())
        return f"[{self.level}] {self.title}\n  {self.text}{how}"


def advise(trace: Trace, summary: TraceSummary | None = None) -> list[Advice]:
    """Recommendations for a trace, the most important first. `summary` spares working it out again."""
    figures = summary or summarize(trace)
    found = [*_about_the_recording(trace, figures), *_about_failures(figures)]
    if figures.faults:
        found += [*_about_faults(trace, figures), *_about_time(trace, figures), *_about_pages(trace, figures)]
    else:
        found.append(
            Advice("note", "No page was demanded", "The VM touched nothing that was missing while it was traced.")
        )
    return sorted(found, key=lambda advice: _ORDER.index(advice.level))


def _about_the_recording(trace: Trace, figures: TraceSummary) -> Iterator[Advice]:
    ring = sum(gap.dropped for gap in trace.info.gaps if gap.where == "ring")
    writer = figures.dropped - ring
    if ring:
        yield Advice(
            "problem",
            f"{ring:,} records are missing",
            "The ring was full before they were taken, so every count here is too low. Give each VM a larger ring.",
            "TraceRecorder(path, server, ring_records=1 << 18)",
        )
    if writer:
        yield Advice(
            "problem",
            f"{writer:,} records are missing",
            "The disk was slower than the faults, so every count here is too low. Record to a faster disk, or let more "
            "records wait in memory.",
            "TraceRecorder(path, server, max_pending=1 << 22)",
        )
    exits = figures.exits
    if exits is not None and exits.dropped:
        yield Advice(
            "problem",
            f"{exits.dropped:,} exits are missing",
            "The ring was full before they were taken, or the disk was slower than the exits, so every count of them "
            "is too low. Give the machine a larger ring, and the recorder more that may wait.",
            "Machine(memory, exit_records=1 << 18)\nTraceRecorder(path, machine, max_pending=1 << 22)",
        )
    dax = figures.dax
    if dax is not None and dax.dropped:
        yield Advice(
            "problem",
            f"{dax.dropped:,} DAX events are missing",
            "The ring was full before they were taken, or the disk was slower than they came, so every count of them "
            "is too low, and what was mapped when cannot be told. Give the sessions larger rings, and the recorder "
            "more that may wait.",
            "TraceRecorder(path, machine, dax=session, ring_records=1 << 18, max_pending=1 << 22)",
        )
    if not all(part.complete for part in (figures, exits, dax) if part is not None):
        yield Advice(
            "problem",
            "The recording was cut off",
            "Its process ended before stop(). What is here is right; what came after the last whole batch is not here.",
        )


def _about_failures(figures: TraceSummary) -> Iterator[Advice]:
    if figures.failed:
        yield Advice(
            "problem",
            f"{figures.failed:,} faults failed",
            "The source could not give their pages, and the failure policy decided over the VM. The server's log has "
            "the reason (PageServer.failures); check the disk or the network behind the source.",
        )


def _about_faults(trace: Trace, figures: TraceSummary) -> Iterator[Advice]:
    prefetched = figures.pages_by_kind.get("prefetch", 0)
    beside = figures.pages_by_kind.get("fault-around", 0)
    file = trace.path.name if trace.path else "boot.parquet"
    if figures.faults >= _FEW_FAULTS and not prefetched:
        size = format_bytes(figures.touched_bytes + beside * _page_bytes(trace))
        yield Advice(
            "gain",
            "Restore the next VM of this snapshot with a working set",
            f"{figures.faults:,} faults made the guest's threads wait {format_ns(figures.waited_ns)}. The next VM will "
            f"touch much the same: {size}, which is copied in large pieces before most of it is asked for.",
            f'WorkingSet.from_trace(Trace.open("{file}"), include=("demand", "fault_around")).save("mem.ws")\n'
            "vmthaw serve --socket SOCKET --memory FILE --working-set mem.ws",
        )
    if prefetched and figures.faults > prefetched / 5:
        yield Advice(
            "gain",
            "The working set does not fit this run well",
            f"{prefetched:,} pages were prefetched, and yet {figures.faults:,} faults were left. Record it anew, or "
            "join what several runs touched.",
            "WorkingSet.from_trace(first) | WorkingSet.from_trace(second)",
        )
    elif prefetched:
        yield Advice(
            "note",
            "The working set does its work",
            f"{prefetched:,} pages were installed ahead of their need; {figures.faults:,} faults were left. Whether "
            "all of them were needed only a trace without it can tell: compare the two.",
            'compare(Trace.open("without.parquet"), Trace.open("with.parquet"))',
        )
    if figures.next_page_probability > 0.3 and not beside and figures.faults >= _FEW_FAULTS:
        yield Advice(
            "gain",
            "Fill more than the page that was asked for",
            f"{figures.next_page_probability:.0%} of the faults asked for the page behind the last one. A window that "
            "grows while faults follow each other answers most of them before they come.",
            "PagerConfig(fill_mode=FillMode.window)",
        )


def _about_time(trace: Trace, figures: TraceSummary) -> Iterator[Advice]:
    parts = figures.breakdown
    if not parts.total_ns or figures.faults < _FEW_FAULTS:
        return
    if parts.queue_ns > 0.5 * parts.total_ns:
        yield Advice(
            "gain",
            "Faults wait for a worker",
            f"{parts.queue_ns / parts.total_ns:.0%} of the waiting passed while the worker was busy with others: "
            "many threads or VMs fault at once. More processors help, and so does whatever saves faults.",
        )
    if parts.fetch_ns > 0.5 * parts.total_ns:
        yield Advice(
            "gain",
            "Faults wait for their bytes",
            f"{parts.fetch_ns / parts.total_ns:.0%} of the waiting went by until the bytes were there. Keep the memory "
            "file in the page cache (read it once before the restore) or on a faster disk, or bring the pages early by "
            "a working set.",
        )
    if parts.install_ns > 0.5 * parts.total_ns:
        yield Advice(
            "note",
            "The bytes are there in time",
            f"{parts.install_ns / parts.total_ns:.0%} of the waiting is the kernel installing pages; a faster disk "
            "would change little. Fewer faults would.",
        )
    latency = figures.latency.get("demand")
    if latency and latency.p99_ns > 20 * latency.p50_ns and latency.p99_ns > 1e6:
        yield Advice(
            "gain",
            "A few faults take very long",
            f"Half of them took at most {format_ns(latency.p50_ns)}, yet 1 in 100 took more than "
            f"{format_ns(latency.p99_ns)}: typical of pages that were not in the page cache. The slowest are in a "
            "table below.",
        )


def _about_pages(trace: Trace, figures: TraceSummary) -> Iterator[Advice]:
    if figures.pages >= _FEW_PAGES and figures.zero_share == 0:
        yield Advice(
            "gain",
            "No page was known to be zeros",
            "Holes in the memory file are installed without reading anything, and most snapshots are full of zeros. If "
            "this file has none, dig them (works in place).",
            "fallocate --dig-holes FILE",
        )
    page_bytes = _page_bytes(trace)
    if figures.blocks >= 8 and page_bytes == 4096:
        whole = figures.blocks * BLOCK
        if figures.block_fill > 0.5:
            yield Advice(
                "gain",
                "Try pages of 2 MiB",
                f"{figures.block_fill:.0%} of the 2 MiB blocks that were touched was asked for: {figures.blocks:,} "
                f"faults instead of {figures.faults:,} would bring {format_bytes(whole)}.",
            )
        elif figures.block_fill < 0.1:
            yield Advice(
                "note",
                "Pages of 2 MiB would not pay",
                f"The guest asks for little of many places: {figures.block_fill:.1%} of each 2 MiB block it touches. "
                f"Whole blocks would be {format_bytes(whole)} instead of {format_bytes(figures.touched_bytes)}.",
            )
    records = trace.records
    again = int(
        ((records["kind"] == DEMAND) & (records["page_class"] == REMOVED) & (records["outcome"] < DEFERRED)).sum()
    )
    if again > 0.05 * figures.faults and again >= _FEW_FAULTS:
        yield Advice(
            "gain",
            "The guest takes back what it gave",
            f"{again:,} faults asked for pages that the balloon had just given back: it takes too much, or too early.",
        )
    if figures.deferred > 0.05 * figures.faults:
        yield Advice(
            "note",
            f"{figures.deferred:,} answers were put off",
            "The VM was giving memory back at the same moment, and the kernel has it wait. They came again.",
        )


def _page_bytes(trace: Trace) -> int:
    demand = trace.records[(trace.records["kind"] == DEMAND) & (trace.records["outcome"] != FAILED)]
    return 1 << int(np.min(demand["page_size_log2"])) if len(demand) else 4096
