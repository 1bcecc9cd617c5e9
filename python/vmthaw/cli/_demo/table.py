"""The demo's table, and what it means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vmthaw.cli._demo.plan import Plan
from vmthaw.cli._demo.result import Result
from vmthaw.cli._demo.ways import FIRST, SECOND
from vmthaw.cli._values import format_size

# By the fields of `Result`.
PRINTED = {
    "resume_ms": "resume\nms", "first_answer_ms": "first\nanswer", "working_set_ms": "working\nset",
    "faults": "faults", "pages": "pages", "zero_pages": "zero\npages", "fault_p50_us": "fault\np50 us",
    "fault_p99_us": "fault\np99 us", "memory_bytes": "memory\nMiB",
}  # fmt: skip
REPORTED = {
    "resume_ms": "resume, ms", "first_answer_ms": "first answer", "working_set_ms": "working set", "faults": "faults",
    "fault_p99_us": "p99, us", "memory_bytes": "memory, MiB",
}  # fmt: skip
_SOURCES = {
    "diff": "diffs over a base", "layers": "layers", "compressed": "a compressed file", "packed": "packed chunks",
    "socket": "a page server", "http": "an object server", "python": "Python", "cached": "a cache over a page server",
}  # fmt: skip


def cells(result: Result, columns: Iterable[str]) -> list[str]:
    """The figures of a row, of these fields."""
    return [_cell(_figure(result, name)) for name in columns]


def caption(plan: Plan, title: str, zero_share: float) -> str:
    """What was restored."""
    size = format_size(plan.memory_bytes)
    served = "" if plan.source == "file" else f"; vmthaw has it from {_SOURCES.get(plan.source, plan.source)}"
    return (
        f"{title[0].upper()}{title[1:]}: {size}, {zero_share:.0%} of its pages zeros; a working set of "
        f"{plan.working_set} pages, a quarter of them in order and the rest at random{served}"
    )


def meaning(results: Sequence[Result]) -> list[str]:
    """What may be concluded from the figures, honestly; a sentence or two each."""
    right = {result.name: result for result in results if result.verified}
    names = (FIRST, SECOND, "textbook loop", "eager read", "private file mapping")
    first, second, textbook, eager, mapping = (right.get(name) for name in names)
    if first is None or second is None or textbook is None or eager is None or mapping is None:
        return []
    return [
        f"The first restore had its working set after {_cell(first.working_set_ms)} ms and {first.faults} faults. "
        f"Knowing it, the second took {_cell(second.working_set_ms)} ms "
        f"({_ratio(second.working_set_ms, first.working_set_ms)} times as long) and {second.faults} faults; a textbook "
        f"fault handler takes {_cell(textbook.working_set_ms)} ms.",
        f"Reading all of the file first delays the guest's first answer ({_cell(eager.first_answer_ms)} against "
        f"{_cell(first.first_answer_ms)} ms) and takes {_megabytes(eager)} of memory instead of {_megabytes(first)}.",
        f"The file is warm in the page cache, and there a private mapping is hard to beat "
        f"({_cell(mapping.working_set_ms)} ms). If your snapshots are like that, map them; userfaultfd is for remote, "
        "compressed and layered memory, 2 MiB pages, and seeing what a guest touches (README: When not to use it). "
        "One round each, beside whatever else this machine does: `make bench` has medians.",
    ]


def print_table(plan: Plan, title: str, zero_share: float, results: Sequence[Result]) -> None:
    """To standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=caption(plan, title, zero_share), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    table.add_column("restored by", no_wrap=True)
    for name in PRINTED.values():
        table.add_column(name, justify="right")
    table.add_column("memory")
    for result in results:
        mark = "[green]verified[/]" if result.verified else "[red]WRONG[/]"
        table.add_row(result.name, *cells(result, PRINTED), mark)
    console = Console()
    if not console.is_terminal:
        console = Console(width=132)
    console.print(table)
    for sentence in meaning(results):
        console.print(sentence, highlight=False)


def _figure(result: Result, name: str) -> float | None:
    value: float | None = getattr(result, name)
    return value / (1 << 20) if name == "memory_bytes" and value is not None else value


def _megabytes(result: Result) -> str:
    return "?" if result.memory_bytes is None else f"{result.memory_bytes / (1 << 20):.0f} MiB"


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f}" if one is not None and other else "?"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
