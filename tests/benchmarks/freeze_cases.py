"""How long it takes to freeze vCPUs that run and to let them go on, from Python."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample, percentiles
from tests.benchmarks.exit_guest import CODE, SPIN, ExitGuest
from vmthaw.run_loop import RunLoop

_CYCLES = 200
_NAP = 0.0002


def _wait_until_all_ran(guest: ExitGuest, before: list[int]) -> list[int]:
    """A vCPU that has not gone on since the last thaw would be measured as one that runs."""
    deadline = time.monotonic() + TIMEOUT
    now = guest.counters()
    while any(new == old for new, old in zip(now, before, strict=True)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all vCPUs run: {now} after {before}")
        time.sleep(_NAP)
        now = guest.counters()
    return now


def freeze_and_thaw(vcpus: int) -> Callable[[Bench], Sample]:
    """`touched` are cycles, so "us/page" is a freeze and a thaw, in the mean."""

    def measure(_: Bench) -> Sample:
        guest = ExitGuest(SPIN, vcpus=vcpus)
        took_ns = np.empty(_CYCLES, dtype=np.uint64)
        with RunLoop(guest.vcpus, guest.dispatcher) as loop:
            loop.start()
            counters = [0] * vcpus
            for cycle in range(_CYCLES):
                counters = _wait_until_all_ran(guest, counters)
                start = time.perf_counter_ns()
                found = loop.freeze(timeout=TIMEOUT)
                loop.thaw()
                took_ns[cycle] = time.perf_counter_ns() - start
                for registers in found:
                    if registers is None or not CODE <= registers.instruction_pointer < CODE + len(SPIN):
                        raise RuntimeError(f"a vCPU was frozen elsewhere: {registers}")
        return Sample(float(took_ns.sum()) / 1e9, _CYCLES, None, *percentiles(took_ns))

    return measure


def freeze_cases() -> list[Case]:
    return [
        Case("freeze/1", freeze_and_thaw(1), "freeze and thaw of 1 vCPU that runs a loop"),
        Case("freeze/2", freeze_and_thaw(2), "the same of 2"),
        Case("freeze/4", freeze_and_thaw(4), "the same of 4"),
    ]
