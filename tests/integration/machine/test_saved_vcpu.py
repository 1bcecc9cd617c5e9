"""What a vCPU holds goes through a snapshot: saved at every exit of a guest that uses much of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.eventually import PATIENCE
from vmthaw.devices import Buses
from vmthaw.kvm import Kvm
from vmthaw.machine import Machine
from vmthaw.registers import FullRegisters, diff_registers
from vmthaw.vcpu import Dispatcher, ExitActionKind, ExitProfile, GuestArch

pytestmark = pytest.mark.usefixtures("kvm_available")

LONG = 30.0 * PATIENCE
MEMORY = 2 << 20
CODE = 0x1000
DATA = 0x4000
FAR = 0x1000_0000  # where the guest has no memory
# These go on: the time stamp counter and its deadline; Hyper-V's time that the vCPU ran, and its reference time.
CLOCKS = {"msr.0x10", "msr.0x6e0", "msr.0x40000010", "msr.0x40000020"}
HLT = b"\xf4"


def real_mode(code: bytes) -> Machine:
    """A machine that begins with `code`, %es at FAR."""
    machine = Machine(MEMORY, payload=False)
    (vcpu,) = machine.vcpus
    vcpu.set_supported_cpuid(Kvm())
    zeroed = {f"{segment}.{part}": 0 for segment in ("cs", "ds", "ss") for part in ("selector", "base")}
    vcpu.set_sregs({**zeroed, "es.base": FAR, "cr4": vcpu.sregs()["cr4"] | 0x600})  # OSFXSR, OSXMMEXCPT
    vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2, "rdi": DATA, "rax": 0, "rbx": 0})
    machine.write(CODE, code)
    return machine


@dataclass
class Numbers:
    """A device that gives another number each time it is read, and keeps what is written."""

    given: itertools.count[int] = field(default_factory=lambda: itertools.count(0x35, 0x4B))
    written: list[bytes] = field(default_factory=list)

    def read(self, _offset: int, size: int) -> bytes:
        return (next(self.given) % 251 * 0x0101).to_bytes(2, "little")[:size]

    def write(self, _offset: int, data: bytes) -> None:
        self.written.append(data)


# For ever: a byte from a port into memory and into %bx, to another port; a word from a device's memory, and one to it;
# the stack, the flags and vector registers are used in between.
MUCH = (
    b"\xe4\x71"  # in $0x71, %al
    b"\x88\x05\x47"  # mov %al, (%di); inc %di
    b"\x01\xc3"  # add %ax, %bx
    b"\xe6\x80"  # out %al, $0x80
    b"\x0f\x10\x45\xf0"  # movups -16(%di), %xmm0
    b"\x26\xa1\x10\x00"  # mov %es:0x10, %ax
    b"\x11\x05\x47\x47"  # adc %ax, (%di); inc %di; inc %di
    b"\x53\x9c"  # push %bx; pushf
    b"\x26\xa3\x20\x00"  # mov %ax, %es:0x20
    b"\x0f\x11\x45\x40"  # movups %xmm0, 64(%di)
    b"\xeb\xdf"  # again
)
EXITS = 14


@dataclass
class Run:
    """A guest, exit by exit, with a device that outlives its machines."""

    machine: Machine
    numbers: Numbers = field(default_factory=Numbers)
    seen: list[str] = field(default_factory=list)

    def go_to_exit(self) -> None:
        """To the next exit, which is answered; its instruction is not completed."""
        buses = Buses(GuestArch.x86_64)
        buses.ports.add(0x71, 1, self.numbers, "in")
        buses.ports.add(0x80, 1, self.numbers, "out")
        buses.mmio.add(FAR, 0x1000, self.numbers, "memory")
        found = self.machine.vcpus[0].run(timeout=LONG)
        assert Dispatcher(ExitProfile.strict, buses).handle(found).kind is ExitActionKind.continue_
        self.seen.append(f"{found.name} {found.fields.get('port')} {found.fields.get('guest_address')}")

    def end(self) -> tuple[bytes, FullRegisters]:
        """The guest's memory and registers."""
        registers = self.machine.registers()
        return self.machine.read(0, MEMORY), registers


@pytest.mark.parametrize("diff", [False, True], ids=["full", "diff"])
def test_a_guest_saved_at_each_exit_goes_on_as_if_it_were_not(diff: bool, tmp_path: Path) -> None:
    with real_mode(MUCH) as machine:
        whole = Run(machine)
        for _ in range(EXITS):
            whole.go_to_exit()
        memory, registers = whole.end()
    assert whole.seen[:5] == [
        "IO 113 None", "IO 128 None", f"MMIO None {FAR + 0x10}", f"MMIO None {FAR + 0x20}", "IO 113 None"
    ]  # fmt: skip
    cut = Run(real_mode(MUCH))
    try:
        for number in range(EXITS):
            cut.go_to_exit()  # an IN among them, answered and not completed when it is saved
            cut.machine.snapshot(tmp_path / str(number), diff=diff and number > 0)
            cut.machine.close()
            cut.machine = Machine.restore(tmp_path / str(number), lazy=False, track_dirty=diff)
        assert cut.seen == whole.seen
        assert cut.numbers.written == whole.numbers.written
        cut_memory, cut_registers = cut.end()
    finally:
        cut.machine.close()
    assert cut_memory == memory
    assert {entry.name for entry in diff_registers(registers, cut_registers)} <= CLOCKS
    assert registers["rbx"] != 0
    assert registers["xmm0"] != 0


# mov %cr4, %eax; or $OSXSAVE, %eax; mov %eax, %cr4; xor %ecx, %ecx; xor %edx, %edx; mov $7, %eax; xsetbv
WIDE = b"\x0f\x20\xe0\x66\x0d\0\0\x04\0\x0f\x22\xe0\x66\x31\xc9\x66\x31\xd2\x66\xb8\x07\0\0\0\x0f\x01\xd1"
# mov $0x12345678 + n, %eax; mov %eax, %drn; mov $0x700, %eax; mov %eax, %dr7
DEBUG = b"".join(
    b"\x66\xb8" + (0x12345678 + n).to_bytes(4, "little") + b"\x0f\x23" + bytes([0xC0 | n << 3]) for n in range(4)
) + b"\x66\xb8\x00\x07\0\0\x0f\x23\xf8"  # fmt: skip
# mov %drn, %eax; mov %eax, (%di); add $4, %di
DEBUG_BACK = b"".join(b"\x0f\x21" + bytes([0xC0 | n << 3]) + b"\x66\x89\x05\x83\xc7\x04" for n in (0, 1, 2, 3, 7))


def test_debug_registers_and_xcr0_are_the_guests_own_after_a_restore(tmp_path: Path) -> None:
    with real_mode(WIDE + DEBUG + HLT + DEBUG_BACK + HLT) as machine:
        assert machine.run_to_exit(timeout=LONG).name == "HLT"
        before = machine.registers()
        machine.snapshot(tmp_path / "s")
    with Machine.restore(tmp_path / "s", lazy=False) as machine:
        assert {entry.name for entry in diff_registers(before, machine.registers())} <= CLOCKS
        assert (before["dr0"], before["dr7"], before["xcr0"]) == (0x12345678, 0x700, 7)
        assert machine.run_to_exit(timeout=LONG).name == "HLT"
        words = machine.read(DATA, 20)
    found = [int.from_bytes(words[at : at + 4], "little") for at in range(0, 20, 4)]
    assert found == [0x12345678, 0x12345679, 0x1234567A, 0x1234567B, 0x700]
