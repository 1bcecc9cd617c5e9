"""The 16550A, register by register, as National Semiconductor's data sheet has it."""

from __future__ import annotations

import os
import select

import pytest

from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw.devices import OutputBuffer, Serial
from vmthaw.errors import VmthawValueError

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR
RECEIVED, EMPTIED, LINE, MODEM = 1, 2, 4, 8  # enables of interrupts
NO_INTERRUPT, FIFO = 1, 0xC0
EMPTY, READY, OVERRUN = 0x60, 1, 2
LOOP = 0x10


class Port:
    """A port with its output and the levels that its interrupt took."""

    def __init__(self) -> None:
        self.output = OutputBuffer()
        self.levels: list[bool] = []
        self.serial = Serial(self.output, self.levels.append)

    def get(self, register: int) -> int:
        return self.serial.read(register, 1)[0]

    def put(self, register: int, *values: int) -> None:
        for value in values:
            self.serial.write(register, bytes([value]))

    def take(self, count: int) -> bytes:
        return bytes(self.get(DATA) for _ in range(count))


@pytest.fixture
def port() -> Port:
    return Port()


def test_after_a_reset_everything_is_off_and_empty(port: Port) -> None:
    assert [port.get(register) for register in range(8)] == [0, 0, NO_INTERRUPT, 0, 0, EMPTY, 0xB0, 0]


def test_what_is_sent_goes_out_at_once(port: Port) -> None:
    port.put(DATA, *b"hello\n")
    assert port.get(LSR) == EMPTY
    assert port.output.take() == b"hello\n"


def test_the_scratch_register_keeps_a_byte(port: Port) -> None:
    port.put(SCR, 0xA5)
    assert port.get(SCR) == 0xA5


def test_line_and_modem_status_cannot_be_written(port: Port) -> None:
    port.put(LSR, 0xFF)
    port.put(MSR, 0xFF)
    assert (port.get(LSR), port.get(MSR)) == (EMPTY, 0xB0)


def test_registers_keep_only_the_bits_that_they_have(port: Port) -> None:
    for register, kept in ((IER, 0x0F), (LCR, 0x7F), (MCR, 0x1F)):
        port.put(register, 0xFF & (0x7F if register == LCR else 0xFF))
        assert port.get(register) == kept


def test_the_divisor_lies_behind_the_latch(port: Port) -> None:
    port.put(IER, MODEM)
    port.put(LCR, 0x83)
    assert (port.get(DATA), port.get(IER)) == (12, 0)
    port.put(DATA, 0x34)
    port.put(IER, 0x12)
    assert (port.get(DATA), port.get(IER), port.serial.registers["divisor"]) == (0x34, 0x12, 0x1234)
    port.put(LCR, 0x03)
    assert (port.get(IER), port.get(LCR)) == (MODEM, 0x03)
    assert port.output.take() == b""
    port.put(DATA, ord("x"))
    assert port.output.take() == b"x"


def test_received_bytes_come_in_order_and_one_at_a_time_without_fifo(port: Port) -> None:
    assert port.serial.receive(b"ab") == 1
    assert port.serial.receive(b"c") == 0
    assert port.get(LSR) == EMPTY | READY
    assert port.get(DATA) == ord("a")
    assert (port.get(LSR), port.get(DATA)) == (EMPTY, 0)


def test_the_fifo_takes_64_bytes(port: Port) -> None:
    port.put(FCR, 1)
    assert port.get(IIR) == FIFO | NO_INTERRUPT
    data = bytes(range(100))
    assert port.serial.receive(data) == 64
    assert port.take(64) == data[:64]
    assert port.get(LSR) == EMPTY
    for _ in range(5):  # round and round
        assert port.serial.receive(data[:50]) == 50
        assert port.take(50) == data[:50]


def test_clearing_and_toggling_empty_the_fifo(port: Port) -> None:
    for value in (3, 0, 1):
        port.put(FCR, 1)
        port.serial.receive(b"abc")
        port.put(FCR, value)
        assert (port.get(LSR) & READY) == (READY if value == 1 else 0)
        port.put(FCR, 3)


