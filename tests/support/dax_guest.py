"""A guest with a DAX window: memory in slot 0, the window in slot 1 (or slots of a SlotMapper)."""

from __future__ import annotations

import struct

from vmthaw.dax import SlotMapper, WindowMapper
from vmthaw.kvm import Exit, GuestMemory, Kvm

MEMORY = 2 << 20
CODE, PARAMETERS, VALUE = 0x1000, 0x2000, 0x3000
BASE = 0x8000_0000
FAR_BASE = 0x80_0000_0000
CHUNK = 2 << 20  # what Linux maps
END_PORT = 0x80
_TABLES = 0x10000
_SEGMENTS = ("cs", "ds", "es", "ss")


class DaxGuest:
    """One vCPU at CPL 3, where also a KVM that emulates the kernel's code lets the processor itself run: 32-bit without
    paging, or 64-bit with the window at FAR_BASE."""

    def __init__(self, *, far: bool = False, size: int = 8 * CHUNK, window: bool = True) -> None:
        self.base = FAR_BASE if far else BASE
        self.size = size
        self.far = far
        self.memory = GuestMemory.anonymous(MEMORY)
        self.kvm = Kvm()
        self.vm = self.kvm.create_vm()
        host_address, guest_address, bytes_, _ = self.memory.regions[0]
        self.vm.set_memory_slot(0, guest_address, host_address, bytes_)
        self.window: WindowMapper | SlotMapper
        if window:
            self.window = WindowMapper(self.base, size)
            self.vm.set_memory_slot(1, self.base, self.window.host_address, size)
        else:
            self.window = SlotMapper(self.vm, 1, 64)
        self.vcpu = self.vm.create_vcpu(0)
        self._enter_user_mode()

    def _enter_user_mode(self) -> None:
        flat = {"base": 0, "limit": 0xFFFF_FFFF, "present": 1, "dpl": 3, "db": 1, "s": 1, "l": 0, "g": 1}
        values = {f"{segment}.{part}": value for segment in _SEGMENTS for part, value in flat.items()}
        values |= {f"{segment}.type": 3 for segment in _SEGMENTS}
        values |= {f"{segment}.selector": 0x13 for segment in _SEGMENTS}
        values |= {"cs.type": 11, "cs.selector": 0x0B, "idt.limit": 0, "cr0": self.vcpu.sregs()["cr0"] | 1}
        if self.far:
            self.vcpu.set_supported_cpuid(self.kvm)
            self._write_page_tables()
            values |= {"cs.l": 1, "cs.db": 0, "cr3": _TABLES, "cr4": 1 << 5, "efer": 1 << 8 | 1 << 10}
            values["cr0"] |= 1 << 31 | 1 << 16
        self.vcpu.set_sregs(values)

    def _write_page_tables(self) -> None:
        """2 MiB pages: the first GiB, and that of FAR_BASE, as they are."""
        user = 0b111  # present, writable, for CPL 3
        top, low, high = _TABLES, _TABLES + 0x1000, _TABLES + 0x2000
        self.memory.write(top, struct.pack("<2Q", low | user, high | user))
        for index, start in enumerate((0, FAR_BASE)):
            table = _TABLES + 0x3000 + 0x1000 * index
            self.memory.write((low, high)[index], struct.pack("<Q", table | user))
            pages = [start + page * CHUNK | 1 << 7 | user for page in range(512)]
            self.memory.write(table, struct.pack("<512Q", *pages))

    def run(self, code: bytes, **registers: int) -> Exit:
        """Runs `code` to its exit: END_PORT, or whatever the window did."""
        self.begin(code, **registers)
        return self.vcpu.run(timeout=30)

    def begin(self, code: bytes, **registers: int) -> None:
        """Puts the vCPU before `code`, and a write to END_PORT behind it."""
        self.memory.write(CODE, code + b"\xe6" + bytes([END_PORT]))  # out %al, $END_PORT
        self.vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 0x3002, **registers})

    def copy(self, to: int, start: int, size: int) -> None:
        """The guest copies bytes of its own memory and of the window, at guest addresses."""
        exit_ = self.run(b"\xfc\xf3\xa4", rsi=start, rdi=to, rcx=size)  # cld; rep movsb
        assert exit_.name == "IO", str(exit_)

    def load(self, address: int) -> Exit:
        """mov (%esi), %eax; mov %eax, (%edi): the value is at VALUE then."""
        return self.run(b"\x8b\x06\x89\x07", rsi=address, rdi=VALUE)

    def store(self, address: int, value: int) -> Exit:
        """mov %eax, (%esi)"""
        return self.run(b"\x89\x06", rsi=address, rax=value)

    @property
    def value(self) -> int:
        """What `load` loaded."""
        return int.from_bytes(self.memory.read(VALUE, 4), "little")

    def close(self) -> None:
        """Slots go before what they show."""
        if isinstance(self.window, WindowMapper):
            self.vm.remove_memory_slot(1)
