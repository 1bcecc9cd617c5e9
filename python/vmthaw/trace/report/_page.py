"""The page itself."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vmthaw._version import __version__
from vmthaw.trace._advice import Advice, advise
from vmthaw.trace._compare import Comparison
from vmthaw.trace._format import format_bytes, format_ns
from vmthaw.trace._summary import TraceSummary, summarize
from vmthaw.trace.plots import plot_addresses, plot_blocks, plot_composition, plot_latency, plot_progress
from vmthaw.trace.plots._figure import to_svg
from vmthaw.trace.report import _tables
from vmthaw.trace.report._preface import Preface

if TYPE_CHECKING:
    from vmthaw.trace._trace import Trace

# Nothing is loaded, and no script runs, whatever a trace's texts hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_LEVELS = {"problem": "Problem", "gain": "Could be faster", "note": "Good to know"}

_FIGURES = (
    (
        plot_addresses, "Where and when",
        "Each dot is a page, or a run of pages: how far right says when, how far up says where in the guest's memory. "
        "Slanted lines are memory read from one end to the other; clouds are scattered accesses; columns are moments "
        "in which much was wanted at once.",
    ),
    (
        plot_progress, "How it went on",
        "Above: faults since the start; flat means that the guest had what it needed. Below: memory brought in. What "
        "was not demanded was installed in the hope that it would be.",
    ),
    (
        plot_latency, "How long each took",
        "From the moment the fault's message was read to the moment its page was in; further left is faster, and both "
        "scales of time are logarithmic. Only for demand did anybody wait. What the guest itself feels is a little "
        "more: the way into the kernel and back.",
    ),
    (
        plot_composition, "What it was made of",
        "Four ways to cut the same restore into shares. Zeros need no bytes; a mapped file is copied by the kernel "
        "straight from the page cache.",
    ),
    (
        plot_blocks, "Which parts of the memory",
        "The guest's memory from its first to its last address, row by row; each square is one block. The fuller its "
        "colour, the more of it was asked for: pages of 2 MiB pay where squares are full.",
    ),
)  # fmt: skip

_WORDS = (
    ("fault", "The guest touched a page that was not there. Its thread slept until the page was installed."),
    ("demand", "Pages installed because a fault asked for them."),
    ("fault-around", "Pages beside the demanded one, installed because faults were following each other."),
    ("prefetch", "Pages of a recorded working set, installed before anybody asked."),
    ("pre-warm", "Pages listed by hand and installed before the guest ran."),
    ("queue, fetch, install", "A fault's time: its worker was busy with others (an estimate); the bytes were on their "
     "way; the kernel put the page in and woke the thread."),
    ("p50, p95, p99", "Half, 95 % and 99 % of the faults took at most that long."),
)  # fmt: skip


def page(trace: Trace, title: str, comparisons: Sequence[Comparison], preface: Preface | None = None) -> str:
    """The whole page."""
    summary = summarize(trace)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{html.escape(_origin(trace))}</p>',
        *(preface.to_html() if preface else ()),
        f"<h2>What happened{html.escape(f' in {trace.name!r}') if preface else ''}</h2>",
        f"<p>{html.escape(_story(summary))}</p>",
        _cards(trace, summary),
        "<h2>What it cost</h2>",
        f"<p>{html.escape(_cost(summary))}</p>",
        "<h2>What to do about it</h2>",
        *(_advice(each) for each in advise(trace, summary)),
        *_tables.comparisons(comparisons),
        "<h2>Pictures</h2>",
    ]
    for number, (draw, heading, caption) in enumerate(_FIGURES):
        svg = to_svg(draw(trace, title=""), f"f{number}")
        label = html.escape(f"{heading}. {caption}")
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
        parts.append(
            f"<h3>{html.escape(heading)}</h3><figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    parts += ["<h2>Tables</h2>", *_tables.tables(trace, summary)]
    parts += [
        "<h2>Words</h2><dl>",
        *(f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>" for word, text in _WORDS),
    ]
    parts.append(f"</dl><footer>{html.escape(_footer(trace))}</footer>")
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n'
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _origin(trace: Trace) -> str:
    info = trace.info
    texts = ["A fault trace"]
    if info.started_at:
        when = datetime.fromtimestamp(info.started_at / 1e9, tz=UTC)
        texts.append(f"recorded on {when:%Y-%m-%d at %H:%M:%S} UTC by vmthaw {info.vmthaw_version}")
    texts += [f"{key}: {value}" for key, value in sorted(info.notes.items()) if key != "title"]
    return "; ".join(texts) + "."


def _story(summary: TraceSummary) -> str:
    vms = "A VM was" if summary.vms == 1 else f"{summary.vms:,} VMs were"
    memory = f" with {format_bytes(summary.memory_bytes)} of memory" if summary.memory_bytes else ""
    text = (
        f"{vms} restored{memory}. Nothing of it was there at the start: each page came when the guest first touched "
        f"it, or shortly before. In {format_ns(summary.duration_ns)} the guest asked {summary.faults:,} times"
    )
    unasked = summary.pages - summary.pages_by_kind.get("demand", 0)
    text += f", and {summary.pages:,} pages were installed ({format_bytes(summary.installed_bytes)})"
    text += f", {unasked:,} of them without being asked for." if unasked else "."
    if summary.memory_bytes and summary.installed_bytes < summary.memory_bytes:
        spared = 1 - summary.installed_bytes / summary.memory_bytes
        text += f" {spared:.0%} of the memory was not needed as long as it was traced."
    if summary.removed_pages:
        text += f" The guest gave {summary.removed_pages:,} pages back."
    return text


def _cost(summary: TraceSummary) -> str:
    latency = summary.latency.get("demand")
    if latency is None:
        return "No thread of the guest waited for a page."
    parts = summary.breakdown
    total = max(1, parts.total_ns)
    return (
        f"The guest's threads waited {format_ns(parts.total_ns)} in all, {format_ns(parts.total_ns / summary.faults)} "
        f"for each fault on average. Half of the faults took at most {format_ns(latency.p50_ns)}, 1 in 100 took more "
        f"than {format_ns(latency.p99_ns)}, the slowest {format_ns(latency.max_ns)}. Of the waiting, "
        f"{parts.install_ns / total:.0%} was the kernel putting pages in, {parts.fetch_ns / total:.0%} getting their "
        f"bytes, and {parts.queue_ns / total:.0%} waiting for a worker that was busy with other faults."
    )


def _cards(trace: Trace, summary: TraceSummary) -> str:
    return (
        '<div class="cards">' + "".join(_card(number, text) for number, text in _card_texts(trace, summary)) + "</div>"
    )


def _card(number: str, text: str) -> str:
    return f'<div class="card"><b>{html.escape(number)}</b><span>{html.escape(text)}</span></div>'


def _card_texts(trace: Trace, summary: TraceSummary) -> Iterator[tuple[str, str]]:
    yield f"{summary.faults:,}", "faults: a thread of the guest had to wait"
    yield format_ns(summary.waited_ns), "waited by the guest's threads, all together"
    if latency := summary.latency.get("demand"):
        yield format_ns(latency.p50_ns), f"or less for half of the faults (p99: {format_ns(latency.p99_ns)})"
    share = f" of {format_bytes(summary.memory_bytes)}" if summary.memory_bytes else ""
    yield format_bytes(summary.installed_bytes), f"installed{share}; {summary.zero_share:.0%} of it zeros"
    if summary.dropped:
        yield f"{summary.dropped:,}", "records are missing"
    elif not trace.info.complete:
        yield "cut off", "the recording did not end by itself"


def _advice(advice: Advice) -> str:
    how = f"<pre>{html.escape(advice.how)}</pre>" if advice.how else ""
    return (
        f'<div class="advice {advice.level}"><h3><span class="level">{_LEVELS[advice.level]}</span>'
        f"{html.escape(advice.title)}</h3><p>{html.escape(advice.text)}</p>{how}</div>"
    )


def _footer(trace: Trace) -> str:
    file = f" from {trace.path.name}" if trace.path else ""
    return (
        f"Made by vmthaw {__version__}{file}; {len(trace):,} records, schema {trace.info.schema_version}, times of "
        f"{trace.info.clock}. This page loads nothing from anywhere."
    )
