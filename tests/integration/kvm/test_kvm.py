"""/dev/kvm as Python sees it: virtual machines, memory slots, vCPUs and their exits."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time

import pytest

from tests.integration.kvm.support import CODE, MEMORY, TinyGuest
from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.kvm import GuestMemory, Kvm, kick_signal, set_kick_signal

pytestmark = pytest.mark.usefixtures("kvm_available")

HLT = b"\xf4"
SPIN = b"\xeb\xfe"


@pytest.fixture(scope="module")
def kvm() -> Kvm:
    return Kvm()


def test_kvm_tells_its_version_and_capabilities(kvm: Kvm) -> None:
    assert kvm.api_version() == 12
    assert kvm.check_extension(3) == 1  # KVM_CAP_USER_MEMORY
    assert kvm.check_extension(0x7FFFFFFF) == 0
    assert kvm.vcpu_mmap_size() >= 4096
    assert 0xC0000081 in kvm.msr_indices()  # STAR


def test_hlt_exits() -> None:
    guest = TinyGuest(HLT)
    found = guest.vcpu.run(5.0)
    assert (found.name, found.fields, found.result) == ("HLT", {}, 0)


def test_a_port_write_exits_with_its_bytes() -> None:
    # mov $0x5a, %al; mov $0x3f8, %dx; out %al, (%dx); hlt
    guest = TinyGuest(b"\xb0\x5a\xba\xf8\x03\xee" + HLT)
    found = guest.vcpu.run(5.0)
    assert found.name == "IO"
    assert found.fields["is_write"]
    assert (found.fields["port"], found.fields["size_bytes"], found.fields["count"]) == (0x3F8, 1, 1)
    assert found.fields["data"] == b"\x5a"
    assert guest.vcpu.run(5.0).name == "HLT"


def test_a_port_read_is_answered_and_seen_after_the_drain() -> None:
    # mov $0x60, %dx; in (%dx), %ax; hlt
    guest = TinyGuest(b"\xba\x60\x00\xed" + HLT)
    asked = guest.vcpu.run(5.0)
    assert not asked.fields["is_write"]
    before = guest.vcpu.regs()["rip"]
    guest.vcpu.answer(asked, b"\x34\x12")
    guest.vcpu.drain()
    after = guest.vcpu.regs()
    assert before == CODE + 3
    assert (after["rip"], after["rax"] & 0xFFFF) == (CODE + 4, 0x1234)
    assert guest.vcpu.run(5.0).name == "HLT"


def test_an_answer_of_another_size_or_to_another_exit_is_refused() -> None:
    guest = TinyGuest(b"\xba\x60\x00\xed\xef" + HLT)  # in, then out
    asked = guest.vcpu.run(5.0)
    with pytest.raises(VmthawValueError, match="2 bytes cannot be answered with 1"):
        guest.vcpu.answer(asked, b"x")
    guest.vcpu.answer(asked, b"ok")
    written = guest.vcpu.run(5.0)
    assert written.fields["data"] == b"ok"
    with pytest.raises(VmthawValueError, match="0 bytes"):
        guest.vcpu.answer(written, b"ok")


def test_an_access_to_a_hole_is_mmio() -> None:
    # mov $0xabcd, %bx; mov %bx, (0x10); mov (0x20), %cx; hlt, with a data segment that begins behind the memory
    guest = TinyGuest(b"\xbb\xcd\xab\x89\x1e\x10\x00\x8b\x0e\x20\x00" + HLT)
    guest.vcpu.set_sregs({"ds.base": MEMORY})
    write = guest.vcpu.run(5.0)
    assert (write.name, write.fields["is_write"]) == ("MMIO", True)
    assert (write.fields["guest_address"], write.fields["data"]) == (MEMORY + 0x10, b"\xcd\xab")
    read = guest.vcpu.run(5.0)
    assert (read.fields["is_write"], read.fields["guest_address"]) == (False, MEMORY + 0x20)
    guest.vcpu.answer(read, b"\x78\x56")
    assert guest.vcpu.run(5.0).name == "HLT"
    assert guest.vcpu.regs()["rcx"] & 0xFFFF == 0x5678


def test_a_write_to_a_read_only_slot_is_mmio_and_leaves_memory_alone() -> None:
    # mov $0xbeef, %bx; mov %bx, (0x4000); hlt
    guest = TinyGuest(b"\xbb\xef\xbe\x89\x1e\x00\x40" + HLT, read_only=True)
    found = guest.vcpu.run(5.0)
    assert (found.name, found.fields["guest_address"], found.fields["data"]) == ("MMIO", 0x4000, b"\xef\xbe")
    assert guest.memory.read(0x4000, 2) == b"\0\0"
    assert guest.vm.memory_slots()[0].read_only


def test_the_dirty_log_names_the_pages_that_were_written() -> None:
    guest = TinyGuest(b"\xbb\xef\xbe\x89\x1e\x00\x40" + HLT, log_dirty_pages=True)
    guest.vm.dirty_log(0)
    assert guest.vcpu.run(5.0).name == "HLT"
    log = guest.vm.dirty_log(0)
    assert len(log) == MEMORY // 4096 // 64
    assert log[0] >> 4 & 1
    assert sum(word.bit_count() for word in log) <= 2  # backends may add the page that was only executed
    assert not any(guest.vm.dirty_log(0))


def test_only_a_slot_that_logs_has_a_dirty_log() -> None:
    guest = TinyGuest(HLT)
    with pytest.raises(VmthawValueError, match="slot 0 does not log"):
        guest.vm.dirty_log(0)


@pytest.mark.parametrize(
    ("guest_address", "offset", "size", "complaint"),
    [
        (1, 0, 4096, "guest_address is not a multiple"),
        (0, 1, 4096, "host_address is not a multiple"),
        (0, 0, 4095, "size must be a multiple"),
        (0, 0, 0, "size must be a multiple"),
        ((1 << 64) - 4096, 0, 8192, r"guest_address \+ size overflows"),
        (0, 0, (1 << 64) - 4096, r"host_address \+ size overflows"),
        (0x10_0000, 0, 8192, "overlaps slot 7"),
        (0xF_F000, 0, 8192, "overlaps slot 7"),
    ],
)
def test_a_slot_that_cannot_be_right_is_named(
    kvm: Kvm, guest_address: int, offset: int, size: int, complaint: str
) -> None:
    memory = GuestMemory.anonymous(MEMORY)
    host = memory.regions[0][0]
    vm = kvm.create_vm()
    vm.set_memory_slot(7, 0x10_0000, host, 4096)
    with pytest.raises(VmthawValueError, match=complaint):
        vm.set_memory_slot(1, guest_address, host + offset, size)
    assert [slot.slot for slot in vm.memory_slots()] == [7]


def test_slots_may_touch_and_go(kvm: Kvm) -> None:
    memory = GuestMemory.anonymous(MEMORY)
    host = memory.regions[0][0]
    vm = kvm.create_vm()
    vm.set_memory_slot(0, 0, host, 8192)
    vm.set_memory_slot(1, 8192, host + 8192, 4096)
    vm.remove_memory_slot(0)
    vm.set_memory_slot(2, 0, host, 4096)
    assert [(slot.slot, slot.guest_address, slot.size) for slot in vm.memory_slots()] == [(1, 8192, 4096), (2, 0, 4096)]
    with pytest.raises(VmthawValueError, match="no memory slot 0"):
        vm.remove_memory_slot(0)


def test_registers_come_back_as_they_were_set() -> None:
    vcpu = TinyGuest(HLT).vcpu
    general = {name: 0x1111_2222_3333_0000 + i for i, name in enumerate(sorted(vcpu.regs())) if name != "rflags"}
    vcpu.set_regs(general)
    found = vcpu.regs()
    assert {name: found[name] for name in general} == general
    assert found["rflags"] == 2
    vcpu.set_sregs({"gs.base": 0x1234_5000, "cr2": 0xFFFF_8000_0000_1000})
    special = vcpu.sregs()
    assert (special["gs.base"], special["cr2"]) == (0x1234_5000, 0xFFFF_8000_0000_1000)
    with pytest.raises(VmthawValueError, match="no register rzz"):
        vcpu.set_regs({"rzz": 1})
    with pytest.raises(VmthawValueError, match=r"cs\.dpl does not take 0x100"):
        vcpu.set_sregs({"cs.dpl": 256})


@pytest.mark.parametrize(
    "wrong",
    [
        {"cr0": 0x80000000},  # paging without protection
        {"cr0": 1 << 40},
        {"cr4": 1 << 40},
    ],
    ids=str,
)
def test_special_registers_that_cannot_be_are_refused_whole(wrong: dict[str, int]) -> None:
    vcpu = TinyGuest(HLT).vcpu
    before = vcpu.sregs()
    with pytest.raises(OSError, match="KVM_SET_SREGS") as refused:
        vcpu.set_sregs({**wrong, "gs.base": 0x1234_5000})
    assert refused.value.errno == errno.EINVAL
    assert vcpu.sregs() == before


def test_model_specific_registers_come_back_and_a_bad_value_is_named() -> None:
    vcpu = TinyGuest(HLT).vcpu
    lstar = 0xC0000082
    vcpu.set_msrs({lstar: 0xFFFF_8000_0000_1234})
    assert vcpu.msrs([lstar]) == {lstar: 0xFFFF_8000_0000_1234}
    with pytest.raises(OSError, match="0xc0000082"):
        vcpu.set_msrs({lstar: 0x1234_5678_0000_0000})  # not canonical
    assert vcpu.msrs([0x7FFF_FFFF, lstar]) == {lstar: 0xFFFF_8000_0000_1234}  # what it lacks is left out


def test_the_extended_state_comes_back() -> None:
    guest = TinyGuest(HLT)
    guest.vcpu.set_supported_cpuid(guest.kvm)
    area = bytearray(guest.vcpu.xsave())
    assert len(area) >= 4096
    area[160:176] = bytes(range(16))  # XMM0, SDM volume 1, 13.4.1
    area[512] |= 2  # XSTATE_BV: SSE
    guest.vcpu.set_xsave(bytes(area))
    assert guest.vcpu.xsave()[160:176] == bytes(range(16))
    with pytest.raises(VmthawValueError, match="extended state"):
        guest.vcpu.set_xsave(bytes(100))


def test_a_run_ends_with_its_timeout_and_goes_on_later() -> None:
    guest = TinyGuest(SPIN)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="ran on without an exit"):
        guest.vcpu.run(0.12)
    assert 0.1 < time.monotonic() - start < 5.0
    assert guest.vcpu.regs()["rip"] == CODE
    guest.memory.write(CODE, HLT)
    assert guest.vcpu.run(5.0).name == "HLT"


def test_a_run_with_no_time_at_all_comes_back() -> None:
    guest = TinyGuest(SPIN)  # its memory must live as long as the run
    with pytest.raises(TimeoutError):
        guest.vcpu.run(0.0)


def test_other_threads_run_python_while_a_guest_runs() -> None:
    guest = TinyGuest(SPIN)
    count = 0
    stop = threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        before = count
        with pytest.raises(TimeoutError):
            guest.vcpu.run(0.2)
        assert count - before > 1000
    finally:
        stop.set()
        thread.join()


def test_ctrl_c_ends_a_run_on_the_main_thread() -> None:
    guest = TinyGuest(SPIN)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        guest.vcpu.run(30.0)
    assert time.monotonic() - start < 5.0
    timer.join()


def test_the_kick_is_a_real_time_signal_that_nobody_else_handles() -> None:
    assert signal.SIGRTMIN <= kick_signal() <= signal.SIGRTMAX
    with pytest.raises(VmthawValueError, match="real-time"):
        set_kick_signal(signal.SIGUSR1)
    taken = signal.SIGRTMIN + 9
    previous = signal.signal(taken, lambda *_: None)
    try:
        with pytest.raises(StateError, match="somebody else's handler"):
            set_kick_signal(taken)
    finally:
        signal.signal(taken, previous)


def test_a_forked_child_finds_everything_inert() -> None:
    guest = TinyGuest(HLT)
    assert_inert_in_a_forked_child(
        lambda: guest.vcpu.run(1.0), guest.vcpu.regs, guest.vm.memory_slots, guest.kvm.api_version
    )
    assert guest.vcpu.run(5.0).name == "HLT"


def test_memory_is_laid_out_round_the_gap_below_4_gib() -> None:
    size = (3 << 30) + (64 << 20)
    low, high = GuestMemory.anonymous(size).regions
    assert low[1:] == (0, 3 << 30, 0)
    assert high[1:] == (4 << 30, 64 << 20, 3 << 30)
    assert low[0] % (2 << 20) == high[0] % (2 << 20) == 0


@pytest.mark.parametrize("size", [0, 4096, (2 << 20) + 1, (64 << 30) + 4096, (1 << 64) - 4096])
def test_memory_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(VmthawValueError, match="guest memory of"):
        GuestMemory.anonymous(size)


def test_accesses_outside_a_region_or_across_the_gap_are_refused() -> None:
    memory = GuestMemory.anonymous((3 << 30) + (2 << 20))
    memory.write((4 << 30) + 5, b"high")
    assert memory.read((4 << 30) + 4, 6) == b"\0high\0"
    for address, size in (((3 << 30) - 2, 4), (3 << 30, 1), ((4 << 30) + (2 << 20) - 1, 2), ((1 << 64) - 1, 2)):
        with pytest.raises(VmthawValueError, match="not within one region"):
            memory.read(address, size)
        with pytest.raises(VmthawValueError, match="not within one region"):
            memory.write(address, bytes(size))


def test_borrowed_memory_keeps_its_owner() -> None:
    class Owner:
        def __init__(self) -> None:
            self.memory = GuestMemory.anonymous(MEMORY)

        def __del__(self) -> None:
            gone.append(True)

    gone: list[bool] = []
    owner = Owner()
    borrowed = GuestMemory.borrow([owner.memory.regions[0][0]], MEMORY, owner)
    del owner
    borrowed.write(0, b"x")
    assert not gone
    del borrowed
    assert gone
