"""The tables of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vmthaw.trace._compare import Comparison
from vmthaw.trace._format import format_bytes, format_ns
from vmthaw.trace._schema import FLAGS, SOURCES
from vmthaw.trace._summary import TraceSummary, answered_demand, summarize

if TYPE_CHECKING:
    from vmthaw.trace._info import TraceInfo
    from vmthaw.trace._trace import Trace

_MOST_ROWS = 10


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """HTML; from column `numbers` on cells are figures, on the right. 0: none."""
    side = [' class="n"' if numbers and column >= numbers else "" for column in range(len(head))]
    top = "".join(f"<th{at}>{html.escape(text)}</th>" for text, at in zip(head, side, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{at}>{html.escape(text)}</td>" for text, at in zip(row, side, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def comparisons(found: Sequence[Comparison]) -> Iterator[str]:
    """A section, if there is anything to compare with."""
    if not found:
        return
    yield "<h2>Beside other restores</h2>"
    for each in found:
        rows = [
            ("faults", f"{each.faults_a:,}", f"{each.faults_b:,}"),
            ("the guest's threads waited", format_ns(each.waited_a_ns), format_ns(each.waited_b_ns)),
            ("1 fault in 100 took more than", format_ns(each.p99_a_ns), format_ns(each.p99_b_ns)),
            ("demanded", format_bytes(each.touched_a), format_bytes(each.touched_b)),
            ("installed unasked", format_bytes(each.unasked_a), format_bytes(each.unasked_b)),
            ("of that, touched in neither", _part(each.wasted_a, each.unasked_a), _part(each.wasted_b, each.unasked_b)),
            ("of that, not known", _part(each.doubtful_a, each.unasked_a), _part(each.doubtful_b, each.unasked_b)),
        ]
        yield table(("", each.name_a, each.name_b), rows, 1)
        yield f"<p>{html.escape(_verdict(each))}</p>"


def _part(part: int, whole: int) -> str:
    return f"{format_bytes(part)} ({part / whole:.0%})" if whole else "-"


def _verdict(each: Comparison) -> str:
    if each.unasked_a or each.unasked_b:
        text = f"Of the memory that either installed, both installed {each.installed_jaccard:.0%}."
    else:
        text = f"Both demanded {format_bytes(each.common)}: {each.jaccard:.0%} of what either demanded."
    if each.doubtful_a or each.doubtful_b:
        text += (
            " What both installed unasked caused no fault in either, so whether anybody touched it is not known; a "
            "third restore, page by page and without prefetch, would tell."
        )
    if each.waited_a_ns and each.waited_b_ns:
        more = each.waited_a_ns / each.waited_b_ns
        slow, fast, times = (each.name_a, each.name_b, more) if more >= 1 else (each.name_b, each.name_a, 1 / more)
        if times >= 1.1:
            text = f"In {slow!r} the guest's threads waited {times:.1f} times as long as in {fast!r}. " + text
    return text


def tables(trace: Trace, summary: TraceSummary) -> Iterator[str]:
    """All of them."""
    yield "<h3>All figures</h3>"
    yield table(("what", "how much"), summary.rows())
    if summary.vms > 1:
        yield "<h3>VMs</h3>"
        yield _vms(trace)
    if summary.latency:
        yield "<h3>Latency by kind</h3>"
        rows = [
            (kind, f"{one.count:,}", *map(format_ns, (one.p50_ns, one.p95_ns, one.p99_ns, one.max_ns)))
            for kind, one in summary.latency.items()
        ]
        yield table(("kind", "fills", "p50", "p95", "p99", "slowest"), rows, 1)
    yield from _slowest(trace)
    yield from _missing("Missing records", "VM", trace.info)
    if summary.exits is not None and summary.exits.count:
        yield "<h3>vCPU exits by reason</h3>"
        rows = [
            (name, f"{one.count:,}", *map(format_ns, (one.guest_ns, one.host_ns, one.host_p50_ns, one.host_p99_ns)))
            for name, one in list(summary.exits.by_reason.items())[:_MOST_ROWS]
        ]
        yield table(("reason", "exits", "in the guest", "in the host", "of one: p50", "p99"), rows, 1)
    if trace.exits_info is not None:
        yield from _missing("Missing exits", "run", trace.exits_info)
    if summary.dax is not None and summary.dax.count:
        yield "<h3>DAX events by kind</h3>"
        rows = [
            (kind, f"{one.count:,}", f"{one.failed:,}", format_bytes(one.size_bytes), format_ns(one.p50_ns),
             format_ns(one.p99_ns))
            for kind, one in summary.dax.by_kind.items()
        ]  # fmt: skip
        yield table(("kind", "events", "failed", "memory", "of one: p50", "p99"), rows, 1)
    if trace.dax_info is not None:
        yield from _missing("Missing DAX events", "DAX session", trace.dax_info)


def _missing(heading: str, whose: str, info: TraceInfo) -> Iterator[str]:
    if info.gaps:
        yield f"<h3>{heading}</h3>"
        rows = [
            (f"{gap.after:,}", f"{gap.session}", f"{gap.dropped:,}",
             "the ring was full" if gap.where == "ring" else "the disk was too slow")
            for gap in info.gaps[:_MOST_ROWS]
        ]  # fmt: skip
        yield table(("behind record", whose, "missing", "because"), rows)


def _vms(trace: Trace) -> str:
    rows = []
    for session in trace.info.sessions[:_MOST_ROWS]:
        one = summarize(trace.session(session.id))
        p99 = one.latency["demand"].p99_ns if "demand" in one.latency else 0.0
        rows.append(
            (session.label, f"{session.id}", f"{one.faults:,}", format_bytes(one.installed_bytes),
             format_ns(one.waited_ns), format_ns(p99))
        )  # fmt: skip
    left = len(trace.info.sessions) - len(rows)
    more = f'<p class="soft">and {left:,} more</p>' if left > 0 else ""
    return table(("VM", "number", "faults", "installed", "waited", "p99"), rows, 1) + more


def _slowest(trace: Trace) -> Iterator[str]:
    demand = answered_demand(trace.records)
    demand = demand[demand["t_installed_ns"] > demand["t_fault_ns"]]
    if not len(demand):
        return
    took = (demand["t_installed_ns"] - demand["t_fault_ns"]).astype(np.int64)
    start = int(trace.records["t_fault_ns"].min())
    rows = []
    for index in np.argsort(-took, kind="stable")[:_MOST_ROWS]:
        record = demand[index]
        fetched = int(record["t_fetched_ns"]) - int(record["t_fault_ns"]) if record["t_fetched_ns"] else None
        rows.append(
            (
                f"{int(record['guest_address']):#x}", FLAGS[int(record["flags"]) & 7] or "read",
                SOURCES[int(record["source"])], str(record["tid"]) if record["tid"] else "-",
                format_ns(int(record["t_fault_ns"]) - start), format_ns(float(took[index])),
                format_ns(max(0, fetched)) if fetched is not None else "-",
            )
        )  # fmt: skip
    yield "<h3>The slowest faults</h3>"
    yield table(
        ("guest address", "access", "source", "thread", "at", "took", "of that, until the bytes were there"), rows, 3
    )
