"""Watchpoints on running guests: debug registers where they fire, read-only pages elsewhere, breakpoints and steps."""

from __future__ import annotations

import os

import pytest

from tests.integration.kvm.support import CODE
from tests.integration.kvm.watching import DATA, HLT, LONG, WatchedGuest, is_readable, store8, store32
from tests.support.eventually import eventually
from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw.devices import Buses
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.run_loop import RunLoop
from vmthaw.vcpu import Dispatcher, Exit, ExitProfile, GuestArch
from vmthaw.watchpoints import WatchBackend, WatchEvent, WatchEventKind, WatchKind, Watchpoints, probe_watchpoints

pytestmark = pytest.mark.usefixtures("kvm_available")


@pytest.fixture(params=[WatchBackend.hardware, WatchBackend.read_only_page], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> WatchBackend:
    """Each backend in turn; skips where the debug registers do not fire."""
    chosen: WatchBackend = request.param
    if chosen is WatchBackend.hardware and probe_watchpoints()["data_slots"] != 0b1111:
        pytest.skip("this KVM takes data watchpoints and never fires")
    assert chosen is WatchBackend.hardware or probe_watchpoints()["read_only_page"]
    return chosen


def test_a_store_latches_once_and_is_an_event_each_time(backend: WatchBackend) -> None:
    guest = WatchedGuest(store32(DATA, 0x44332211) + store32(DATA, 0x88776655) + HLT, backend=backend)
    guest.memory.write(DATA, b"\xaa\xbb\xcc\xdd")
    guest.watchpoints.set(1, DATA)
    first, second = guest.halt()
    assert guest.memory.read(DATA, 4) == b"\x55\x66\x77\x88"
    assert (first.before, first.after) == (b"\xaa\xbb\xcc\xdd", b"\x11\x22\x33\x44")
    assert (second.before, second.after) == (b"\x11\x22\x33\x44", b"\x55\x66\x77\x88")
    assert [first.latched, second.latched] == [True, False]
    assert [first.instruction_pointer, second.instruction_pointer] == [CODE + 9, CODE + 18]
    for event in (first, second):
        assert (event.kind, event.vcpu, event.slot, event.address) == (WatchEventKind.write, 0, 1, DATA)
        assert event.backend is backend
    assert first.t_ns < second.t_ns
    assert guest.watchpoints.hit(1)
    assert not guest.watchpoints.hit(2)
    assert os.eventfd_read(guest.watchpoints.hit_eventfd(1)) == 1


def test_stores_beside_the_four_bytes_are_none_of_its(backend: WatchBackend) -> None:
    code = store32(DATA - 4, 1) + store32(DATA + 4, 2) + store8(DATA + 3, 9)
    guest = WatchedGuest(code + HLT, backend=backend)
    guest.watchpoints.set(3, DATA)
    [event] = guest.halt()
    assert event.after == b"\0\0\0\x09"
    assert event.instruction_pointer == CODE + len(code)
    assert guest.memory.read(DATA - 4, 12) == b"\1\0\0\0\0\0\0\x09\2\0\0\0"


def test_all_four_slots_fire_for_their_own_bytes(backend: WatchBackend) -> None:
    places = [DATA, DATA + 0x100, DATA + 0x1000, DATA + 0x104]
    guest = WatchedGuest(b"".join(store32(place, 1) for place in places) + HLT, backend=backend)
    guest.memory.write(0x6000, (1024).to_bytes(4, "little"))
    for slot, place in enumerate(places):
        guest.watchpoints.set(slot, place, gate=0x6000 if slot == 0 else None)
    assert [event.slot for event in guest.halt()] == [0, 1, 2, 3]
    assert all(guest.watchpoints.hit(slot) for slot in range(4))


@pytest.mark.parametrize(("value", "fires"), [(1023, False), (1024, True)])
def test_slot_zero_fires_from_its_gate_on(backend: WatchBackend, value: int, fires: bool) -> None:
    guest = WatchedGuest(store32(DATA, 1) + HLT, backend=backend)
    guest.memory.write(0x6000, value.to_bytes(4, "little"))
    guest.watchpoints.set(0, DATA, gate=0x6000)
    assert bool(guest.halt()) is fires
    assert guest.watchpoints.hit(0) is fires
    assert is_readable(guest.watchpoints.hit_eventfd(0)) is fires
    assert guest.memory.read(DATA, 1) == b"\1"


@pytest.mark.parametrize(("value", "fires"), [(9, False), (10, True)])
def test_the_threshold_of_the_gate_is_what_was_given(value: int, fires: bool) -> None:
    guest = WatchedGuest(store32(DATA, value) + HLT)
    guest.watchpoints = Watchpoints(
        guest.vcpus, memory=guest.memory, vm=guest.vm, backend=WatchBackend.read_only_page, gate_threshold=10
    )
    dispatcher = Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64))
    guest.loop = RunLoop(guest.vcpus, dispatcher, watchpoints=guest.watchpoints)
    guest.watchpoints.set(0, DATA, gate=DATA)
    assert bool(guest.halt()) is fires


