"""A guest under KVM whose ports and windows the dispatcher answers."""

from __future__ import annotations

import contextlib
import re
import threading

import pytest

from tests.integration.kvm.support import CODE, TinyGuest
from tests.support.tree import ROOT
from vmthaw.devices import I8042, Buses, OutputBuffer, Serial, VirtioMmio, make_idle_console
from vmthaw.errors import StateError
from vmthaw.vcpu import Dispatcher, Exit, ExitAction, ExitActionKind, ExitProfile, GuestArch

pytestmark = pytest.mark.usefixtures("kvm_available")

HLT = b"\xf4"
CONSOLE = 0xC0000000


def out(port: int, value: int) -> bytes:
    """mov $port, %dx; mov $value, %al; out %al, (%dx)"""
    return b"\xba" + port.to_bytes(2, "little") + b"\xb0" + bytes([value]) + b"\xee"


def in_to_memory(port: int, place: int) -> bytes:
    """mov $port, %dx; in (%dx), %al; mov %al, place"""
    return b"\xba" + port.to_bytes(2, "little") + b"\xec\xa2" + place.to_bytes(2, "little")


class Machine:
    """A guest in real mode with the standard devices. %fs begins at the console's window."""

    def __init__(self, code: bytes, profile: ExitProfile = ExitProfile.strict) -> None:
        self.guest = TinyGuest(code)
        self.guest.vcpu.set_sregs({"fs.base": CONSOLE, "fs.limit": 0xFFFF})
        self.output = OutputBuffer()
        self.serial = Serial(self.output)
        self.keyboard = I8042()
        self.console = VirtioMmio(make_idle_console())
        self.buses = Buses(GuestArch.x86_64)
        self.buses.add_standard(com1=self.serial, keyboard=self.keyboard, console=self.console)
        self.profile = profile
        self.exits: list[Exit] = []

    def run(self) -> ExitAction:
        """Until an exit that the dispatcher does not answer with "continue"."""
        dispatcher = Dispatcher(self.profile, self.buses)
        while True:
            self.exits.append(self.guest.vcpu.run(10.0))
            action = dispatcher.handle(self.exits[-1])
            if action.kind is not ExitActionKind.continue_:
                return action


def test_a_guest_prints_and_reads_through_its_serial_port() -> None:
    code = b"".join(out(0x3F8, letter) for letter in b"hi\n")
    code += in_to_memory(0x3FD, 0x4000) + in_to_memory(0x3F8, 0x4001) + in_to_memory(0x3FD, 0x4002) + HLT
    machine = Machine(code)
    machine.serial.receive(b"Q")
    assert str(machine.run()) == "none"
    assert machine.exits[-1].name == "HLT"
    assert machine.output.take() == b"hi\n"
    assert machine.guest.memory.read(0x4000, 3) == b"\x61Q\x60"


def test_the_program_of_the_readme_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = [
        program for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "dispatcher.handle(" in program
    ]
    assert len(programs) == 1
    exec(compile(programs[0], "README.md", "exec"), {})
    said = re.search(r"^print\(.*\)  # (.*)$", programs[0], re.MULTILINE)
    assert said is not None
    assert capsys.readouterr().out == said[1] + "\n"


def test_a_guest_talks_to_a_virtio_window() -> None:
    # movl %fs:0, %eax; movl %eax, 0x4000; movb $1, %fs:0x70 (too narrow); movl $1, %fs:0x70; movl %fs:0x70, %eax;
    # movl %eax, 0x4004; movl %fs:0x1000, %eax (nobody there); movl %eax, 0x4008
    code = (
        b"\x64\x66\xa1\x00\x00" b"\x66\xa3\x00\x40"
        b"\x64\xc6\x06\x70\x00\x01"
        b"\x64\x66\xc7\x06\x70\x00\x01\x00\x00\x00"
        b"\x64\x66\xa1\x70\x00" b"\x66\xa3\x04\x40"
        b"\x64\x66\xa1\x00\x10" b"\x66\xa3\x08\x40"
    ) + HLT  # fmt: skip
    machine = Machine(code)
    assert str(machine.run()) == "none"
    assert machine.guest.memory.read(0x4000, 12) == b"virt" + b"\1\0\0\0" + b"\xff" * 4
    assert (machine.console.status, machine.console.refused) == (1, 1)


def test_a_guest_resets_itself_by_the_keyboard_controller() -> None:
    machine = Machine(in_to_memory(0x64, 0x4000) + out(0x64, 0xFE) + HLT)
    machine.guest.memory.write(0x4000, b"\xaa")
    assert str(machine.run()) == "shutdown"
    assert (machine.keyboard.resets, machine.guest.memory.read(0x4000, 1)) == (1, b"\0")


