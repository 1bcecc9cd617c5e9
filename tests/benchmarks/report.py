"""The same findings as JSON, as tables on the terminal and as Markdown in the README."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.bench import RANDOM_SHARE, Case, Sample
from tests.benchmarks.goals import GOALS, Goal, Samples
from tests.benchmarks.rounds import PAIRS_PER_ROUND
from tests.benchmarks.subjects import SUBJECTS, Subject

SCHEMA = 1


def conditions(size: int, rounds: int, cache: str) -> dict[str, Any]:
    """What the figures depend on. No date: the table is to change only when they do."""
    about = Path("/proc/cpuinfo").read_text()
    models = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")]
    siblings = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "threads_share_cores": siblings.exists() and siblings.read_text().strip() != "0",
        "cpu_model": models[0] if models else platform.machine(),
        "virtual_machine": "hypervisor" in about,
        "size_bytes": size,
        "rounds": rounds,
        "random_share": RANDOM_SHARE,
        "page_cache": cache,
        "transparent_huge_pages": huge.read_text().partition("[")[2].partition("]")[0] if huge.exists() else "none",
        "load_average_at_start": load_average(),
    }


def load_average() -> float:
    return os.getloadavg()[0]


def conditions_line(found: Mapping[str, Any], subject: Subject) -> str:
    machine = "virtual machine" if found["virtual_machine"] else "bare metal"
    machine += ", threads share cores" if found["threads_share_cores"] else ""
    memory = (
        f"memory file of {found['size_bytes'] >> 20} MiB without zero pages, {found['page_cache']}; random: "
        f"{found['random_share']:.0%} of the pages, none twice"
        if subject.of_memory_file
        else f"guests of {found['size_bytes'] >> 20} MiB where size matters"
    )
    return (
        f"Linux {found['kernel']}, {found['cpus']} CPUs ({found['cpu_model']}, {machine}); {memory}; medians of "
        f"{found['rounds']} interleaved rounds, for goals within a fifth of their limit also of "
        f"{PAIRS_PER_ROUND * found['rounds']} pairs side by side, where the two do not take turns anyway; "
        f"huge pages: {found['transparent_huge_pages']}."
    )


@dataclass(frozen=True)
class Row:
    """A case with its medians; ``ratio`` to what it took turns with, or to the free textbook loop of the same round and
    pattern, if there is one."""

    case: Case
    samples: Sequence[Sample]
    ratio: float | None

    def median_of(self, name: str) -> float | None:
        values = [getattr(sample, name) for sample in self.samples]
        present = [value for value in values if value is not None]
        return float(median(present)) if present else None

    def cells(self) -> list[str]:
        touched = self.samples[0].touched
        cpu, wasted = self.median_of("cpu_seconds"), self.median_of("wasted")
        return [
            self.case.name,
            _digits(self.median_of("us_per_page")),
            _digits(self.ratio),
            _digits(_scaled(self.median_of("seconds"), 1000)),
            _digits(self.median_of("p50_us")),
            _digits(self.median_of("p99_us")),
            _digits(_scaled(cpu, 1e6 / touched)),
            "" if wasted is None else f"{wasted / touched:.1%}",
            self.case.note,
        ]

    def to_json(self) -> dict[str, Any]:
        names = [field.name for field in fields(Sample)] + ["us_per_page"]
        return {
            "name": self.case.name,
            "note": self.case.note,
            "ratio_to_textbook": self.ratio,
            "median": {name: self.median_of(name) for name in names},
            "samples": [sample.to_json() for sample in self.samples],
        }


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{decimals}f}"


def make_rows(cases: Sequence[Case], samples: Mapping[str, Sequence[Sample]]) -> list[Row]:
    rows = []
    for case in cases:
        mine, base = samples.get(case.name, ()), samples.get(f"{case.group}/textbook", ())
        ratios = [a.us_per_page / b.us_per_page for a, b in zip(mine, base, strict=False)]
        ratios += [sample.seconds / sample.baseline_seconds for sample in mine if sample.baseline_seconds]
        if mine:
            rows.append(Row(case, mine, median(ratios) if ratios else None))
    return rows


def goal_values(samples: Samples, side_by_side: Mapping[str, Samples]) -> list[tuple[Goal, float]]:
    """The goals whose cases were run. ``side_by_side``: more pairs of the close ones, by key."""
    found = [(goal, goal.value(samples, side_by_side.get(goal.key, {}))) for goal in GOALS]
    return [(goal, value) for goal, value in found if value is not None]


def to_json(found: Mapping[str, Any], rows: Sequence[Row], goals: Sequence[tuple[Goal, float]], complete: bool) -> str:
    document = {
        "schema": SCHEMA,
        "complete": complete,
        "conditions": found,
        "cases": [row.to_json() for row in rows],
        "goals": [
            {"key": goal.key, "text": goal.text, "value": value, "limit": goal.limit,
             "at_least": goal.at_least, "passed": goal.passed(value)}
            for goal, value in goals
        ],
    }  # fmt: skip
    return json.dumps(document, indent=1) + "\n"


def _goal_cells(goal: Goal, value: float) -> list[str]:
    relation = "at least" if goal.at_least else "at most"
    return [goal.text, f"{value:.3f}", f"{relation} {goal.limit:g}", "pass" if goal.passed(value) else "miss"]


def _table(subject: Subject, rows: Sequence[Row]) -> list[list[str]]:
    """The headings, and a line for each row; columns that nobody has anything for are left out."""
    headings = ["case", f"us/{subject.each}", f"/ {subject.baseline}", "total ms", "p50 us", "p99 us",
                f"CPU us/{subject.each}", "wasted", "what"]  # fmt: skip
    cells = [row.cells() for row in rows]
    used = [i for i in range(len(headings)) if any(line[i] for line in cells)]
    return [[line[i] for i in used] for line in [headings, *cells]]


def parts(
    rows: Sequence[Row], goals: Sequence[tuple[Goal, float]]
) -> list[tuple[Subject, list[Row], list[tuple[Goal, float]]]]:
    """By subject, those that anything was measured of."""
    found = []
    for subject in SUBJECTS:
        mine = [row for row in rows if row.case.group in subject.groups]
        aims = [(goal, value) for goal, value in goals if goal.ours.partition("/")[0] in subject.groups]
        if mine:
            found.append((subject, mine, aims))
    return found


def show(console: Console, found: Mapping[str, Any], rows: Sequence[Row], goals: Sequence[tuple[Goal, float]]) -> None:
    for subject, mine, aims in parts(rows, goals):
        headings, *lines = _table(subject, mine)
        table = Table(caption=conditions_line(found, subject), caption_justify="left")
        for heading in headings:
            table.add_column(
                heading, justify="left" if heading in ("case", "what") else "right", no_wrap=heading != "what"
            )
        for row, line in zip(mine, lines, strict=True):
            if row is not mine[0] and row.case.group != mine[mine.index(row) - 1].case.group:
                table.add_section()
            table.add_row(*line)
        console.print(table)
        if aims:
            table = Table("goal", "measured", "limit", "")
            for goal, value in aims:
                table.add_row(*_goal_cells(goal, value), style="green" if goal.passed(value) else "red")
            console.print(table)


def markdown(
    found: Mapping[str, Any], subject: Subject, rows: Sequence[Row], goals: Sequence[tuple[Goal, float]]
) -> str:
    headings, *cells = _table(subject, rows)
    lines = [conditions_line(found, subject), ""]
    lines += ["| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 2) + "|---|"]
    lines += ["| " + " | ".join(line) + " |" for line in cells]
    if goals:
        lines += ["", "| goal | measured | limit | |", "|---|---:|---|---|"]
        lines += ["| " + " | ".join(_goal_cells(goal, value)) + " |" for goal, value in goals]
    return "\n".join(lines) + "\n"


def update_readme(path: Path, name: str, table: str) -> None:
    """Puts the table between the markers of that name. Raises ValueError when they are not there."""
    text = path.read_text(encoding="utf-8")
    begin_mark, end_mark = f"<!-- bench:begin {name} -->", f"<!-- bench:end {name} -->"
    head, begin, rest = text.partition(begin_mark)
    _, end, tail = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"{path} has no {begin_mark} ... {end_mark} to put the table between")
    path.write_text(f"{head}{begin_mark}\n{table}{end_mark}{tail}", encoding="utf-8")