def test_a_store_that_opens_its_own_gate_fires(backend: WatchBackend) -> None:
    guest = WatchedGuest(store32(DATA, 1024) + HLT, backend=backend)
    guest.watchpoints.set(0, DATA, gate=DATA)
    assert len(guest.halt()) == 1


def test_a_cleared_hit_fires_again_and_a_disarmed_slot_does_not(backend: WatchBackend) -> None:
    # loop: movl $1, DATA; out %al, $0x80; jmp loop
    guest = WatchedGuest(store32(DATA, 1) + b"\xe6\x80\xeb\xf3", backend=backend)
    watchpoints = guest.watchpoints
    watchpoints.set(1, DATA)
    with guest.loop as loop:
        loop.start()
        for _ in range(3):
            eventually(lambda: watchpoints.hit(1), timeout=LONG)
            watchpoints.clear_hit(1)
        watchpoints.disarm(1)
        assert not watchpoints.hit(1)
        loop.freeze(timeout=LONG)
        watchpoints.take_events(1 << 20)
        loop.thaw()
        before = loop.stats[0].exits["IO"]
        eventually(lambda: loop.stats[0].exits["IO"] > before + 3, timeout=LONG)
        assert watchpoints.take_events() == []
        assert not watchpoints.hit(1)
        watchpoints.set(2, DATA)  # while it runs
        assert watchpoints.wait_armed(timeout=LONG)
        eventually(lambda: watchpoints.hit(2), timeout=LONG)
        report = watchpoints.verify()
        assert (report.requested, report.armed, report.verified, report.backend) == ((2,), (2,), True, backend)


def test_every_vcpu_fires_and_one_of_them_latches(backend: WatchBackend) -> None:
    # loop: movl $1, DATA; out %al, $0x80; jmp loop
    guest = WatchedGuest(store32(DATA, 1) + b"\xe6\x80\xeb\xf3", backend=backend, vcpus=2)
    guest.watchpoints.set(1, DATA)
    seen: list[WatchEvent] = []
    with guest.loop as loop:
        loop.start()

        def both() -> bool:
            seen.extend(guest.watchpoints.take_events())
            return {event.vcpu for event in seen} == {0, 1}

        eventually(both, timeout=LONG)
    assert sum(event.latched for event in seen) == 1
    assert os.eventfd_read(guest.watchpoints.hit_eventfd(1)) == 1


def test_linear_addresses_are_translated_by_the_guests_page_tables(backend: WatchBackend) -> None:
    # movl $7, 0x404000, in 64-bit code
    code = b"\xc7\x04\x25" + (0x40_4000).to_bytes(4, "little") + (7).to_bytes(4, "little") + HLT
    guest = WatchedGuest(code, backend=backend)
    # 2 MiB pages: 0 and 4 MiB are both the first 2 MiB of physical memory
    for place, entry in {0x10000: 0x11003, 0x11000: 0x12003, 0x12000: 0x83, 0x12010: 0x83}.items():
        guest.memory.write(place, entry.to_bytes(8, "little"))
    flat = {"base": 0, "limit": 0xFFFFFFFF, "present": 1, "dpl": 0, "s": 1, "g": 1}
    text = {f"cs.{part}": value for part, value in {**flat, "selector": 8, "type": 11, "db": 0, "l": 1}.items()}
    data = {
        f"{name}.{part}": value
        for name in ("ds", "es", "ss")
        for part, value in {**flat, "selector": 16, "type": 3, "db": 1, "l": 0}.items()
    }
    paging = {"cr0": 0x8000_0011, "cr3": 0x10000, "cr4": 0x20, "efer": 0x500}
    guest.vcpu.set_sregs({**text, **data, **paging})
    guest.watchpoints.set(1, 0x40_4000)
    [event] = guest.halt()
    assert event.address == 0x40_4000
    assert event.after == b"\7\0\0\0"
    assert guest.memory.read(0x4000, 1) == b"\7"


def test_a_breakpoint_stops_before_its_instruction_and_a_handler_sees_it() -> None:
    if not probe_watchpoints()["execute"]:
        pytest.skip("instruction breakpoints do not fire on this KVM")
    # loop: inc %ax; dec %cx; jnz loop
    guest = WatchedGuest(b"\x40\x49\x75\xfc" + HLT)
    guest.vcpu.set_regs({"rcx": 3, "rax": 0})
    guest.watchpoints.set(2, CODE + 1, kind=WatchKind.execute)
    seen: list[int] = []

    @guest.loop.on_reason("DEBUG")
    def look(_found: Exit) -> None:
        seen.append(guest.vcpu.regs()["rax"] & 0xFFFF)

    events = [event for event in guest.halt() if event.kind is WatchEventKind.execute]
    assert [event.instruction_pointer for event in events] == [CODE + 1] * 3
    assert [event.latched for event in events] == [True, False, False]
    assert events[0].before is None
    assert sorted(set(seen)) == [1, 2, 3]
    assert guest.vcpu.regs()["rax"] == 3


