"""What a run loop adds to KVM_RUN: exits answered in C++ in turns with a plain loop, and by a function in Python.

A guest's exit costs what the kernel and the processor make of it, and that differs by more from minute to minute than
a run loop takes. So one case measures both, in turns of some milliseconds on the same vCPU, and what a turn took more
than its neighbour is what counts, in the median.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample
from tests.benchmarks.exit_guest import COM1, EMPTY, SCRATCH, WINDOW, ExitGuest, exit_program
from vmthaw import _core
from vmthaw.run_loop import Answer, RunEndKind, RunLoop
from vmthaw.vcpu import Exit, ExitActionKind

_ITERATIONS = 2000  # of two exits each, in a turn: to attach a thread and to end the run are a thousandth then
_TURNS = 40
_TURNS_IN_PYTHON = 25


def turns_in_cpp(guest: ExitGuest) -> Sample:
    """`touched` are exits, so "us/page" is what one of them takes, the guest's and the kernel's part included."""
    ours_ns, plain_ns, exits, kept = _core._measure_exit_loops(guest.vcpus[0], guest.dispatcher, WINDOW, _TURNS)
    guest.check_scratch(bytes([kept]))
    guest.check_scratch(guest.serial.read(SCRATCH, 1))
    return Sample(ours_ns / 1e9, exits, baseline_seconds=plain_ns / 1e9)


def _run(guest: ExitGuest, exits: int, function: Callable[[Exit], Answer] | None = None, *, mmio: bool) -> float:
    """Seconds of one turn by the loop's own clock, which runs from its first KVM_RUN to its last answer: threads are
    started and joined outside of it."""
    loop = RunLoop(guest.vcpus, guest.dispatcher)
    if function is not None and mmio:
        loop.on_mmio(WINDOW, WINDOW + 7)(function)
    elif function is not None:
        loop.on_port(COM1, COM1 + 7)(function)
    with loop:
        end = loop.run(timeout=TIMEOUT)
        stats = loop.stats[0]
    if end.kind is not RunEndKind.shutdown or end.exit is None or end.exit.name != "IO":
        raise RuntimeError(f"the guest ended by {end.exit}: it did not find what it was to read")
    if sum(stats.exits.values()) != exits or stats.handled != (exits - 1 if function else 0):
        raise RuntimeError(f"{stats} is not {exits} exits: the case measures something else")
    return (stats.guest_ns + stats.host_ns) / 1e9


def turns_in_python(guest: ExitGuest, *, mmio: bool) -> Sample:
    """In turns with the same answered in C++; `touched` are exits that the function was called for."""
    handled = 2 * guest.iterations
    kept = bytearray(1)
    status = bytes([EMPTY])

    def answer(access: Exit) -> Answer:
        fields = access.fields
        if not fields["is_write"]:
            return status
        kept[:] = fields["data"]
        return ExitActionKind.continue_

    ours, baseline = [], []
    for _turn in range(_TURNS_IN_PYTHON):
        baseline.append(_run(guest, handled + 1, mmio=mmio))
        ours.append(_run(guest, handled + 1, answer, mmio=mmio))
    guest.check_scratch(bytes(kept))
    return Sample(median(ours), handled, baseline_seconds=median(baseline))


def in_cpp(*, mmio: bool) -> Callable[[Bench], Sample]:
    return lambda _: turns_in_cpp(ExitGuest(exit_program(mmio=mmio), iterations=_ITERATIONS))


def in_python(*, mmio: bool) -> Callable[[Bench], Sample]:
    return lambda _: turns_in_python(ExitGuest(exit_program(mmio=mmio), iterations=_ITERATIONS), mmio=mmio)


def run_cases() -> list[Case]:
    """The column of ratios is to the baseline that takes turns."""
    return [
        Case("run/port", in_cpp(mmio=False), "RunLoop, port I/O answered in C++, in turns with a plain C loop"),
        Case("run/mmio", in_cpp(mmio=True), "the same of MMIO"),
        Case("run/port-function", in_python(mmio=False), "port I/O answered in Python, in turns with C++"),
        Case("run/mmio-function", in_python(mmio=True), "the same of MMIO"),
    ]
