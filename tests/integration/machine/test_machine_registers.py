"""A machine's registers, and when they tell nothing."""

from __future__ import annotations

import pytest

from vmthaw.errors import StateError
from vmthaw.machine import Machine
from vmthaw.registers import diff_registers


def test_registers_differ_by_what_the_guest_did(machine: Machine) -> None:
    machine.ping()
    before = machine.registers()
    # (Clocks among the model-specific registers go on.)
    assert {entry.name for entry in diff_registers(before, machine.registers())} <= {"msr.0x10", "msr.0x6e0"}
    machine.load_vectors(9)
    changed = {entry.name for entry in diff_registers(before, machine.registers())}
    assert {"xmm0", "xmm15"} <= changed
    assert not changed & {"cr3", "cs.base", "gdt.base"}


def test_a_capture_after_a_shutdown_says_so(machine: Machine) -> None:
    machine.ping()
    assert not machine.registers().after_shutdown
    machine.write(machine.registers()["rip"], b"\x0f\x0b")  # UD2, with no interrupt table
    assert machine.run_to_exit(timeout=5.0).name == "SHUTDOWN"
    assert machine.core.vcpu(0).has_shut_down
    assert machine.registers().after_shutdown


def test_a_closed_machine_has_no_registers(machine: Machine) -> None:
    machine.close()
    with pytest.raises(StateError, match="closed"):
        machine.registers()