def test_so_many_instructions_are_stepped() -> None:
    if not probe_watchpoints()["single_step"]:
        pytest.skip("single step does not work on this KVM")
    guest = WatchedGuest(b"\x40" * 10 + HLT)
    guest.watchpoints.step(0, 3)
    events = guest.halt()
    assert [(event.kind, event.instruction_pointer) for event in events] == [
        (WatchEventKind.step, CODE + 1 + i) for i in range(3)
    ]
    assert guest.watchpoints.steps_left(0) == 0
    assert guest.vcpu.regs()["rax"] == 10


def test_armed_is_not_works_and_the_report_says_so() -> None:
    works = probe_watchpoints()["data_slots"] == 0b1111
    guest = WatchedGuest(store32(DATA, 1) + HLT, backend=WatchBackend.hardware)
    guest.watchpoints.set(1, DATA)
    assert guest.watchpoints.verify().armed == ()
    assert bool(guest.halt()) is works
    report = guest.watchpoints.verify()
    assert (report.requested, report.armed) == ((1,), (1,))
    assert report.verified is works
    assert report.backend is WatchBackend.hardware


def test_the_report_asks_for_what_serves_each_kind_of_slot() -> None:
    ability = probe_watchpoints()
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    assert guest.watchpoints.verify().verified
    guest.watchpoints.set(1, CODE, kind=WatchKind.execute)
    assert guest.watchpoints.verify().verified is ability["execute"]
    guest.watchpoints.set(2, DATA)
    report = guest.watchpoints.verify()
    assert report.requested == (1, 2)
    assert report.verified is ability["execute"]


def test_what_works_here_is_chosen() -> None:
    ability = probe_watchpoints()
    expected = WatchBackend.hardware if ability["data_slots"] == 0b1111 else WatchBackend.read_only_page
    guest = WatchedGuest(store32(DATA, 5) + HLT)
    guest.watchpoints.set(1, DATA)
    [event] = guest.halt()
    assert event.backend is expected
    assert guest.watchpoints.backend is expected
    assert guest.watchpoints.verify().verified


def test_latching_by_hand_gives_one_edge_and_the_gate_of_all_is_sticky() -> None:
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    watchpoints = guest.watchpoints
    assert not watchpoints.any_armed
    assert [watchpoints.latch(1), watchpoints.latch(1), watchpoints.latch(4), watchpoints.latch(-1)] == [
        True,
        False,
        False,
        False,
    ]
    assert os.eventfd_read(watchpoints.hit_eventfd(1)) == 1
    assert not is_readable(watchpoints.hit_eventfd(1))
    watchpoints.set(1, DATA)
    assert not watchpoints.hit(1)
    watchpoints.disarm(1)
    assert watchpoints.any_armed


def test_wrong_questions_are_errors() -> None:
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    with pytest.raises(VmthawValueError, match="slot 0 is gated"):
        guest.watchpoints.set(0, DATA)
    with pytest.raises(VmthawValueError, match="no gate"):
        guest.watchpoints.set(1, DATA, gate=DATA)
    with pytest.raises(VmthawValueError, match="no slot 4"):
        guest.watchpoints.set(4, DATA)
    with pytest.raises(VmthawValueError, match="no slot 4"):
        guest.watchpoints.hit(4)
    with pytest.raises(VmthawValueError, match="at least 1"):
        guest.watchpoints.step(0, 0)
    with pytest.raises(VmthawValueError, match="no vCPU 1"):
        guest.watchpoints.step(1)
    with pytest.raises(VmthawValueError, match="address 0"):
        guest.watchpoints.set(1, 0)
    other = WatchedGuest(HLT, vcpus=2)
    loop = RunLoop(guest.vcpus, Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64)), watchpoints=other.watchpoints)
    with pytest.raises(VmthawValueError, match="for 2 vCPUs"):
        loop.start()


def test_a_frozen_guest_takes_new_slots_without_another_freeze(backend: WatchBackend) -> None:
    guest = WatchedGuest(store32(DATA, 1) + b"\xe6\x80\xeb\xf3", backend=backend)
    with guest.loop as loop:
        loop.start()
        loop.freeze(timeout=LONG)
        guest.watchpoints.set(1, DATA)
        with pytest.raises(StateError, match="are frozen"):
            loop.freeze()
        loop.thaw()
        eventually(lambda: guest.watchpoints.hit(1), timeout=LONG)


def test_a_forked_child_finds_them_inert() -> None:
    guest = WatchedGuest(HLT, backend=WatchBackend.read_only_page)
    guest.watchpoints.set(1, DATA)

    assert_inert_in_a_forked_child(
        lambda: guest.watchpoints.set(2, DATA, physical=DATA),
        lambda: guest.watchpoints.disarm(1),
        lambda: guest.watchpoints.hit(1),
        lambda: guest.watchpoints.latch(1),
        lambda: guest.watchpoints.step(0),
        guest.watchpoints.verify,
    )
    assert guest.watchpoints.verify().requested == (1,)
