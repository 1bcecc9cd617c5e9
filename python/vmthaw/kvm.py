"""/dev/kvm from Python: virtual machines, memory slots, virtual CPUs, and what made them exit.

Everything is implemented in C++ and releases the GIL while the kernel works::

    memory = GuestMemory.anonymous(2 << 20)
    vm = Kvm().create_vm()
    host_address, guest_address, size, _ = memory.regions[0]
    vm.set_memory_slot(0, guest_address, host_address, size)
    vcpu = vm.create_vcpu(0)
    exit = vcpu.run(timeout=1.0)

Keep the memory as long as the VM: the kernel holds no reference to it. `decode_exit` needs no KVM.
"""

from __future__ import annotations

from vmthaw._core import (
    Exit,
    GuestArch,
    GuestMemory,
    Kvm,
    MemorySlot,
    Vcpu,
    Vm,
    decode_exit,
    exit_reason_name,
    kick_signal,
    set_kick_signal,
)

__all__ = [
    "Exit",
    "GuestArch",
    "GuestMemory",
    "Kvm",
    "MemorySlot",
    "Vcpu",
    "Vm",
    "decode_exit",
    "exit_reason_name",
    "kick_signal",
    "set_kick_signal",
]