@pytest.mark.parametrize(("profile", "expected"), [(ExitProfile.strict, b"\xff"), (ExitProfile.lenient, None)])
def test_a_port_of_nobody_reads_as_the_profile_says(profile: ExitProfile, expected: bytes | None) -> None:
    machine = Machine(in_to_memory(0xCFC, 0x4000) + HLT, profile)
    assert str(machine.run()) == "none"
    if expected is not None:  # without an answer the guest finds what KVM left in the buffer
        assert machine.guest.memory.read(0x4000, 1) == expected


def test_every_element_of_a_string_reaches_the_device() -> None:
    # mov $0x5000, %si; mov $5, %cx; mov $0x3f8, %dx; rep outsb; mov $0x6000, %di; mov $5, %cx; mov $0x500, %dx;
    # rep insb; hlt
    code = b"\xbe\x00\x50\xb9\x05\x00\xba\xf8\x03\xf3\x6e\xbf\x00\x60\xb9\x05\x00\xba\x00\x05\xf3\x6c" + HLT

    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def read(self, offset: int, size: int) -> bytes:
            self.value += 1
            return bytes([self.value]) * size

        def write(self, offset: int, data: bytes) -> None:
            raise AssertionError(f"{offset} {data!r}")

    machine = Machine(code)
    machine.guest.memory.write(0x5000, b"hello")
    machine.buses.ports.add(0x500, 1, Counter(), "counter")
    assert str(machine.run()) == "none"
    assert machine.output.take() == b"hello"
    assert machine.guest.memory.read(0x6000, 6) == b"\1\2\3\4\5\0"
    accesses = [(exit_.fields["is_write"], exit_.fields["count"]) for exit_ in machine.exits if exit_.name == "IO"]
    assert accesses == [(True, 1)] * 5 + [(False, 5)]  # KVM takes INS as a whole and OUTS one by one


def test_what_a_python_device_raises_stops_the_loop() -> None:
    class Failing:
        def read(self, offset: int, size: int) -> bytes:
            raise LookupError(f"{offset} {size}")

        def write(self, offset: int, data: bytes) -> None: ...

    machine = Machine(in_to_memory(0x502, 0x4000) + HLT)
    machine.buses.ports.add(0x500, 4, Failing(), "failing")
    with pytest.raises(LookupError, match="2 1"):
        machine.run()


def test_an_exit_is_answered_only_while_its_vcpu_waits_for_it() -> None:
    machine = Machine(in_to_memory(0x3FD, 0x4000) + out(0x3F8, ord("x")) + HLT)
    dispatcher = Dispatcher(ExitProfile.strict, machine.buses)
    first = machine.guest.vcpu.run(10.0)
    dispatcher.handle(first)
    machine.guest.vcpu.run(10.0)
    with pytest.raises(StateError, match="run on since"):
        dispatcher.handle(first)


def test_an_exit_keeps_its_vcpu() -> None:
    machine = Machine(in_to_memory(0x3FD, 0x4000) + HLT)
    dispatcher = Dispatcher(ExitProfile.strict, machine.buses)
    exit_ = machine.guest.vcpu.run(10.0)
    memory = machine.guest.memory  # the kernel holds no reference to it
    del machine
    assert str(dispatcher.handle(exit_)) == "continue"
    assert memory.read(CODE, 1) == b"\xba"


def test_an_internal_error_has_the_registers_of_its_guest() -> None:
    machine = Machine(HLT)
    machine.guest.vcpu.set_sregs({"cs.base": 1 << 30})  # no memory there: nothing can be fetched
    machine.guest.vcpu.set_regs({"rip": 0, "rbx": 0x1234})
    found = machine.guest.vcpu.run(10.0)
    assert (found.name, found.fields["suberror"]) == ("INTERNAL_ERROR", 1)
    assert found.fields["registers"] == machine.guest.vcpu.regs()
    assert (found.fields["registers"]["rip"], found.fields["registers"]["rbx"]) == (0, 0x1234)
    action = Dispatcher(ExitProfile.strict, machine.buses).handle(found)
    assert (action.kind, action.reason) == (ExitActionKind.fatal, 1)


def test_other_threads_run_python_while_an_exit_is_handled() -> None:
    entered, may_go = threading.Event(), threading.Event()

    class Waiting:
        def read(self, offset: int, size: int) -> bytes:
            entered.set()
            may_go.wait(30)
            return bytes(size)

        def write(self, offset: int, data: bytes) -> None: ...

    machine = Machine(in_to_memory(0x500, 0x4000) + HLT)
    machine.buses.ports.add(0x500, 4, Waiting(), "waiting")
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=machine.run)
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(may_go.set)
        assert entered.wait(30)