def test_the_control_bits_of_the_fifo_need_its_enable(port: Port) -> None:
    port.put(FCR, 0xC0)
    assert (port.serial.registers["fcr"], port.get(IIR)) == (0, NO_INTERRUPT)
    port.put(FCR, 0xCF)
    assert port.serial.registers["fcr"] == 0xC9


@pytest.mark.parametrize(("level", "trigger"), [(0, 1), (1, 4), (2, 8), (3, 14)])
def test_received_data_interrupts_at_the_trigger_and_times_out_below(port: Port, level: int, trigger: int) -> None:
    port.put(IER, RECEIVED)
    port.put(FCR, 1 | level << 6)
    port.serial.receive(bytes(trigger - 1))
    assert port.get(IIR) == FIFO | (0x0C if trigger > 1 else NO_INTERRUPT)
    port.serial.receive(b"x")
    assert port.get(IIR) == FIFO | 0x04
    port.get(DATA)
    assert port.get(IIR) == FIFO | (0x0C if trigger > 1 else NO_INTERRUPT)


def test_the_interrupt_is_a_level_that_rises_and_falls_with_its_cause(port: Port) -> None:
    port.serial.receive(b"a")
    assert port.levels == []
    port.put(IER, RECEIVED)
    assert (port.levels, port.get(IIR)) == ([True], 0x04)
    port.get(DATA)
    assert (port.levels, port.get(IIR)) == ([True, False], NO_INTERRUPT)
    port.serial.receive(b"b")
    port.put(IER, 0)
    assert port.levels == [True, False, True, False]


def test_an_empty_transmitter_interrupts_until_it_is_named(port: Port) -> None:
    port.put(IER, EMPTIED)
    assert port.levels == [True]
    assert port.get(IIR) == 0x02
    assert port.levels == [True, False]
    assert port.get(IIR) == NO_INTERRUPT
    port.put(DATA, ord("x"))  # and empty again
    assert (port.get(IIR), port.get(IIR)) == (0x02, NO_INTERRUPT)
    port.put(IER, EMPTIED)  # it was enabled: no new cause
    assert port.get(IIR) == NO_INTERRUPT
    port.put(IER, 0, EMPTIED)
    assert port.get(IIR) == 0x02


def test_naming_another_cause_leaves_the_empty_transmitter_pending(port: Port) -> None:
    port.put(IER, EMPTIED | RECEIVED)
    port.serial.receive(b"a")
    assert (port.get(IIR), port.get(IIR)) == (0x04, 0x04)
    port.get(DATA)
    assert (port.get(IIR), port.get(IIR)) == (0x02, NO_INTERRUPT)


def test_loopback_sends_to_the_receiver_alone(port: Port) -> None:
    port.put(MCR, LOOP)
    port.put(DATA, 0x5A)
    assert (port.get(LSR), port.get(DATA)) == (EMPTY | READY, 0x5A)
    assert port.output.take() == b""
    assert port.serial.receive(b"x") == 0
    port.put(MCR, 0)
    port.put(DATA, ord("y"))
    assert port.output.take() == b"y"


def test_an_overrun_keeps_the_newest_byte_without_fifo_and_the_oldest_with(port: Port) -> None:
    port.put(MCR, LOOP)
    port.put(DATA, 1, 2)
    assert (port.get(LSR), port.get(LSR)) == (EMPTY | READY | OVERRUN, EMPTY | READY)  # reading clears it
    assert port.get(DATA) == 2
    port.put(FCR, 1)
    port.put(DATA, *range(65))
    assert port.get(LSR) == EMPTY | READY | OVERRUN
    assert port.take(64) == bytes(range(64))
    assert port.get(LSR) == EMPTY


