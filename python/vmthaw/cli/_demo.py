"""`vmthaw demo`."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmthaw._version import __version__
from vmthaw.cli import _values
from vmthaw.cli._errors import CliError, Exit, debug_option, say_error

if TYPE_CHECKING:
    from vmthaw.cli._demo_case import Case, Plan, Result
    from vmthaw.cli._mutants import Mutant

_PAGE_BYTES = 4096
_SMALLEST_BYTES = 1 << 20
_WORKING_SET_SHARE = 0.05
_SEED = 7
_LONGEST_DIRECTORY = 90  # a socket's path has at most 107 bytes
_MUTANT_TIMEOUT_S = 2.0

_EPILOG = (
    "Exit codes: 0 every byte was right; 1 it was not; 2 the command line is wrong; 3 the demo cannot run here (no "
    "userfaultfd, no room)."
)


@click.command(epilog=_EPILOG, short_help="Restore a VM-sized process and compare ways of doing it.")
@click.option("--memory", "size", type=_values.Size(), default="512MiB", show_default=True, help="The VM's memory.")
@click.option("--keep", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Leave memory.bin and results.json there; DIR is made, or is empty.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object to standard output.")
@click.option("--mutant", type=click.Choice(["wrong-byte", "stale-page", "lost-fault", "zero-page"]), hidden=True,
              help="Serve wrongly on purpose: the demo must fail.")  # fmt: skip
@debug_option
def demo(size: int, keep: Path | None, as_json: bool, mutant: Mutant | None) -> int:
    """Restore a VM-sized process lazily through the real hand-over, and compare ways of doing it.

    A stand-in for the VMM, in a process of its own, maps the memory as Firecracker does, hands its userfaultfd over,
    touches a random working set (5 %), then everything in order, and compares every byte with the memory file by its
    own reading. The same is done by vmthaw page by page, by a textbook loop, by reading the file first and by mapping
    it. Takes less than a minute.
    """
    from vmthaw.cli._demo_case import Plan, cases, check_userfaultfd, mutant_case

    pages = size // _PAGE_BYTES
    if size % _PAGE_BYTES or size < _SMALLEST_BYTES:
        raise click.UsageError(f"--memory must be whole pages of 4 KiB and at least 1MiB, not {size} bytes")
    check_userfaultfd()
    _check_room(size)
    chosen = [mutant_case(mutant)] if mutant else cases()
    with _terminable(), _directory(keep) as directory:
        memory_path = directory / "memory.bin"
        working_set = max(1, int(pages * _WORKING_SET_SHARE))
        plan = Plan(memory_path, pages, working_set, _SEED, directory)
        if mutant:
            plan = Plan(memory_path, pages, working_set, _SEED, directory, timeout=_MUTANT_TIMEOUT_S)
        with _quiet_library():
            zero_share, results = _run(plan, size, chosen)
        wrong = [result for result in results if not result.verified]
        report = _report(plan, size, zero_share, results)
        if keep is not None:
            (directory / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(plan, size, zero_share, results)
    for result in wrong:
        say_error(f"vmthaw demo: verification failed: {result.name}: {result.problem}")
    return Exit.FAILED if wrong else Exit.OK


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that it leaves no memory file behind."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    old = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """VMs that end are the demo's own doing: the library's warnings about them are not shown."""
    logger = logging.getLogger("vmthaw")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_room(size: int) -> None:
    from vmthaw.cli._check import read_text

    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            if available < 2 * size:
                raise CliError(
                    f"{_values.format_size(size)} of guest memory and its file do not fit into the "
                    f"{_values.format_size(available)} that are available; try --memory "
                    f"{max(1, available // 4 >> 20)}MiB"
                )


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise CliError(f"{keep} is not empty and nothing in it is overwritten; give another directory, or empty it")
        if len(str(keep.absolute())) > _LONGEST_DIRECTORY:
            raise CliError(f"{keep.absolute()} is too long for a socket in it; give a shorter --keep")
        yield keep.absolute()
        return
    parent = tempfile.gettempdir()
    path = tempfile.mkdtemp(prefix="vmthaw-demo-", dir=parent if len(parent) < _LONGEST_DIRECTORY - 24 else "/tmp")
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _run(plan: Plan, size: int, chosen: list[Case]) -> tuple[float, list[Result]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from vmthaw.cli._demo_memory import write_demo_memory

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        writing = progress.add_task(f"writing {_values.format_size(size)} of memory", total=None)
        zero_share = write_demo_memory(plan.memory_path, plan.pages, plan.seed)
        progress.update(writing, total=1.0, completed=1.0)
        for case in chosen:
            task = progress.add_task(case.name, total=1.0)
            results.append(case.result(plan, _completer(progress, task)))
    return zero_share, results


def _completer(progress: Any, task: Any) -> Callable[[float], None]:
    return lambda share: progress.update(task, completed=share)


def _report(plan: Plan, size: int, zero_share: float, results: list[Result]) -> dict[str, Any]:
    return {
        "version": __version__,
        "memory_bytes": size,
        "zero_share": round(zero_share, 3),
        "working_set_pages": plan.working_set,
        "page_cache": "warm, as just written",
        "verified": all(result.verified for result in results),
        "results": [result.as_dict() for result in results],
        "meaning": _meaning(results),
    }


def _meaning(results: list[Result]) -> str:
    """What may be concluded from the figures, honestly."""
    times = {result.name: result for result in results if result.verified}
    names = ("vmthaw, default plan", "textbook loop", "eager read", "private file mapping")
    ours, textbook, eager, mapping = (times.get(name) for name in names)
    if ours is None or textbook is None or eager is None or mapping is None:
        return ""
    working_set = _ratio(ours.working_set_ms, textbook.working_set_ms)
    everything = _ratio(ours.all_touched_ms, textbook.all_touched_ms)
    against_mapping = _ratio(ours.all_touched_ms, mapping.all_touched_ms)
    eager_first, ours_first = _cell(eager.first_touch_ms), _cell(ours.first_touch_ms)
    return (
        "Times are in ms from the beginning of the hand-over. vmthaw's default plan took "
        f"{working_set} times as long as the textbook loop to the end of the working set, and {everything} times to "
        f"everything. Reading all of the file first delays the first touch ({eager_first} against {ours_first} ms), "
        f"then costs nothing more ({_cell(eager.all_touched_ms)} ms in all). The file was warm in the page cache, and "
        f"there a private mapping wins: vmthaw took {against_mapping} times as long. If your snapshots are like "
        "that, map them; userfaultfd is for remote, compressed and layered memory, 2 MiB pages, and seeing what a "
        "guest touches (README: When not to use it). One round each, beside whatever else this machine does: "
        "`make bench` has medians."
    )


def _ratio(one: float | None, other: float | None) -> str:
    return f"{one / other:.2f}" if one is not None and other else "?"


def _print(plan: Plan, size: int, zero_share: float, results: list[Result]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{_values.format_size(size)}: {plan.pages} pages, {zero_share:.0%} of them zeros; a working set of "
        f"{plan.working_set} random pages, then all in order",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    table.add_column("restored by", no_wrap=True)
    table.add_column("handler")
    for name in ("hand-\nover ms", "first\ntouch", "working\nset", "all\ntouched", "faults", "pages", "zero\npages",
                 "touch\np50 us", "touch\np99 us", "CPU\nms"):  # fmt: skip
        table.add_column(name, justify="right")
    table.add_column("bytes")
    for result in results:
        figures = (
            result.handover_ms, result.first_touch_ms, result.working_set_ms, result.all_touched_ms, result.faults,
            result.pages, result.zero_pages, result.touch_p50_us, result.touch_p99_us, result.handler_cpu_ms,
        )  # fmt: skip
        mark = "[green]right[/]" if result.verified else "[red]WRONG[/]"
        table.add_row(result.name, result.handler, *(_cell(figure) for figure in figures), mark)
    console = Console()
    if not console.is_terminal:
        console = Console(width=132)
    console.print(table)
    if meaning := _meaning(results):
        console.print(meaning, highlight=False)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
