"""Pages that are read-only for a watchpoint's sake: stores arrive as if they were not."""

from __future__ import annotations

import pytest

from tests.integration.kvm.support import CODE, TinyGuest
from tests.integration.kvm.watching import DATA, HLT, LONG, WatchedGuest, store32
from vmthaw.errors import VmthawValueError
from vmthaw.run_loop import RunEndKind
from vmthaw.watchpoints import WatchBackend, Watchpoints

pytestmark = pytest.mark.usefixtures("kvm_available")


def test_a_wide_store_through_a_read_only_page_arrives_whole() -> None:
    # movups %xmm0, DATA - 4: more than one exit carries
    guest = WatchedGuest(b"\x0f\x11\x06" + (DATA + 4).to_bytes(2, "little") + HLT, backend=WatchBackend.read_only_page)
    guest.vcpu.set_sregs({"cr4": guest.vcpu.sregs()["cr4"] | 0x600})  # OSFXSR, OSXMMEXCPT
    area = bytearray(guest.vcpu.xsave())
    area[160:176] = bytes(range(1, 17))  # xmm0
    area[512] |= 2  # XSTATE_BV: SSE
    guest.vcpu.set_xsave(bytes(area))
    guest.watchpoints.set(1, DATA + 8)
    guest.watchpoints.set(2, DATA + 16)
    events = guest.halt()
    assert guest.memory.read(DATA, 24) == b"\0\0\0\0" + bytes(range(1, 17)) + b"\0\0\0\0"
    assert {event.slot: event.after for event in events} == {1: bytes([5, 6, 7, 8]), 2: bytes([13, 14, 15, 16])}


def test_read_modify_write_through_a_read_only_page_reads_what_is_there() -> None:
    # lock incl DATA; xchg %eax, DATA
    code = b"\xf0\x66\xff\x06" + DATA.to_bytes(2, "little") + b"\x66\x87\x06" + DATA.to_bytes(2, "little") + HLT
    guest = WatchedGuest(code, backend=WatchBackend.read_only_page)
    guest.memory.write(DATA, (41).to_bytes(4, "little"))
    guest.watchpoints.set(1, DATA)
    guest.vcpu.set_regs({"rax": 7})
    assert [event.after for event in guest.halt()] == [b"\x2a\0\0\0", b"\7\0\0\0"]
    assert guest.vcpu.regs()["rax"] & 0xFFFFFFFF == 42


def test_a_page_is_writable_again_after_the_end() -> None:
    guest = WatchedGuest(store32(DATA, 7) + HLT, backend=WatchBackend.read_only_page)
    with guest.watchpoints as watchpoints:
        watchpoints.set(1, DATA)
        assert any(slot.read_only for slot in guest.vm.memory_slots())
    assert not any(slot.read_only for slot in guest.vm.memory_slots())
    assert guest.halt() == []
    assert guest.memory.read(DATA, 1) == b"\7"


def test_a_page_is_changed_only_when_an_ended_run_has_left_it() -> None:
    # 0: loop: incl DATA; jmp loop. 1, from where its IP is set: hlt, which ends the run.
    code = b"\x66\xff\x06" + DATA.to_bytes(2, "little") + b"\xeb\xf9" + HLT
    guest = WatchedGuest(code, backend=WatchBackend.read_only_page, vcpus=2)
    guest.vcpus[1].set_regs({"rip": CODE + len(code) - 1})
    guest.watchpoints.set(1, DATA)
    with guest.loop as loop:
        assert loop.run(timeout=LONG).kind is RunEndKind.halted
        guest.watchpoints.disarm(1)
    events = guest.watchpoints.take_events(1 << 20)
    assert int.from_bytes(guest.memory.read(DATA, 4), "little") == len(events) + guest.watchpoints.dropped_events


def test_the_memory_slots_are_whole_again_after_the_last_disarm() -> None:
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    before = guest.vm.memory_slots()
    guest.watchpoints.set(1, DATA)
    guest.watchpoints.set(2, DATA + 8)
    guest.watchpoints.set(3, DATA + 0x3000)
    assert sum(slot.read_only for slot in guest.vm.memory_slots()) == 2
    guest.watchpoints.set(3, DATA + 0x1000)  # elsewhere
    guest.watchpoints.disarm(1)
    assert sorted(slot.guest_address for slot in guest.vm.memory_slots() if slot.read_only) == [DATA, DATA + 0x1000]
    guest.watchpoints.disarm(2)
    guest.watchpoints.disarm(3)
    guest.watchpoints.disarm(3)
    after = guest.vm.memory_slots()
    assert [(slot.slot, slot.guest_address, slot.size, slot.read_only) for slot in after] == [
        (slot.slot, slot.guest_address, slot.size, slot.read_only) for slot in before
    ]


def test_pages_that_cannot_be_read_only_are_refused_and_the_slots_stay() -> None:
    logging = TinyGuest(HLT, log_dirty_pages=True)
    watchpoints = Watchpoints([logging.vcpu], memory=logging.memory, vm=logging.vm, backend=WatchBackend.read_only_page)
    with pytest.raises(VmthawValueError, match="logs dirty pages"):
        watchpoints.set(1, DATA, physical=DATA)
    assert len(logging.vm.memory_slots()) == 1
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    with pytest.raises(VmthawValueError, match="not a multiple of 4"):
        guest.watchpoints.set(1, DATA + 2)
    with pytest.raises(VmthawValueError):
        guest.watchpoints.set(1, 1 << 40, physical=1 << 40)
    assert len(guest.vm.memory_slots()) == 1
    assert guest.watchpoints.verify().requested == ()


def test_a_slot_has_what_it_had_after_a_request_that_is_refused() -> None:
    guest = WatchedGuest(store32(DATA, 7) + HLT, backend=WatchBackend.read_only_page)
    guest.watchpoints.set(1, DATA)
    with pytest.raises(VmthawValueError, match="not a multiple of 4"):
        guest.watchpoints.set(1, DATA + 0x1002)
    assert [slot.guest_address for slot in guest.vm.memory_slots() if slot.read_only] == [DATA]
    assert [event.address for event in guest.halt()] == [DATA]


def test_pieces_of_a_slot_never_have_the_number_of_one_that_is_gone() -> None:
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    seen: list[int] = []
    for page in range(3):
        guest.watchpoints.set(1, DATA + page * 0x1000)
        pieces = [slot.slot for slot in guest.vm.memory_slots() if slot.guest_address != 0]
        assert len(pieces) == 2
        assert not set(pieces) & set(seen)
        seen += pieces
