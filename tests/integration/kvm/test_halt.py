"""HLT where the interrupt controllers are KVM's: the vCPU waits in the kernel, and no exit tells of it."""

from __future__ import annotations

import time

import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG, out
from vmthaw.devices import Buses
from vmthaw.kvm import GuestMemory, Kvm
from vmthaw.run_loop import RunEndKind, RunLoop
from vmthaw.vcpu import Dispatcher, ExitProfile, GuestArch

pytestmark = pytest.mark.usefixtures("kvm_available")

CODE = 0x1000
MEMORY = 2 << 20


def test_a_halted_vcpu_with_an_irqchip_waits_in_the_kernel_until_it_is_stopped() -> None:
    code = out(0x80, 1) + HLT
    memory = GuestMemory.anonymous(MEMORY)
    vm = Kvm().create_vm()
    vm.set_memory_slot(0, 0, memory.regions[0][0], MEMORY)
    vm.create_irqchip()
    memory.write(CODE, code)
    vcpu = vm.create_vcpu(0)
    vcpu.set_sregs({f"{segment}.{part}": 0 for segment in ("cs", "ds", "es", "ss") for part in ("selector", "base")})
    vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2})
    with RunLoop([vcpu], Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64))) as loop:
        loop.start()
        deadline = time.monotonic() + LONG
        snapshot = None
        # A freeze may find it before its HLT. After that, freezes and thaws find it where it was.
        while snapshot is None or snapshot.instruction_pointer != CODE + len(code):
            assert time.monotonic() < deadline, f"it does not halt: {snapshot}"
            (snapshot,) = loop.freeze(timeout=LONG)
            loop.thaw()
        for _ in range(10):
            assert loop.freeze(timeout=LONG) == [snapshot]
            loop.thaw()
        assert loop.running
        assert loop.stats[0].exits == {"IO": 1}
        loop.stop()
        assert loop.wait(timeout=LONG).kind is RunEndKind.stopped
