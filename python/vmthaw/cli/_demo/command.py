"""`vmthaw demo`."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from vmthaw._version import __version__
from vmthaw.cli import _values
from vmthaw.cli._demo.plan import KINDS
from vmthaw.cli._errors import CliError, Exit, debug_option, say_error, sentence_of

if TYPE_CHECKING:
    from vmthaw.cli._demo.guest import Guest
    from vmthaw.cli._demo.mutants import Mutant
    from vmthaw.cli._demo.plan import Plan
    from vmthaw.cli._demo.result import Result
    from vmthaw.cli._demo.ways import Demonstration, Way

if TYPE_CHECKING:
    _Text: TypeAlias = click.ParamType[str]
else:  # not generic in older releases of click
    _Text = click.ParamType

_SMALLEST_BYTES = 4 << 20
_PAGE_BYTES = 4096
_WORKING_SET_SHARE = 0.1
_SEED = 7
_TIMEOUT_S = 60.0
_MUTANT_TIMEOUT_S = 5.0

_EPILOG = (
    "Exit codes: 0 the guest found every byte right; 1 it did not; 2 the command line is wrong; 3 the demo cannot run "
    "here (no userfaultfd, no room)."
)


class _Source(_Text):
    """One of `KINDS`, or the URL of an object."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuses everything else."""
        text = str(value)
        if text not in KINDS:
            from vmthaw.cli._demo.stores import is_store

            if not is_store(text):
                self.fail(f"{text!r} is neither one of {', '.join(KINDS)} nor like s3://BUCKET/KEY", param, ctx)
        return text


@click.command(epilog=_EPILOG, short_help="Restore a guest lazily, look at it, and restore it better.")
@click.option("--memory", "size", type=_values.Size(), default="512MiB", show_default=True, help="The guest's memory.")
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), default="demo-results",
              show_default=True, help="Where the report, the picture, the traces and results.json go.")  # fmt: skip
@click.option("--guest", "player", type=click.Choice(["auto", "kvm", "fake"]), default="auto", show_default=True,
              help="Who plays the guest: a real one under KVM, or FakeVmm; auto: KVM where it is.")  # fmt: skip
@click.option("--source", type=_Source(), default="file", show_default=True,
              help=f"Where vmthaw has the memory from: {', '.join(KINDS)}; or s3://BUCKET/KEY (gs://, az://), an "
              "object that is not there yet: it is put there, and removed at the end.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object to standard output.")
@click.option("--mutant", type=click.Choice(["wrong-byte", "stale-page", "lost-fault", "zero-page"]), hidden=True,
              help="Serve wrongly on purpose: the demo must fail.")  # fmt: skip
