"""The register window of a virtio device: identity, negotiation, status, interrupts, refusals, reset."""

from __future__ import annotations

import os
import struct

import pytest

from tests.unit.devices.virtio_driver import (
    CONFIG,
    DEVICE_FEATURES,
    DEVICE_FEATURES_SEL,
    DEVICE_ID,
    DRIVER_FEATURES,
    DRIVER_FEATURES_SEL,
    FAILED,
    GENERATION,
    HAS_MAC,
    INTERRUPT_ACK,
    INTERRUPT_STATUS,
    MAC,
    MAGIC,
    NEEDS_RESET,
    QUEUE_NOTIFY,
    QUEUE_NUM_MAX,
    QUEUE_SEL,
    STATUS,
    VENDOR_ID,
    VERSION,
    VERSION_1,
    Driver,
)
from vmthaw.devices import VirtioMmio, make_idle_block, make_idle_console, make_idle_net
from vmthaw.errors import ForkedError, VmthawValueError


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.mark.parametrize(
    ("window", "device_id", "queues", "config"),
    [
        (VirtioMmio(make_idle_console()), 3, 2, bytes(12)),
        (VirtioMmio(make_idle_block(0x1_2345_6789)), 2, 1, struct.pack("<Q", 0x1_2345_6789)),
        (VirtioMmio(make_idle_net(MAC)), 1, 2, MAC),
    ],
    ids=["console", "block", "net"],
)
def test_a_window_says_what_it_is(window: VirtioMmio, device_id: int, queues: int, config: bytes) -> None:
    driver = Driver(window)
    assert window.read(MAGIC, 4) == b"virt"
    assert (driver.get(MAGIC), driver.get(VERSION), driver.get(DEVICE_ID)) == (0x74726976, 2, device_id)
    assert driver.get(VENDOR_ID) == int.from_bytes(b"THAW", "little")
    found = []
    for index in range(4):
        driver.put(QUEUE_SEL, index)
        found.append(driver.get(QUEUE_NUM_MAX))
    assert found == [256] * queues + [0] * (4 - queues)
    read = b"".join(window.read(CONFIG + i, 1) for i in range(len(config)))
    assert read == config
    assert window.read(CONFIG + len(config), 8) == bytes(8)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_register_is_4_bytes_wide(driver: Driver, size: int) -> None:
    assert driver.window.read(MAGIC, size) == b"\xff" * size
    driver.window.write(STATUS, b"\x01" + bytes(size - 1))
    assert (driver.get(STATUS), driver.window.refused) == (0, 1)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_configuration_is_read_as_wide_as_its_fields(driver: Driver, size: int) -> None:
    assert driver.window.read(CONFIG, size) == (MAC + bytes(2))[:size]
    assert driver.window.read(CONFIG + 4, size) == (MAC[4:] + bytes(8))[:size]
    assert driver.window.read(0xFFF, size) == bytes(size)


def test_registers_that_are_write_only_or_reserved_read_as_zero(driver: Driver) -> None:
    driver.bring_up()
    for offset in (0x14, 0x18, 0x20, 0x30, 0x38, 0x3C, 0x50, 0x64, 0x80, 0x84, 0xC0, 0xF8, 0x1, 0x72):
        assert driver.get(offset) == 0, hex(offset)


def test_there_is_no_shared_memory(driver: Driver) -> None:
    assert driver.put(0xAC, 1) == 0
    assert [driver.get(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)] == [0xFFFFFFFF] * 4


# --- status


def test_status_bits_advance_in_their_order(driver: Driver) -> None:
    assert driver.status(1) == 1
    assert driver.status(3) == 3
    driver.features(VERSION_1)
    assert driver.status(11) == 11
    assert driver.status(15) == 15
    assert driver.window.refused == 0


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ((), 2), ((), 3), ((), 4), ((), 8), ((), 15), ((), 0x10), ((), 0x101), ((), 0x40),
        ((1,), 9), ((1,), 5), ((1,), 11), ((1,), 0x11),
        ((1, 3), 7), ((1, 3), 15), ((1, 3), 0x43), ((1, 3), 1), ((1, 3), 2),
    ],
)  # fmt: skip
def test_a_status_out_of_order_is_refused(driver: Driver, before: tuple[int, ...], value: int) -> None:
    now = driver.status(*before)
    assert driver.put(STATUS, value) == 1
    assert driver.get(STATUS) == now


def test_a_bit_is_never_taken_back(driver: Driver) -> None:
    driver.bring_up()
    for value in (1, 3, 7, 11, 14):
        assert driver.put(STATUS, value) == 1
    assert driver.status(15) == 15


@pytest.mark.parametrize("before", [(), (1,), (1, 3)])
def test_a_driver_may_give_up_at_any_time_and_only_a_reset_helps(driver: Driver, before: tuple[int, ...]) -> None:
    now = driver.status(*before)
    assert driver.status(now | FAILED) == now | FAILED
    assert driver.put(STATUS, (now << 1 | 1) | FAILED) == 1
    assert driver.get(STATUS) == now | FAILED
    assert driver.status(0) == 0
    assert driver.negotiate() == 11


# --- features


