"""Captures of real vCPUs: after the drain, with everything, and compared."""

from __future__ import annotations

import pytest

from tests.benchmarks.captures import measure
from tests.integration.kvm.support import CODE, MEMORY, TinyGuest
from vmthaw.errors import VmthawValueError
from vmthaw.kvm import GuestArch
from vmthaw.registers import (
    capture_full,
    capture_registers,
    diff_registers,
    read_page_table_root,
    read_tcr_el1,
)

pytestmark = pytest.mark.usefixtures("kvm_available")

HLT = b"\xf4"


def test_a_capture_comes_after_the_drain() -> None:
    # mov $0x60, %dx; in (%dx), %ax; hlt
    guest = TinyGuest(b"\xba\x60\x00\xed" + HLT)
    asked = guest.vcpu.run(5.0)
    assert guest.vcpu.regs()["rip"] == CODE + 3  # the IN has not happened yet
    guest.vcpu.answer(asked, b"\x34\x12")
    snapshot = capture_registers(guest.vcpu)
    assert snapshot is not None
    assert (snapshot.instruction_pointer, snapshot.stack_pointer) == (CODE + 4, 0x8000)
    assert snapshot.user_page_table_root is None
    assert snapshot.tcr_el1 is None
    assert guest.vcpu.regs()["rax"] & 0xFFFF == 0x1234
    assert guest.vcpu.run(5.0).name == "HLT"


def test_a_capture_after_a_read_from_a_device_is_that_of_after_it() -> None:
    # mov (0x20), %cx; hlt, with a data segment that begins behind the memory
    guest = TinyGuest(b"\x8b\x0e\x20\x00" + HLT)
    guest.vcpu.set_sregs({"ds.base": MEMORY})
    guest.vcpu.set_regs({"rcx": 0x7777})
    asked = guest.vcpu.run(5.0)
    assert (asked.name, asked.fields["guest_address"]) == ("MMIO", MEMORY + 0x20)
    before = guest.vcpu.regs()
    assert (before["rip"], before["rcx"]) == (CODE, 0x7777)  # stale: it has not happened yet
    guest.vcpu.answer(asked, b"\x34\x12")
    assert guest.vcpu.regs() == before
    snapshot = capture_registers(guest.vcpu)
    assert snapshot is not None
    assert snapshot.instruction_pointer == CODE + 4
    assert guest.vcpu.regs()["rcx"] == 0x1234


def test_the_root_of_the_page_tables_is_cr3_as_it_is() -> None:
    guest = TinyGuest(HLT)
    guest.vcpu.set_sregs({"cr3": 0x12345018})
    snapshot = capture_registers(guest.vcpu)
    assert snapshot is not None
    assert snapshot.page_table_root == read_page_table_root(guest.vcpu) == 0x12345018
    assert read_tcr_el1(guest.vcpu) is None


def test_a_full_capture_has_what_the_vcpu_was_given() -> None:
    guest = TinyGuest(HLT)
    guest.vcpu.set_supported_cpuid(guest.kvm)
    area = bytearray(guest.vcpu.xsave())
    area[160:176] = bytes(range(1, 17))  # XMM0
    area[32:42] = b"\x01" * 10  # ST0
    area[512] |= 3  # XSTATE_BV: x87 and SSE
    guest.vcpu.set_xsave(bytes(area))
    guest.vcpu.set_msrs({0xC0000082: 0xFFFF_8000_0000_1234})
    guest.vcpu.set_regs({"r15": 0xDEAD_BEEF_0000_0001})
    guest.vcpu.set_sregs({"gs.base": 0x1234_5000})
    full = capture_full(guest.kvm, guest.vcpu)
    assert full.arch is GuestArch.x86_64
    assert not full.after_shutdown
    assert full["xmm0"] == int.from_bytes(bytes(range(1, 17)), "little")
    assert full["st0"] == int.from_bytes(b"\x01" * 10, "little")
    assert full["msr.0xc0000082"] == 0xFFFF_8000_0000_1234
    assert (full["r15"], full["gs.base"], full["rip"]) == (0xDEAD_BEEF_0000_0001, 0x1234_5000, CODE)
    values = full.values
    assert next(iter(values)) == "rax"
    general = guest.vcpu.regs() | guest.vcpu.sregs()
    assert {name: values[name] for name in general} == general
    for name in ("dr6", "dr7", "xcr0", "mxcsr", "ymm15h", "events", "mp_state", "interrupts"):
        assert name in values
    with pytest.raises(KeyError):
        full["rzz"]


def test_two_captures_differ_in_what_happened_between_them() -> None:
    # inc %bx; hlt; nop
    guest = TinyGuest(b"\x43" + HLT + b"\x90")
    before = capture_full(guest.kvm, guest.vcpu)
    assert diff_registers(before, before) == []
    assert guest.vcpu.run(5.0).name == "HLT"
    after = capture_full(guest.kvm, guest.vcpu)
    found = {entry.name: (entry.before, entry.after) for entry in diff_registers(before, after)}
    assert found["rbx"] == (before["rbx"], before["rbx"] + 1)
    assert found["rip"] == (CODE, CODE + 2)
    assert "rax" not in found
    assert "cr3" not in found


def test_ours_and_the_textbook_capture_find_the_same_and_are_measured() -> None:
    ours, by_hand = measure(turns=20)
    assert ours > 0
    assert by_hand > 0
    with pytest.raises(VmthawValueError, match="turns"):
        measure(turns=0)
