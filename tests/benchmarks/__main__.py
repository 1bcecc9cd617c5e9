"""`python -m tests.benchmarks`: what `make bench` runs. See the package's docstring for what is measured and how."""

from __future__ import annotations

import fnmatch
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.benchmarks import report
from tests.benchmarks.bench import Bench, Case
from tests.benchmarks.cases import all_cases
from tests.benchmarks.memory_files import MemoryFiles
from tests.benchmarks.rounds import run, side_by_side
from tests.benchmarks.subjects import SUBJECTS, complete

ROOT = Path(__file__).resolve().parents[2]
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_GRAIN = 4 << 20  # 64 VMs of at least 16 pages


def parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+) ?(KiB|MiB|GiB)", text)
    if match is None or not (size := int(match[1]) * _UNITS[match[2]]) or size % _GRAIN:
        raise click.BadParameter(f"{text!r}: say a multiple of 4 MiB as 64MiB or 1GiB")
    return size


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases that match any of the patterns (with * and ?, or a part of the name); all without patterns."""
    found = [
        case for case in cases
        if not patterns or any(fnmatch.fnmatch(case.name, pattern) or pattern in case.name for pattern in patterns)
    ]  # fmt: skip
    if not found:
        raise click.BadParameter(f"no case matches; there are {', '.join(case.name for case in cases)}")
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds; 5 by default, 2 with --quick.")
@click.option("--size", "size_text", help="Of the VM's memory; 1GiB by default, 64MiB with --quick.")
@click.option("--quick", is_flag=True, help="Small and few: to see whether it works, not how fast.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only cases whose name matches; may be repeated.")
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    type=click.Choice([subject.name for subject in SUBJECTS]),
    help="Only the cases of this table of the README; may be repeated.",
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Where the JSON goes.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT / "build" / "bench",
    show_default=True,
    help="Where the memory files are made, twice the size; not on tmpfs.",
)
@click.option("--update-readme", is_flag=True, help="Put the tables whose cases are all measured into README.md.")
@click.option("--gate", is_flag=True, help="Exit with 1 when a goal is missed.")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and end.")
def main(
    rounds: int | None,
    size_text: str | None,
    quick: bool,
    only: tuple[str, ...],
    subjects: tuple[str, ...],
    json_path: Path | None,
    directory: Path,
    update_readme: bool,
    gate: bool,
    list_cases: bool,
) -> None:
    """Measure this page server against a textbook one and against memory without userfaultfd."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    every = all_cases()
    groups = [group for subject in SUBJECTS if subject.name in subjects for group in subject.groups]
    cases = chosen([case for case in every if not subjects or case.group in groups], only)
    if update_readme and not complete(cases, every):
        raise click.UsageError("--update-readme takes whole tables: choose by --subject, not by --only")
    if list_cases:
        for case in cases:
            console.print(f"{case.name}: {case.note}", highlight=False)
        return
    size = parse_size(size_text or ("64MiB" if quick else "1GiB"))
    rounds = rounds or (2 if quick else 5)
    with MemoryFiles(size, directory) as files:
        found = report.conditions(size, rounds, files.state())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bench = Bench(files)
            samples = run(cases, bench, rounds, progress)
            whole = len(next(iter(samples.values())))
            pairs = side_by_side(cases, samples, bench, rounds, progress) if whole == rounds else {}
    found["load_average_at_end"] = report.load_average()
    if not whole:
        sys.exit(130)
    rows, goals = report.make_rows(cases, samples), report.goal_values(samples, pairs)
    found["rounds"] = whole
    report.show(console, found, rows, goals)
    path = json_path or ROOT / "bench-results" / time.strftime("%Y-%m-%dT%H-%M-%S.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.to_json(found, rows, goals, whole == rounds), encoding="utf-8")
    console.print(f"written: {path}", highlight=False)
    if whole < rounds:
        sys.exit(130)
    if update_readme:
        names = {subject.name for subject in complete(cases, every)}
        for subject, mine, aims in report.parts(rows, goals):
            if subject.name in names:
                table = report.markdown(found, subject, mine, aims)
                report.update_readme(ROOT / "README.md", subject.name, table)
    if gate and not all(goal.passed(value) for goal, value in goals):
        sys.exit(1)


if __name__ == "__main__":
    main()