def test_features_are_offered_in_two_halves(driver: Driver) -> None:
    found = []
    for page in (0, 1, 2, 0xFFFFFFFF):
        driver.put(DEVICE_FEATURES_SEL, page)
        found.append(driver.get(DEVICE_FEATURES))
    assert found == [HAS_MAC, 1, 0, 0]
    assert driver.window.offered_features == VERSION_1 | HAS_MAC


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        (VERSION_1, 11),
        (VERSION_1 | HAS_MAC, 11),
        (HAS_MAC, 3),  # no legacy driver
        (0, 3),
        (VERSION_1 | 1 << 6, 3),
        (VERSION_1 | 1 << 33, 3),
        ((1 << 64) - 1, 3),
    ],
)
def test_only_a_subset_with_version_1_is_accepted(driver: Driver, wanted: int, status: int) -> None:
    assert driver.negotiate(wanted) == status
    assert driver.window.driver_features == wanted


def test_a_driver_may_ask_for_less_after_a_refusal(driver: Driver) -> None:
    assert driver.negotiate(VERSION_1 | 1 << 40) == 3
    driver.features(VERSION_1)
    assert driver.status(11) == 11


def test_features_are_set_between_driver_and_features_ok(driver: Driver) -> None:
    for status in ((), (1,)):
        driver.status(*status)
        assert driver.put(DRIVER_FEATURES, 1) == 1
    driver.status(3)
    driver.features(VERSION_1)
    driver.status(11)
    assert driver.put(DRIVER_FEATURES, 0) == 1
    assert driver.window.driver_features == VERSION_1


def test_there_are_no_features_beyond_64(driver: Driver) -> None:
    driver.status(1, 3)
    driver.put(DRIVER_FEATURES_SEL, 2)
    assert driver.put(DRIVER_FEATURES, 0) == 0
    assert driver.put(DRIVER_FEATURES, 1) == 1
    assert driver.window.driver_features == 0


# --- interrupts and reset


def test_a_used_buffer_and_a_change_interrupt_until_both_are_acknowledged(driver: Driver) -> None:
    driver.bring_up()
    driver.window.signal_used()
    driver.window.signal_config_change()
    assert (driver.get(INTERRUPT_STATUS), driver.levels) == (3, [True])
    assert driver.get(GENERATION) == 1
    driver.put(INTERRUPT_ACK, 1)
    assert (driver.get(INTERRUPT_STATUS), driver.levels) == (2, [True])
    driver.put(INTERRUPT_ACK, 0xFFFFFFFF)
    assert (driver.get(INTERRUPT_STATUS), driver.levels) == (0, [True, False])


def test_a_driver_that_is_not_ready_is_not_interrupted(driver: Driver) -> None:
    driver.negotiate()
    driver.window.signal_used()
    driver.window.signal_config_change()
    assert (driver.get(INTERRUPT_STATUS), driver.levels, driver.get(GENERATION)) == (0, [], 1)


def test_a_device_in_trouble_wants_a_reset(driver: Driver) -> None:
    driver.bring_up()
    driver.window.signal_needs_reset()
    assert driver.get(STATUS) == 15 | NEEDS_RESET
    assert (driver.get(INTERRUPT_STATUS), driver.levels) == (2, [True])
    assert driver.put(QUEUE_NOTIFY, 0) == 1
    assert driver.put(STATUS, 15) == 0  # the bit is the device's to keep
    assert driver.get(STATUS) == 15 | NEEDS_RESET
    assert driver.status(0) == 0
    driver.bring_up()


def test_a_reset_forgets_everything_but_the_generation(driver: Driver) -> None:
    driver.bring_up()
    driver.window.signal_config_change()
    driver.put(QUEUE_SEL, 1)
    driver.put(DEVICE_FEATURES_SEL, 1)
    assert driver.status(0) == 0
    assert (driver.get(INTERRUPT_STATUS), driver.levels) == (0, [True, False])
    assert driver.window.driver_features == 0
    assert [(queue.size, queue.ready) for queue in driver.window.queues] == [(0, False)] * 2
    assert driver.get(DEVICE_FEATURES) == HAS_MAC  # the first page again
    assert driver.get(GENERATION) == 1
    driver.bring_up()


def test_the_configuration_is_written_by_a_driver_only(driver: Driver) -> None:
    before = driver.window.refused
    driver.window.write(CONFIG, b"x")
    driver.status(1)
    driver.window.write(CONFIG, b"x")
    assert driver.window.refused == before + 2
    driver.status(3)
    driver.window.write(CONFIG, b"x")
    assert driver.window.refused == before + 2
    assert driver.window.read(CONFIG, 1) == MAC[:1]  # an idle device drops it


def test_a_mac_address_has_six_bytes() -> None:
    with pytest.raises(VmthawValueError, match="6 bytes, not 5"):
        make_idle_net(MAC[:5])


def test_a_forked_child_finds_a_window_inert(driver: Driver) -> None:
    driver.bring_up()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            driver.window.write(STATUS, bytes(4))
            if driver.window.read(MAGIC, 4) == b"\xff" * 4:
                try:
                    _ = driver.window.status
                except ForkedError:
                    status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert driver.window.status == 15
