"""What notebooks show of the core's objects."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from vmthaw._core import EndReason, PagerSession, PagerStats
from vmthaw.trace._format import format_bytes, format_ns, table_html

_MORE = ("redundant", "coalesced", "retried", "deferred", "forwarded")


def stats_html(stats: PagerStats) -> str:
    """A table of the counters."""
    return _titled("PagerStats", _stats_rows(stats))


def session_html(session: PagerSession) -> str:
    """A table of what is known of a session. Takes its locks with the GIL released."""
    state = session.state.name
    if session.end_reason is not EndReason.none:
        state += f": {session.end_reason.name.replace('_', ' ')}"
    regions = session.regions
    rows = [
        ("VM", f"{session.label} (number {session.id})"),
        ("state", state),
        ("memory", f"{format_bytes(sum(region.size for region in regions))} in {len(regions)} region(s)"),
        *(("failure", failure) for failure in session.failures),
    ]
    return _titled("PagerSession", [*rows, *_stats_rows(session.stats)])


def _titled(title: str, rows: Iterable[tuple[str, str]]) -> str:
    return f"<p><b>{html.escape(title)}</b></p>{table_html(rows)}"


def _stats_rows(stats: PagerStats) -> Iterator[tuple[str, str]]:
    yield "faults", f"{stats.faults:,}" + (f" ({stats.failed:,} failed)" if stats.failed else "")
    unasked = {"around faults": stats.fault_around, "prefetched": stats.prefetched, "pre-warmed": stats.prewarmed}
    parts = "".join(f", {count:,} {name}" for name, count in unasked.items() if count)
    yield "pages installed", f"{stats.installed:,}, {stats.zero:,} of them zeros{parts}"
    if stats.removed:
        yield "pages given back", f"{stats.removed:,}"
    yield "read from the source", format_bytes(stats.source_bytes)
    if stats.faults:
        p50, p99 = stats.latency_ns(0.5), stats.latency_ns(0.99)
        yield "a fault took", f"p50 {format_ns(p50)}, p99 {format_ns(p99)}"
    more = ", ".join(f"{getattr(stats, name):,} {name}" for name in _MORE if getattr(stats, name))
    if more:
        yield "also", more
