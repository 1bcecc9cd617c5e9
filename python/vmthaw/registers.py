"""A vCPU's registers, its page tables, and core dumps.

A vCPU's registers are true after a drain; every capture here makes it first::

    snapshot = capture_registers(vcpu)          # where it is
    full = capture_full(kvm, vcpu)              # all that it holds
    data = read_guest_virtual(full.paging_state(), memory, full["rsp"], 64)
    write_core_dump("guest.core", memory, [full])   # then: gdb -c guest.core

Page tables are followed as the guest has them, which may be anything: TranslationError says what was wrong where. They
may also be read from a file or a network: `memory` can be a function (guest_physical, size) that gives bytes or None.
"""

from __future__ import annotations

from vmthaw._core import (
    CoreAddresses,
    CoreDumpReport,
    FullRegisters,
    PageTranslation,
    PagingState,
    RegisterDifference,
    RegisterSnapshot,
    aarch64_register_name,
    capture_full,
    capture_registers,
    diff_registers,
    mapped_ranges,
    read_guest_virtual,
    read_page_table_root,
    read_tcr_el1,
    translate,
    write_core_dump,
)

__all__ = [
    "CoreAddresses",
    "CoreDumpReport",
    "FullRegisters",
    "PageTranslation",
    "PagingState",
    "RegisterDifference",
    "RegisterSnapshot",
    "aarch64_register_name",
    "capture_full",
    "capture_registers",
    "diff_registers",
    "mapped_ranges",
    "read_guest_virtual",
    "read_page_table_root",
    "read_tcr_el1",
    "translate",
    "write_core_dump",
]
