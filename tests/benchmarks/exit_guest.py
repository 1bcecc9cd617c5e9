"""A guest whose exits are measured, and which says by its end that each was answered right."""

from __future__ import annotations

import platform

from tests.support.kernel_probes import why_no_kvm
from vmthaw.devices import Buses, Serial
from vmthaw.kvm import GuestMemory, Kvm, Vcpu
from vmthaw.vcpu import Dispatcher, ExitProfile, GuestArch

CODE = 0x1000
COUNTERS = 0x4000
COM1 = 0x3F8
WINDOW = 0xD000_0000
LINE_STATUS, SCRATCH = 5, 7
EMPTY = 0x60  # of the line status: the transmitter is
SPIN = b"\xff\x03\xeb\xfc"  # loop: incl (%ebx); jmp loop
_MEMORY = 2 << 20
_SEGMENTS = ("cs", "ds", "es", "ss")


def why_no_guest() -> str | None:
    """None where such a guest runs, else the reason."""
    return why_no_kvm() if platform.machine() == "x86_64" else "the guest is written for x86-64"


def exit_program(*, mmio: bool) -> bytes:
    """ESI times a write to the scratch register and a read of the line status, then a reset; then from the start.

    A wrong answer is an invalid instruction, which ends a run as a triple fault.
    """
    write, read = (
        (b"\x88\x03", b"\x8a\x07")  # mov %al, (%ebx); mov (%edi), %al
        if mmio
        else (
            b"\x66\xba" + (COM1 + SCRATCH).to_bytes(2, "little") + b"\xee",  # mov $port, %dx; out %al, (%dx)
            b"\x66\xba" + (COM1 + LINE_STATUS).to_bytes(2, "little") + b"\xec",  # mov $port, %dx; in (%dx), %al
        )
    )
    again = b"\x88\xc8" + write + read + b"\x3c" + bytes([EMPTY])  # mov %cl, %al; ...; cmp $EMPTY, %al
    again += b"\x75\x09"  # jne wrong
    again += b"\x49" + b"\x75" + bytes([256 - len(again) - 3])  # dec %ecx; jnz again
    whole = b"\x89\xf1" + again + b"\xb0\xfe\xe6\x64"  # mov %esi, %ecx; again...; mov $0xfe, %al; out %al, $0x64
    whole += b"\xeb" + bytes([256 - len(whole) - 2])  # jmp to the start
    return whole + b"\x0f\x0b"  # wrong: ud2


class ExitGuest:
    """vCPUs in 32-bit code at CPL 3, where also a KVM that emulates the kernel's code lets the processor itself run."""

    def __init__(self, code: bytes, *, vcpus: int = 1, iterations: int = 0) -> None:
        self.iterations = iterations
        self.memory = GuestMemory.anonymous(_MEMORY)
        self.vm = Kvm().create_vm()
        host_address, guest_address, size, _ = self.memory.regions[0]
        self.vm.set_memory_slot(0, guest_address, host_address, size)
        self.memory.write(CODE, code)
        self.vcpus = [self._vcpu(index, iterations) for index in range(vcpus)]
        self.serial = Serial(None)
        buses = Buses(GuestArch.x86_64)
        buses.add_standard(com1=self.serial)
        buses.mmio.add(WINDOW, 8, self.serial, "serial")
        self.dispatcher = Dispatcher(ExitProfile.strict, buses)

    def _vcpu(self, index: int, iterations: int) -> Vcpu:
        vcpu = self.vm.create_vcpu(index)
        flat = {"base": 0, "limit": 0xFFFF_FFFF, "present": 1, "dpl": 3, "db": 1, "s": 1, "l": 0, "g": 1}
        values = {f"{segment}.{part}": value for segment in _SEGMENTS for part, value in flat.items()}
        values |= {f"{segment}.type": 3 for segment in _SEGMENTS} | {
            f"{segment}.selector": 0x13 for segment in _SEGMENTS
        }
        values |= {"cs.type": 11, "cs.selector": 0x0B, "idt.limit": 0, "cr0": vcpu.sregs()["cr0"] | 1}
        vcpu.set_sregs(values)
        place = COUNTERS + 64 * index if not iterations else WINDOW + SCRATCH
        vcpu.set_regs(
            {"rip": CODE, "rsp": 0x8000, "rflags": 0x3002, "rsi": iterations, "rbx": place, "rdi": WINDOW + LINE_STATUS}
        )
        return vcpu

    def counters(self) -> list[int]:
        """How often each vCPU went through SPIN, modulo 2**32."""
        return [
            int.from_bytes(self.memory.read(COUNTERS + 64 * index, 4), "little") for index in range(len(self.vcpus))
        ]

    def check_scratch(self, kept: bytes) -> None:
        """The last byte written by `exit_program`, in whoever kept it. RuntimeError when it is another."""
        if kept != b"\x01":
            raise RuntimeError(f"the guest wrote 1 last, but {kept.hex()} was kept: the case measures something else")
