"""The dispatcher: what the classifier's table says about devices, done; and what `strict` mends. Needs no KVM."""

from __future__ import annotations

import struct

import pytest

from tests.unit.vcpu.made import (
    ARM,
    DATA_OFFSET,
    HLT,
    LENIENT,
    MAPPING,
    MMIO,
    STRICT,
    X86,
    io_in,
    io_out,
    mmio_read,
    mmio_write,
    run_bytes,
)
from vmthaw.devices import (
    I8042,
    Buses,
    OutputBuffer,
    Serial,
    VirtioMmio,
    make_idle_block,
    make_idle_console,
    make_idle_net,
)
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.vcpu import Dispatcher, ExitAction, ExitProfile, GuestArch, classify_exit, decode_exit

BOTH = pytest.mark.parametrize("profile", [LENIENT, STRICT], ids=lambda profile: profile.name)
MAGIC = b"virt"
DEVICE_IDS = {"console": 3, "block": 2, "net": 1}


class Recorder:
    """A device that notes its accesses and reads as the low byte of the offset, plus 0x40."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, bytes]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        return bytes((offset + 0x40 + i) & 0xFF for i in range(size))

    def write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, data))


class Guest:
    """Standard devices of one architecture behind one dispatcher, recorders in the place of both serial ports."""

    def __init__(self, profile: ExitProfile, arch: GuestArch) -> None:
        self.arch = arch
        self.com1, self.com2, self.extra = Recorder(), Recorder(), Recorder()
        self.keyboard = I8042()
        buses = Buses(arch)
        virtio = {
            "console": VirtioMmio(make_idle_console()),
            "block": VirtioMmio(make_idle_block(8)),
            "net": VirtioMmio(make_idle_net(b"\x02vmtha")),
        }
        if arch is X86:
            buses.add_standard(com1=self.com1, com2=self.com2, keyboard=self.keyboard, **virtio)
            buses.ports.add(0x500, 4, self.extra, "extra")
        else:
            buses.add_standard(com1=self.com1, com2=self.com2, **virtio)
        buses.mmio.add(0xD0000000, 0x10, self.extra, "extra", device_offset=0x20)
        self.dispatcher = Dispatcher(profile, buses)

    def handle(self, mapping: bytes) -> tuple[ExitAction, bytearray]:
        """The action, and the mapping as it is afterwards."""
        run = bytearray(mapping)
        return self.dispatcher.handle(decode_exit(self.arch, 0, 0, mapping), run), run

    def port_read(self, port: int, size: int = 1, count: int = 1, before: bytes = b"") -> bytes:
        action, run = self.handle(io_in(port, size, count, before))
        assert str(action) == "continue"
        return bytes(run[DATA_OFFSET : DATA_OFFSET + size * count])

    def port_write(self, port: int, data: bytes, size: int = 1) -> str:
        return str(self.handle(io_out(port, data, size))[0])

    def mmio_read(self, address: int, size: int = 4) -> bytes:
        action, run = self.handle(mmio_read(address, size))
        assert str(action) == "continue"
        return bytes(run[40 : 40 + size])

    def mmio_write(self, address: int, data: bytes) -> str:
        return str(self.handle(mmio_write(address, data))[0])


# --- ports


@BOTH
@pytest.mark.parametrize(("first", "name"), [(0x3F8, "com1"), (0x2F8, "com2")])
def test_each_of_the_eight_ports_is_a_register_of_its_serial_port(profile: ExitProfile, first: int, name: str) -> None:
    guest = Guest(profile, X86)
    device = getattr(guest, name)
    for register in range(8):
        assert guest.port_write(first + register, b"w") == "continue"
        assert guest.port_read(first + register) == bytes([0x40 + register])
    assert device.writes == [(register, b"w") for register in range(8)]
    assert device.reads == [(register, 1) for register in range(8)]
    guest.port_write(first + 8, b"w")
    guest.port_write(first - 1, b"w")
    assert len(device.writes) == 8


@BOTH
def test_the_keyboard_controller_reads_as_zero_and_resets(profile: ExitProfile) -> None:
    guest = Guest(profile, X86)
    assert guest.port_read(0x60, before=b"\xaa") == guest.port_read(0x64, before=b"\xaa") == b"\0"
    assert guest.port_write(0x64, b"\xfe") == "shutdown"
    assert guest.keyboard.resets == 1
    assert guest.port_write(0x60, b"\xfe") == "continue"
    assert guest.port_write(0x64, b"\xd1") == "continue"
    assert guest.keyboard.resets == 1


def test_what_nobody_answers_at_a_port_is_left_alone_or_ones() -> None:
    assert Guest(LENIENT, X86).port_read(0xCFC, 4, before=b"abcd") == b"abcd"
    assert Guest(STRICT, X86).port_read(0xCFC, 4, before=b"abcd") == b"\xff" * 4
    assert Guest(STRICT, X86).port_read(0x61, 2, 3) == b"\xff" * 6
    for profile in (LENIENT, STRICT):
        assert Guest(profile, X86).port_write(0x80, b"\x01") == "continue"


def test_lenient_serves_the_first_element_and_strict_all_of_a_string() -> None:
    lenient, strict = Guest(LENIENT, X86), Guest(STRICT, X86)
    for guest in (lenient, strict):
        guest.port_write(0x3F8, b"hello")
    assert lenient.com1.writes == [(0, b"h")]
    assert strict.com1.writes == [(0, bytes([letter])) for letter in b"hello"]
    assert lenient.port_read(0x3FD, count=5, before=b".....") == b"E...."
    assert strict.port_read(0x3FD, count=5, before=b".....") == b"EEEEE"
    assert strict.port_read(0x502, 2, 3) == b"\x42\x43" * 3


def test_a_serial_port_takes_a_byte_of_a_wider_access() -> None:
    for profile, rest in ((LENIENT, b"bcd"), (STRICT, b"\xff\xff\xff")):
        buses = Buses(X86)
        buses.add_standard(com1=Serial(), keyboard=I8042())
        dispatcher = Dispatcher(profile, buses)
        for port, first in ((0x3FC, b"\0"), (0x3FB, b"\0")):
            mapping = bytearray(io_in(port, 4, before=b"abcd"))
            dispatcher.handle(decode_exit(X86, 0, 0, mapping), mapping)
            assert mapping[DATA_OFFSET : DATA_OFFSET + 4] == first + rest


@BOTH
def test_a_serial_port_sends_the_first_byte_of_a_wider_access(profile: ExitProfile) -> None:
    output = OutputBuffer()
    buses = Buses(X86)
    buses.add_standard(com1=Serial(output))
    dispatcher = Dispatcher(profile, buses)
    for size in (1, 2, 4):
        mapping = bytearray(io_out(0x3F8, b"abcd"[:size], size))
        assert str(dispatcher.handle(decode_exit(X86, 0, 0, mapping), mapping)) == "continue"
        assert output.take() == b"a"


@pytest.mark.parametrize("port", [0x60, 0x64])
def test_the_keyboard_controller_answers_one_byte_of_a_wider_access(port: int) -> None:
    assert Guest(LENIENT, X86).port_read(port, 4, before=b"abcd") == b"\0bcd"
    # It has that one port, which an access of four is not wholly inside of.
    assert Guest(STRICT, X86).port_read(port, 4, before=b"abcd") == b"\xff" * 4


def test_strict_wants_an_access_wholly_inside_its_window() -> None:
    for profile, inside in ((LENIENT, True), (STRICT, False)):
        guest = Guest(profile, X86)
        guest.port_write(0x503, b"ab", 2)
        assert guest.extra.writes == ([(3, b"ab")] if inside else [])
        assert guest.port_read(0x3FF, 2, before=b"..") == (b"\x47\x48" if inside else b"\xff\xff")
        assert guest.mmio_read(0xD000000E, 4) == (b"\x6e\x6f\x70\x71" if inside else b"\xff" * 4)
        guest.mmio_write(0xD000000E, b"1234")
        assert guest.extra.writes[1:] == ([(0x2E, b"1234")] if inside else [])


def test_a_string_ends_at_the_reset() -> None:
    guest = Guest(STRICT, X86)
    assert guest.port_write(0x64, b"\x01\xfe\xfe\xfe") == "shutdown"
    assert guest.keyboard.resets == 1


@BOTH
def test_there_are_no_ports_on_aarch64(profile: ExitProfile) -> None:
    guest = Guest(profile, ARM)
    action, run = guest.handle(io_in(0x3F8, before=b"x"))
    assert (str(action), run[DATA_OFFSET]) == ("none", ord("x"))
    assert guest.com1.reads == []


# --- MMIO


@BOTH
@pytest.mark.parametrize(("arch", "base"), [(X86, 0xC0000000), (ARM, 0x09002000)], ids=["x86_64", "aarch64"])
def test_the_three_virtio_windows_lie_one_after_the_other(profile: ExitProfile, arch: GuestArch, base: int) -> None:
    guest = Guest(profile, arch)
    for number, device_id in enumerate(DEVICE_IDS.values()):
        window = base + number * 0x1000
        assert guest.mmio_read(window) == MAGIC
        assert guest.mmio_read(window + 8) == struct.pack("<I", device_id)
        assert guest.mmio_write(window + 0x70, b"\1\0\0\0") == "continue"
        assert guest.mmio_read(window + 0x70) == b"\1\0\0\0"
        assert guest.mmio_read(window, 2) == b"\xff\xff"
    assert guest.mmio_read(base - 4 if arch is X86 else 0x08FFFFFC) == b"\xff" * 4
    assert guest.mmio_read(base + 0x3000) == b"\xff" * 4


@BOTH
@pytest.mark.parametrize("arch", [X86, ARM])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_reads_of_nothing_are_ones_and_writes_are_dropped(profile: ExitProfile, arch: GuestArch, size: int) -> None:
    guest = Guest(profile, arch)
    assert guest.mmio_read(0x1234_5678_9000, size) == b"\xff" * size
    assert guest.mmio_write(0x1234_5678_9000, bytes(size)) == "continue"
    assert guest.mmio_write((1 << 64) - 1, b"x") == "continue"


@BOTH
@pytest.mark.parametrize(
    ("arch", "elsewhere"),
    [(X86, range(0x09000000, 0x09005000, 0x1000)), (ARM, range(0xC0000000, 0xC0003000, 0x1000))],
    ids=["x86_64", "aarch64"],
)
def test_the_windows_of_one_architecture_are_nothing_on_the_other(
    profile: ExitProfile, arch: GuestArch, elsewhere: range
) -> None:
    guest = Guest(profile, arch)
    for window in elsewhere:
        assert guest.mmio_write(window, b"\1\0\0\0") == "continue"
        assert guest.mmio_read(window) == b"\xff" * 4
    assert (guest.com1.writes, guest.com2.writes) == ([], [])


@BOTH
@pytest.mark.parametrize(("name", "base"), [("com1", 0x09000000), ("com2", 0x09001000)])
def test_serial_ports_are_mmio_on_aarch64(profile: ExitProfile, name: str, base: int) -> None:
    guest = Guest(profile, ARM)
    device = getattr(guest, name)
    guest.mmio_write(base, b"x")
    assert guest.mmio_read(base + 5, 1) == b"\x45"
    assert (device.writes, device.reads) == ([(0, b"x")], [(5, 1)])


@BOTH
def test_a_serial_port_on_aarch64_takes_the_first_byte_and_answers_up_to_offset_255(profile: ExitProfile) -> None:
    buses = Buses(ARM)
    port = Serial()
    buses.add_standard(com1=port)
    dispatcher = Dispatcher(profile, buses)

    def handle(mapping: bytes) -> bytearray:
        run = bytearray(mapping)
        assert str(dispatcher.handle(decode_exit(ARM, 0, 0, mapping), run)) == "continue"
        return run

    handle(mmio_write(0x09000007, b"\x5a\x11\x22\x33"))
    assert port.registers["scr"] == 0x5A
    assert handle(mmio_read(0x09000007, 4))[40:44] == b"\x5a\0\0\0"
    handle(mmio_write(0x09000107, b"\x77"))
    assert port.registers["scr"] == 0x5A
    assert handle(mmio_read(0x090000FF, 1))[40] == 0
    assert handle(mmio_read(0x09000100, 1))[40] == 0xFF
    assert handle(mmio_read(0x09000100, 4))[40:44] == handle(mmio_read(0x09000FFC, 4))[40:44] == b"\xff" * 4
    handle(mmio_write(0x09000007, b""))
    assert port.registers["scr"] == 0x5A


@BOTH
def test_an_mmio_access_of_no_bytes_reaches_nobody(profile: ExitProfile) -> None:
    guest = Guest(profile, ARM)
    assert guest.mmio_write(0x09000000, b"") == "continue"
    assert guest.mmio_read(0x09000000, 0) == b""
    assert (guest.com1.reads, guest.com1.writes) == ([], [])


@BOTH
def test_an_answer_is_as_long_as_the_question(profile: ExitProfile) -> None:
    guest = Guest(profile, X86)
    for address, answer in ((0xD0000000, b"\x60\x61"), (0x1234, b"\xff\xff")):
        mapping = bytearray(mmio_read(address, 2))
        mapping[40:48] = b"12345678"
        _, run = guest.handle(bytes(mapping))
        mapping[40:42] = answer
        assert run == mapping


# --- everything


@BOTH
def test_other_exits_keep_their_action_and_touch_nothing(profile: ExitProfile) -> None:
    guest = Guest(profile, X86)
    for mapping in (run_bytes(HLT), run_bytes(8), run_bytes(17), run_bytes(24, b"\1"), run_bytes(99)):
        action, run = guest.handle(mapping)
        assert run == mapping
        assert action == classify_exit(profile, X86, 0, 0, mapping).action


@BOTH
@pytest.mark.parametrize("mapping", [io_out(0x3F8, b"abc"), io_in(0x3F8, 1, 3), mmio_read(0xC0000000)])
def test_nothing_outside_of_a_shorter_buffer_is_touched(profile: ExitProfile, mapping: bytes) -> None:
    guest = Guest(profile, X86)
    exit_ = decode_exit(X86, 0, 0, mapping)
    for size in (0, 32, 47, DATA_OFFSET + 2):
        run = bytearray(size)
        action = guest.dispatcher.handle(exit_, run)
        if mapping[8] == MMIO and size > 48:
            continue
        assert str(action) == f"fatal({mapping[8]})"
        assert run == bytes(size)
    assert (guest.com1.reads, guest.com1.writes) == ([], [])


def test_an_exit_of_no_vcpu_needs_its_bytes() -> None:
    guest = Guest(STRICT, X86)
    with pytest.raises(VmthawValueError, match="came from no vCPU"):
        guest.dispatcher.handle(decode_exit(X86, 0, 0, run_bytes(HLT)))
    with pytest.raises(BufferError):
        guest.dispatcher.handle(decode_exit(X86, 0, 0, run_bytes(HLT)), bytes(MAPPING))


def test_a_dispatcher_seals_its_buses() -> None:
    guest = Guest(STRICT, X86)
    with pytest.raises(StateError, match="dispatcher uses this port bus"):
        guest.dispatcher.buses.ports.add(0x10, 1, Recorder(), "late")
    assert guest.dispatcher.profile is STRICT
    assert guest.dispatcher.buses.arch is X86