def test_line_status_comes_before_data_before_transmitter_before_modem(port: Port) -> None:
    port.put(MCR, LOOP)
    port.put(DATA, 1, 2)
    port.put(IER, RECEIVED | EMPTIED | LINE | MODEM)
    assert port.get(IIR) == 0x06
    port.get(LSR)
    assert port.get(IIR) == 0x04
    port.get(DATA)
    assert port.get(IIR) == 0x02
    assert port.get(IIR) == 0x00
    port.get(MSR)
    assert port.get(IIR) == NO_INTERRUPT
    assert port.levels == [True, False]


@pytest.mark.parametrize(("output", "line"), [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)])
def test_in_loopback_modem_outputs_are_its_inputs(port: Port, output: int, line: int) -> None:
    port.put(MCR, LOOP)
    assert port.get(MSR) >> 4 == 0
    port.put(MCR, LOOP | output)
    rising = 0 if line == 0x40 else line >> 4  # of RI only the end is told
    assert port.get(MSR) == line | rising
    assert port.get(MSR) == line
    port.put(MCR, LOOP)
    assert (port.get(MSR), port.get(MSR)) == (line >> 4, 0)


def test_changes_of_modem_lines_add_up_until_they_are_read(port: Port) -> None:
    port.put(MCR, LOOP)
    port.get(MSR)
    port.put(MCR, LOOP | 1, LOOP | 2, LOOP)
    assert port.get(MSR) == 0x03


def test_an_access_wider_than_a_byte_moves_its_first(port: Port) -> None:
    port.serial.write(SCR, b"\x11\x22\x33\x44")
    assert (port.serial.read(SCR, 4), port.get(DATA)) == (b"\x11\0\0\0", 0)


@pytest.mark.parametrize(("offset", "value"), [(8, 0), (255, 0), (256, 0xFF), (0xFFF, 0xFF), ((1 << 64) - 1, 0xFF)])
def test_offsets_beyond_the_registers_are_nobodys(port: Port, offset: int, value: int) -> None:
    port.put(SCR, 0x5A)
    before = port.serial.registers
    port.put(offset, 0x77)
    assert port.get(offset) == value
    assert port.serial.registers == before
    assert port.output.take() == b""


def test_looking_at_the_registers_changes_nothing(port: Port) -> None:
    port.put(IER, EMPTIED)
    port.serial.receive(b"x")
    first, second = port.serial.registers, port.serial.registers
    assert first == second
    assert (first["iir"], first["lsr"], first["waiting_bytes"]) == (0x02, EMPTY | READY, 1)
    assert port.get(IIR) == 0x02


@pytest.mark.parametrize("size", [0, 9])
def test_a_device_moves_1_to_8_bytes(port: Port, size: int) -> None:
    with pytest.raises(VmthawValueError, match="1 to 8 bytes"):
        port.serial.read(0, size)
    with pytest.raises(VmthawValueError, match="1 to 8 bytes"):
        port.serial.write(0, bytes(size))


def test_an_eventfd_counts_rises() -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        serial = Serial(interrupt=event)
        serial.write(IER, b"\x01")
        assert not select.select([event], [], [], 0)[0]
        for _ in range(3):
            serial.receive(b"x")
            serial.read(DATA, 1)
        assert os.eventfd_read(event) == 3
    finally:
        os.close(event)


def test_the_descriptor_of_an_interrupt_is_duplicated() -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    mine = os.dup(event)
    serial = Serial(interrupt=event)
    os.close(event)
    serial.write(IER, b"\x02")
    assert os.eventfd_read(mine) == 1
    os.close(mine)
    with pytest.raises(OSError, match="fcntl"):
        Serial(interrupt=mine)
    with pytest.raises(VmthawValueError, match="eventfd"):
        Serial(interrupt="up")  # type: ignore[arg-type]


def test_a_forked_child_finds_a_port_inert(port: Port) -> None:
    assert_inert_in_a_forked_child(
        lambda: (port.serial.read(DATA, 1), port.serial.registers),  # a read finds nothing, as on a bus without it
        lambda: port.serial.receive(b"x"),
        port.output.take,
    )
