"""Which case is measured when: interleaved rounds of all, then the close goals' cases side by side."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.progress import Progress

from tests.benchmarks.bench import Bench, Case, Sample
from tests.benchmarks.cases import run_case
from tests.benchmarks.goals import GOALS, Goal, Samples
from vmthaw.errors import VmthawError

PAIRS_PER_ROUND = 2


def measured(case: Case, bench: Bench) -> Sample:
    """A sample, or a sentence with the case's name: a server that is wrong or fails has no figure."""
    try:
        return run_case(case, bench)
    except (VmthawError, RuntimeError, OSError) as error:
        raise click.ClickException(f"{case.name}: {error}") from error


def run(cases: Sequence[Case], bench: Bench, rounds: int, progress: Progress) -> dict[str, list[Sample]]:
    """Round-robin, each round from another case on. What was complete when Ctrl-C came is given back."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    task = progress.add_task("warm-up", total=rounds * len(cases) + 1)
    try:
        measured(cases[0], bench)
        progress.advance(task)
        for number in range(rounds):
            first = number * len(cases) // rounds
            for case in [*cases[first:], *cases[:first]]:
                progress.update(task, description=f"round {number + 1} {case.name}")
                samples[case.name].append(measured(case, bench))
                progress.advance(task)
    except KeyboardInterrupt:
        progress.console.print("interrupted: only whole rounds are reported")
        whole = min(len(found) for found in samples.values())
        return {name: found[:whole] for name, found in samples.items()}
    return samples


def close_goals(samples: Samples) -> list[Goal]:
    """Those of two cases whose value is near the limit, on either side."""
    values = [(goal, goal.value(samples)) for goal in GOALS if goal.ours != goal.theirs]
    return [goal for goal, value in values if value is not None and goal.is_close(value)]


def side_by_side(
    cases: Sequence[Case], samples: Samples, bench: Bench, rounds: int, progress: Progress
) -> dict[str, dict[str, list[Sample]]]:
    """More pairs for the close goals, by the goal's key: always as many, one case right after the other, each first in
    turn. In a round a minute lies between the two, and the speed of a shared host changes meanwhile. Ctrl-C leaves out
    the goal that was being measured, and those after it."""
    found: dict[str, dict[str, list[Sample]]] = {}
    close = close_goals(samples)
    by_name = {case.name: case for case in cases}
    task = progress.add_task("side by side", total=len(close) * PAIRS_PER_ROUND * rounds)
    try:
        for goal in close:
            pairs: dict[str, list[Sample]] = {goal.ours: [], goal.theirs: []}
            for number in range(PAIRS_PER_ROUND * rounds):
                progress.update(task, description=f"side by side {goal.key}")
                for name in (goal.ours, goal.theirs) if number % 2 else (goal.theirs, goal.ours):
                    pairs[name].append(measured(by_name[name], bench))
                progress.advance(task)
            found[goal.key] = pairs
    except KeyboardInterrupt:
        progress.console.print("interrupted: not all close goals were measured side by side")
    return found
