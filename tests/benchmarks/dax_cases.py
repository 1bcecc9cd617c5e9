"""What a DAX session costs: a set-up and a remove beside the two system calls that they come to, and among others."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.bench import Bench, Case, Sample
from vmthaw import _core

_TURNS = 200
_PAIRS_IN_A_TURN = 200


def window(_: Bench) -> Sample:
    """`touched` are pairs of a set-up and a remove. In turns with the bare calls, on the same thread."""
    ours_ns, bare_ns = _core._measure_dax_window(_TURNS)
    return Sample(ours_ns * _PAIRS_IN_A_TURN / 1e9, _PAIRS_IN_A_TURN, baseline_seconds=bare_ns * _PAIRS_IN_A_TURN / 1e9)


def among(live: int) -> Callable[[Bench], Sample]:
    """`touched` are pairs, in a session that has so many other mappings and a mapper that only records."""

    def measure(_: Bench) -> Sample:
        ns = _core._measure_dax_live(live, _TURNS)
        return Sample(ns * _PAIRS_IN_A_TURN / 1e9, _PAIRS_IN_A_TURN)

    return measure


def dax_cases() -> list[Case]:
    """Nothing of them needs KVM."""
    note = "a set-up and a remove of 4 KiB among {:,} mappings, at random places, RecordingMapper"
    return [
        Case("dax/window", window, "a set-up and a remove of 2 MiB, in turns with two bare mmap(MAP_FIXED)"),
        *(Case(f"dax/live-{live}", among(live), note.format(live)) for live in (10, 1000, 100_000)),
    ]