@debug_option
def demo(size: int, output: Path, player: str, source: str, as_json: bool, mutant: Mutant | None) -> int:
    """Restore a guest lazily through the real hand-over, look at what it touched, and restore it better.

    A small guest boots under KVM, fills its memory and is saved. Then a separate VMM process, which never opens the
    memory file, hands its userfaultfd over to a page server as Firecracker does and resumes the guest, which touches a
    random working set (10 %) and verifies every byte of its memory by itself. The same again knowing the working set
    just recorded, through a textbook loop, by reading the file first and by mapping it. Where there is no KVM a
    stand-in plays the guest. Takes about half a minute.
    """
    from vmthaw.cli._demo.artifacts import write_artifacts
    from vmthaw.cli._demo.directory import check_room, prepare_output, results_path, work_directory
    from vmthaw.cli._demo.mutants import MUTANTS
    from vmthaw.cli._demo.plan import Plan
    from vmthaw.cli._demo.table import meaning, print_table
    from vmthaw.cli._demo.ways import Demonstration, mutant_way

    assert mutant is None or mutant in MUTANTS
    if size % _PAGE_BYTES or size < _SMALLEST_BYTES:
        raise click.UsageError(f"--memory must be whole pages of 4 KiB and at least 4MiB, not {size} bytes")
    _check_userfaultfd()
    check_room(size)
    guest = _choose_guest(player, quiet=as_json)
    place = None if mutant else prepare_output(output)
    demonstration = Demonstration(place)
    chosen = [mutant_way(mutant)] if mutant else demonstration.ways()
    with _terminable(), work_directory() as directory, demonstration:
        working_set = max(1, int(size // _PAGE_BYTES * _WORKING_SET_SHARE))
        plan = Plan(size, working_set, _SEED, directory, _MUTANT_TIMEOUT_S if mutant else _TIMEOUT_S, source)
        with _quiet_library():
            zero_share, results = _run(plan, guest, chosen, None if mutant else demonstration)
    wrong = [result for result in results if not result.verified]
    report: dict[str, Any] = {
        "version": __version__,
        "guest": guest.title,
        "memory_bytes": size,
        "source": source,
        "zero_share": round(zero_share, 3),
        "working_set_pages": working_set,
        "page_cache": "warm, as just written",
        "verified": not wrong,
        "results": [result.as_dict() for result in results],
        "meaning": meaning(results),
    }
    written: list[Path] = []
    notes: list[str] = []
    if place is not None:
        results_path(place).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        written, notes = write_artifacts(place, plan, guest.title, zero_share, results, demonstration)
    if as_json:
        click.echo(json.dumps({**report, "files": [str(path) for path in written]}, indent=2))
    else:
        print_table(plan, guest.title, zero_share, results)
        for path in written:
            click.echo(f"{path.name:16} {path}")
    for note in notes:
        click.echo(f"vmthaw demo: {note}", err=True)
    for result in wrong:
        say_error(f"vmthaw demo: verification failed: {result.name}: {result.problem}")
    return Exit.FAILED if wrong else Exit.OK


def _choose_guest(player: str, *, quiet: bool) -> Guest:
    from vmthaw.cli._demo.fake_guest import FakeGuest
    from vmthaw.cli._demo.kvm_guest import KvmGuest, why_no_kvm

    if player == "fake":
        return FakeGuest()
    why = why_no_kvm()
    if why is None:
        return KvmGuest()
    if player == "kvm":
        raise CliError(f"no guest can run here: {why} (see `vmthaw doctor`)")
    if not quiet:
        click.echo(f"vmthaw demo: no guest can run here: {why}; FakeVmm takes its place", err=True)
    return FakeGuest()


def _check_userfaultfd() -> None:
    from vmthaw.errors import VmthawError
    from vmthaw.userfaultfd import UserfaultfdFactory

    try:
        UserfaultfdFactory().create().close()
    except (OSError, VmthawError) as error:
        raise CliError(f"the demo needs a userfaultfd: {sentence_of(error)} (see `vmthaw doctor`)") from error


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


def _run(
    plan: Plan, guest: Guest, chosen: list[Way], demonstration: Demonstration | None
) -> tuple[float, list[Result]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"filling and saving {_values.format_size(plan.memory_bytes)} of memory", total=1.0)
        guest.prepare(plan, _completer(progress, task))
        progress.update(task, completed=1.0)
        zero_share = _zero_share(guest.memory_path)
        if demonstration is not None:
            task = progress.add_task(f"storing it: {plan.source}", total=1.0)
            demonstration.store(plan, guest, _completer(progress, task))
            progress.update(task, completed=1.0)
        for way in chosen:
            task = progress.add_task(way.name, total=1.0)
            results.append(way.result(plan, guest, _completer(progress, task)))
    return zero_share, results


def _zero_share(path: Path) -> float:
    from vmthaw.source import ExtentKind, FileSource

    with FileSource(path) as source:
        extents = source.extents()
        return float(extents["size"][extents["kind"] == int(ExtentKind.zero)].sum()) / source.size


def _completer(progress: Any, task: Any) -> Callable[[float], None]:
    return lambda share: progress.update(task, completed=share)
