"""What capture_registers costs from C++, as a ratio to a drain and the two ioctls by hand on the same vCPU.

The two take turns of ten, so that both see the same machine, and the medians over the turns are compared: other load
disturbs the fewer of them. A vCPU that stands still is measured: what a capture costs does not depend on the guest.
"""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Case, Sample
from vmthaw import _core
from vmthaw.kvm import GuestMemory, Kvm

_TURNS = 2000
_CAPTURES_IN_A_TURN = 10


def measure(turns: int) -> tuple[int, int]:
    """Nanoseconds of ten captures, medians over the turns: (ours, by hand)."""
    memory = GuestMemory.anonymous(2 << 20)
    vm = Kvm().create_vm()
    host_address, guest_address, size, _ = memory.regions[0]
    vm.set_memory_slot(0, guest_address, host_address, size)
    vcpu = vm.create_vcpu(0)
    return _core.measure_captures(vcpu, turns)


def captures(_: Bench) -> Sample:
    """`touched` are captures, so "us/page" is what one of them takes."""
    ours_ns, by_hand_ns = measure(_TURNS)
    return Sample(ours_ns / 1e9, _CAPTURES_IN_A_TURN, baseline_seconds=by_hand_ns / 1e9)


def capture_cases() -> list[Case]:
    """The column of ratios is to the ioctls that take turns."""
    return [Case("capture/registers", captures, "capture_registers from C++, in turns with a drain and two ioctls")]
