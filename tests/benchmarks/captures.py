"""What capture_registers costs from C++, as a ratio to a drain and the two ioctls by hand on the same vCPU.

`python -m tests.benchmarks.captures` prints both and the ratio; the goal is at most 1.05. The two take turns of ten, so
that both see the same machine, and the medians over the turns are compared: other load disturbs the fewer of them. A
vCPU that stands still is measured: what a capture costs does not depend on the guest.
"""

from __future__ import annotations

import json
import statistics

from vmthaw import _core
from vmthaw.kvm import GuestMemory, Kvm

GOAL = 1.05
_TURNS = 2000
_CAPTURES_IN_A_TURN = 10
_REPEATS = 7


def measure(turns: int) -> tuple[int, int]:
    """Nanoseconds of ten captures, medians over the turns: (ours, by hand)."""
    memory = GuestMemory.anonymous(2 << 20)
    vm = Kvm().create_vm()
    host_address, guest_address, size, _ = memory.regions[0]
    vm.set_memory_slot(0, guest_address, host_address, size)
    vcpu = vm.create_vcpu(0)
    return _core.measure_captures(vcpu, turns)


def main() -> None:
    """Prints one line of JSON: microseconds each, and the median of the rounds' ratios."""
    samples = [measure(_TURNS) for _ in range(_REPEATS)]
    ratio = statistics.median(ours / by_hand for ours, by_hand in samples)
    ours_us, by_hand_us = (statistics.median(pair[i] for pair in samples) / _CAPTURES_IN_A_TURN / 1000 for i in (0, 1))
    print(
        json.dumps(
            {
                "case": "capture_registers",
                "us": round(ours_us, 3),
                "by_hand_us": round(by_hand_us, 3),
                "ratio": round(ratio, 4),
                "goal": GOAL,
                "passed": ratio <= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
