"""Small real-mode guests for the tests of /dev/kvm."""

from __future__ import annotations

from vmthaw.kvm import GuestMemory, Kvm, Vcpu, Vm

CODE = 0x1000
MEMORY = 2 << 20


class TinyGuest:
    """2 MiB of memory and one vCPU in real mode that begins with `code` at CODE."""

    def __init__(self, code: bytes, *, read_only: bool = False, log_dirty_pages: bool = False) -> None:
        self.memory = GuestMemory.anonymous(MEMORY)
        self.kvm = Kvm()
        self.vm: Vm = self.kvm.create_vm()
        host_address, guest_address, size, _ = self.memory.regions[0]
        self.vm.set_memory_slot(
            0, guest_address, host_address, size, read_only=read_only, log_dirty_pages=log_dirty_pages
        )
        self.memory.write(CODE, code)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        zeroed = {"selector": 0, "base": 0}
        self.vcpu.set_sregs(
            {f"{segment}.{part}": value for segment in ("cs", "ds", "es", "ss") for part, value in zeroed.items()}
        )
        self.vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2})
