"""RunLoop with small guests: every way in which a run ends, handlers in Python, several vCPUs, freezes, records."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.integration.kvm.support import CODE, TinyGuest
from tests.support.eventually import PATIENCE
from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw.devices import I8042, Buses, OutputBuffer, Serial
from vmthaw.errors import GuestError, StateError, VmthawValueError
from vmthaw.run_loop import RunEnd, RunEndKind, RunLoop
from vmthaw.vcpu import Dispatcher, Exit, ExitAction, ExitActionKind, ExitProfile, GuestArch

pytestmark = pytest.mark.usefixtures("kvm_available")

LONG = 30.0 * PATIENCE
HLT = b"\xf4"
SPIN = b"\xeb\xfe"
# loop: out %al, $0x80; jmp loop
OUT_FOR_EVER = b"\xe6\x80\xeb\xfc"


def out(port: int, value: int) -> bytes:
    """mov $port, %dx; mov $value, %al; out %al, (%dx)"""
    return b"\xba" + port.to_bytes(2, "little") + b"\xb0" + bytes([value]) + b"\xee"


def in_to_memory(port: int, place: int) -> bytes:
    """mov $port, %dx; in (%dx), %al; mov %al, place"""
    return b"\xba" + port.to_bytes(2, "little") + b"\xec\xa2" + place.to_bytes(2, "little")


class Guest(TinyGuest):
    """A guest with a serial port, a keyboard controller and a run loop."""

    def __init__(self, code: bytes, *, vcpus: int = 1, exit_records: int = 0, record_registers: bool = False) -> None:
        super().__init__(code)
        self.vcpus = [self.vcpu, *(self.vm.create_vcpu(index) for index in range(1, vcpus))]
        zeroed = {f"{segment}.{part}": 0 for segment in ("cs", "ds", "es", "ss") for part in ("selector", "base")}
        for vcpu in self.vcpus[1:]:
            vcpu.set_sregs(zeroed)
            vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2})
        self.output = OutputBuffer()
        buses = Buses(GuestArch.x86_64)
        buses.add_standard(com1=Serial(self.output), keyboard=I8042())
        self.loop = RunLoop(
            self.vcpus,
            Dispatcher(ExitProfile.strict, buses),
            exit_records=exit_records,
            record_registers=record_registers,
        )

    def run(self) -> RunEnd:
        with self.loop:
            return self.loop.run(timeout=LONG)


def wait_for_exits(loop: RunLoop, vcpu: int = 0) -> None:
    before = sum(loop.stats[vcpu].exits.values())
    deadline = time.monotonic() + LONG
    while sum(loop.stats[vcpu].exits.values()) == before:
        assert time.monotonic() < deadline, "the vCPU does not run"
        time.sleep(0.001)


def test_a_guest_prints_and_halts() -> None:
    guest = Guest(b"".join(out(0x3F8, letter) for letter in b"hi\n") + HLT)
    end = guest.run()
    assert guest.output.take() == b"hi\n"
    assert end.kind is RunEndKind.halted
    assert end.exit is not None
    assert end.exit.name == "HLT"
    stats = guest.loop.stats[0]
    assert stats.exits == {"IO": 3, "HLT": 1}
    assert stats.handled == 0
    assert stats.guest_ns > 0
    assert stats.host_ns > 0
    assert not guest.loop.running


def test_a_guest_that_resets_itself_shuts_down() -> None:
    end = Guest(out(0x64, 0xFE)).run()
    assert end.kind is RunEndKind.shutdown
    assert end.action == ExitAction(ExitActionKind.shutdown)


def test_a_triple_fault_shuts_down() -> None:
    guest = Guest(b"\x0f\x0b")  # ud2
    guest.vcpu.set_sregs({"cr0": guest.vcpu.sregs()["cr0"] | 1, "idt.limit": 0})  # protected mode, without vectors
    end = guest.run()
    assert end.kind is RunEndKind.shutdown
    assert end.exit is not None
    assert end.exit.name == "SHUTDOWN"


def test_a_fetch_from_nowhere_is_a_guest_error_with_its_registers() -> None:
    guest = Guest(b"")
    guest.vcpu.set_sregs({"cs.selector": 0, "cs.base": 0xD0000000})
    with pytest.raises(GuestError, match=r"vCPU 0 cannot go on: .*INTERNAL_ERROR"):
        guest.run()


def test_a_guest_that_spins_is_stopped() -> None:
    guest = Guest(SPIN)
    with guest.loop as loop:
        loop.start()
        assert loop.running
        with pytest.raises(TimeoutError, match="still runs"):
            loop.wait(timeout=0.05)
        loop.stop()
        loop.stop()
        end = loop.wait(timeout=LONG)
    assert end.kind is RunEndKind.stopped
    assert end.exit is None
    assert guest.loop.stats[0].interruptions >= 1


def test_a_function_answers_a_read() -> None:
    guest = Guest(in_to_memory(0x500, 0x4000) + in_to_memory(0x501, 0x4001) + HLT)
    seen: list[Exit] = []

    @guest.loop.on_port(0x500)
    def answer(access: Exit) -> bytes:
        seen.append(access)
        return b"\x2a"

    assert guest.run().kind is RunEndKind.halted
    assert guest.memory.read(0x4000, 2) == b"\x2a\xff"
    assert [access.fields["port"] for access in seen] == [0x500]
    assert guest.loop.stats[0].handled == 1


def test_a_function_that_gives_none_leaves_the_exit_to_the_dispatcher() -> None:
    guest = Guest(out(0x3F8, 0x41) + HLT)
    seen: list[int] = []

    @guest.loop.on_port(0x3F8, 0x3FF)
    def watch(access: Exit) -> None:
        seen.append(access.fields["data"][0])

    guest.run()
    assert seen == [0x41]
    assert guest.output.take() == b"A"


def test_a_function_for_a_reason_decides_and_a_port_comes_first() -> None:
    guest = Guest(out(0x600, 1) + out(0x500, 2) + out(0x601, 3) + HLT)
    order: list[str] = []

    @guest.loop.on_reason("IO")
    def any_port(access: Exit) -> ExitActionKind:
        order.append("reason")
        return ExitActionKind.shutdown if access.fields["port"] == 0x601 else ExitActionKind.continue_

    @guest.loop.on_port(0x500)
    def one_port(access: Exit) -> ExitAction:
        order.append("port")
        return ExitAction(ExitActionKind.continue_)

    assert guest.run().kind is RunEndKind.shutdown
    assert order == ["reason", "port", "reason"]


def test_a_function_answers_mmio() -> None:
    # mov %fs:0x10, %al; mov %al, 0x4000; hlt
    guest = Guest(b"\x64\xa0\x10\x00" + b"\xa2\x00\x40" + HLT)
    guest.vcpu.set_sregs({"fs.base": 0xC1000000, "fs.limit": 0xFFFF})

    @guest.loop.on_mmio(0xC1000000, 0xC1000FFF)
    def answer(access: Exit) -> bytes:
        assert access.fields["guest_address"] == 0xC1000010
        return b"\x07"

    assert guest.run().kind is RunEndKind.halted
    assert guest.memory.read(0x4000, 1) == b"\x07"


class _OwnError(Exception):
    pass


def test_what_a_function_raises_stops_the_vm_and_comes_out_of_wait() -> None:
    guest = Guest(OUT_FOR_EVER, vcpus=2)

    @guest.loop.on_port(0x80)
    def fail(access: Exit) -> None:
        raise _OwnError("no")

    with guest.loop as loop, pytest.raises(_OwnError, match="no"):
        loop.run(timeout=LONG)
    assert not loop.running


@pytest.mark.parametrize("answer", [b"\x01\x02", "what", 3])
def test_an_answer_that_does_not_fit_is_an_error(answer: object) -> None:
    guest = Guest(in_to_memory(0x500, 0x4000) + HLT)
    guest.loop.on_port(0x500)(lambda _: answer)  # type: ignore[arg-type,return-value]
    with pytest.raises(VmthawValueError, match=r"cannot be answered with 2|a handler of exits gives"):
        guest.run()


def test_the_end_of_one_vcpu_ends_all() -> None:
    guest = Guest(OUT_FOR_EVER, vcpus=3)
    guest.memory.write(CODE + 0x100, HLT)
    guest.vcpus[2].set_regs({"rip": CODE + 0x100})
    end = guest.run()
    assert (end.kind, end.vcpu) == (RunEndKind.halted, 2)


def test_a_running_guest_is_frozen_and_thawed() -> None:
    guest = Guest(OUT_FOR_EVER, vcpus=2)
    with guest.loop as loop:
        loop.start()
        for _ in range(20):
            snapshots = loop.freeze(timeout=LONG)
            before = [stats.exits for stats in loop.stats]
            assert all(snapshot is not None for snapshot in snapshots)
            time.sleep(0.002)
            assert [stats.exits for stats in loop.stats] == before
            loop.thaw()
        wait_for_exits(loop, 0)
        wait_for_exits(loop, 1)
        loop.stop()
        assert loop.wait(timeout=LONG).kind is RunEndKind.stopped
        with pytest.raises(StateError, match="killed"):
            loop.freeze(timeout=LONG)


def test_a_freeze_right_after_the_start_means_every_vcpu() -> None:
    for _ in range(30):
        guest = Guest(OUT_FOR_EVER, vcpus=3)
        with guest.loop as loop:
            loop.start()
            assert None not in loop.freeze(timeout=LONG)


def test_a_frozen_guest_can_be_stopped() -> None:
    guest = Guest(OUT_FOR_EVER)
    with guest.loop as loop:
        loop.start()
        loop.freeze(timeout=LONG)
        loop.stop()
        assert loop.wait(timeout=LONG).kind is RunEndKind.stopped


def test_each_exit_is_a_record_on_the_clock_of_faults() -> None:
    begin = time.monotonic_ns()
    guest = Guest(out(0x3F8, 0x41) + in_to_memory(0x500, 0x4000) + HLT, exit_records=16, record_registers=True)
    guest.run()
    records = guest.loop.take_records()
    assert list(records["reason"]) == [2, 2, 5]
    assert list(records["address"]) == [0x3F8, 0x500, 0]
    assert list(records["length"]) == [1, 1, 0]
    assert list(records["flags"] & 1) == [1, 0, 0]
    assert list(records["action"]) == [1, 1, 0]
    for record in records:
        assert begin <= record["t_enter_ns"] <= record["t_exit_ns"] <= record["t_decided_ns"] <= time.monotonic_ns()
        assert record["flags"] & 4
    # After each instruction is completed: the address of the next one.
    assert list(records["instruction_pointer"])[:2] == [CODE + 6, CODE + 10]
    assert guest.loop.dropped_records == 0
    assert len(guest.loop.take_records()) == 0


def test_records_that_nobody_takes_are_dropped_and_counted() -> None:
    guest = Guest(b"".join(out(0x3F8, letter) for letter in b"0123456789") + HLT, exit_records=4)
    guest.run()
    assert len(guest.loop.take_records()) == 4
    assert guest.loop.dropped_records == 7


def test_a_device_that_fails_is_named() -> None:
    class Broken:
        def read(self, offset: int, size: int) -> bytes:
            raise _OwnError("the device is broken")

        def write(self, offset: int, data: bytes) -> None:
            raise _OwnError("the device is broken")

    guest = TinyGuest(in_to_memory(0x700, 0x4000) + HLT)
    buses = Buses(GuestArch.x86_64)
    buses.ports.add(0x700, 1, Broken(), "broken")
    with (
        RunLoop([guest.vcpu], Dispatcher(ExitProfile.strict, buses)) as loop,
        pytest.raises(_OwnError, match="the device is broken"),
    ):
        loop.run(timeout=LONG)


def test_ctrl_c_ends_the_wait_and_the_guest_runs_on() -> None:
    guest = Guest(OUT_FOR_EVER)
    with guest.loop as loop:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            loop.run(timeout=LONG)
        timer.join()
        wait_for_exits(loop)


def test_states_that_do_not_fit_are_refused() -> None:
    guest = Guest(HLT)
    with pytest.raises(StateError, match="has not begun"):
        guest.loop.wait()
    with pytest.raises(VmthawValueError, match="no exit reason"):
        guest.loop.on_reason("NONSENSE")
    with pytest.raises(VmthawValueError, match="at least one"):
        RunLoop([], Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64)))
    guest.run()
    with pytest.raises(StateError, match="begun already"):
        guest.loop.start()
    with pytest.raises(StateError, match="registered before"):
        guest.loop.on_port(1)
    overlapping = Guest(HLT)
    overlapping.loop.on_port(0x10, 0x20)(lambda _: None)
    overlapping.loop.on_port(0x20)(lambda _: None)
    with pytest.raises(VmthawValueError, match="port 0x20 has a handler already"):
        overlapping.loop.start()


def test_a_forked_child_finds_it_inert() -> None:
    guest = Guest(OUT_FOR_EVER)
    with guest.loop as loop:
        loop.start()
        assert_inert_in_a_forked_child(loop.stop)
        wait_for_exits(loop)
