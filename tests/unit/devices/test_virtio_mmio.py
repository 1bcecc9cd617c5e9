"""The register window of a virtio device: identity, negotiation, status, queues, interrupts, refusals, reset."""

from __future__ import annotations

import os
import struct

import pytest

from vmthaw.devices import VirtioMmio, make_idle_block, make_idle_console, make_idle_net
from vmthaw.errors import ForkedError, VmthawValueError

MAGIC, VERSION, DEVICE_ID, VENDOR_ID, DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x0, 0x4, 0x8, 0xC, 0x10, 0x14
DRIVER_FEATURES, DRIVER_FEATURES_SEL, QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM = 0x20, 0x24, 0x30, 0x34, 0x38
QUEUE_READY, QUEUE_NOTIFY, INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x44, 0x50, 0x60, 0x64, 0x70
DESC, DRIVER_RING, DEVICE_RING, GENERATION, CONFIG = 0x80, 0x90, 0xA0, 0xFC, 0x100
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 0x40, 0x80
VERSION_1, HAS_MAC = 1 << 32, 1 << 5
MAC = b"\x02\x00\x00\xaa\xbb\xcc"


class Driver:
    """A guest's driver in front of a window."""

    def __init__(self, window: VirtioMmio | None = None) -> None:
        self.levels: list[bool] = []
        self.window = window or VirtioMmio(make_idle_net(MAC), self.levels.append)

    def get(self, offset: int) -> int:
        return int.from_bytes(self.window.read(offset, 4), "little")

    def put(self, offset: int, value: int) -> int:
        """The number of refusals that the write cost."""
        before = self.window.refused
        self.window.write(offset, struct.pack("<I", value))
        return self.window.refused - before

    def status(self, *values: int) -> int:
        for value in values:
            self.put(STATUS, value)
        return self.get(STATUS)

    def features(self, wanted: int) -> None:
        for page in (0, 1):
            self.put(DRIVER_FEATURES_SEL, page)
            self.put(DRIVER_FEATURES, wanted >> (32 * page) & 0xFFFFFFFF)

    def negotiate(self, wanted: int = VERSION_1) -> int:
        self.status(1, 3)
        self.features(wanted)
        return self.status(11)

    def queue(self, index: int, size: int, desc: int, driver: int, device: int) -> None:
        self.put(QUEUE_SEL, index)
        self.put(QUEUE_NUM, size)
        for register, address in ((DESC, desc), (DRIVER_RING, driver), (DEVICE_RING, device)):
            self.put(register, address & 0xFFFFFFFF)
            self.put(register + 4, address >> 32)

    def bring_up(self) -> None:
        assert self.negotiate() == 11
        self.queue(0, 256, 0x1_0000_1000, 0x1_0000_2002, 0x1_0000_3004)
        assert self.put(QUEUE_READY, 1) == 0
        assert self.status(15) == 15


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


# --- queues


def test_a_queue_is_set_up_and_made_ready(driver: Driver) -> None:
    driver.bring_up()
    first, second = driver.window.queues
    assert (first.size, first.ready) == (256, True)
    assert first.descriptor_address == 0x1_0000_1000
    assert (first.driver_address, first.device_address) == (0x1_0000_2002, 0x1_0000_3004)
    assert (second.size, second.ready) == (0, False)
    driver.put(QUEUE_SEL, 0)
    assert driver.get(QUEUE_READY) == 1
    driver.put(QUEUE_SEL, 1)
    assert driver.get(QUEUE_READY) == 0


@pytest.mark.parametrize("size", [0, 3, 255, 257, 512, 0x10000, 0x80000000])
def test_a_queue_has_a_power_of_two_up_to_256_entries(driver: Driver, size: int) -> None:
    driver.negotiate()
    assert driver.put(QUEUE_NUM, size) == 1
    assert driver.window.queues[0].size == 0


@pytest.mark.parametrize("size", [1 << n for n in range(9)])
def test_every_power_of_two_up_to_256_is_a_size(driver: Driver, size: int) -> None:
    driver.negotiate()
    driver.queue(0, size, 0x1000, 0x2000, 0x3000)
    assert driver.put(QUEUE_READY, 1) == 0


@pytest.mark.parametrize(
    ("size", "desc", "driver_ring", "device_ring"),
    [
        (3, 0x1000, 0x2000, 0x3000),
        (16, 0x1008, 0x2000, 0x3000),
        (16, 0x1000, 0x2001, 0x3000),
        (16, 0x1000, 0x2000, 0x3002),
        (256, (1 << 64) - 4096 + 16, 0x2000, 0x3000),
        (256, 0x1000, (1 << 64) - 516, 0x3000),
        (256, 0x1000, 0x2000, (1 << 64) - 2052),
    ],
)
def test_a_queue_that_cannot_be_right_is_not_ready(
    driver: Driver, size: int, desc: int, driver_ring: int, device_ring: int
) -> None:
    driver.negotiate()
    driver.queue(0, size, desc, driver_ring, device_ring)
    assert driver.put(QUEUE_READY, 1) == 1
    assert driver.get(QUEUE_READY) == 0


def test_only_1_makes_a_queue_ready(driver: Driver) -> None:
    driver.negotiate()
    driver.queue(0, 16, 0x1000, 0x2000, 0x3000)
    assert driver.put(QUEUE_READY, 2) == 1
    assert driver.get(QUEUE_READY) == 0


def test_a_ready_queue_keeps_its_places(driver: Driver) -> None:
    driver.negotiate()
    driver.queue(0, 16, 0x1000, 0x2000, 0x3000)
    driver.put(QUEUE_READY, 1)
    for register in (QUEUE_NUM, DESC, DESC + 4, DRIVER_RING, DRIVER_RING + 4, DEVICE_RING, DEVICE_RING + 4):
        assert driver.put(register, 0x20) == 1
    queue = driver.window.queues[0]
    assert (queue.size, queue.descriptor_address) == (16, 0x1000)
    assert driver.put(QUEUE_READY, 0) == 0
    assert driver.put(QUEUE_NUM, 32) == 0


def test_queues_are_set_up_between_features_ok_and_driver_ok(driver: Driver) -> None:
    for status in ((), (1,), (3,)):
        driver.status(*status)
        assert driver.put(QUEUE_NUM, 16) == 1
        assert driver.put(DESC, 0x1000) == 1
    driver.status(0)
    driver.bring_up()
    driver.put(QUEUE_SEL, 1)
    assert driver.put(QUEUE_NUM, 16) == 1
    driver.put(QUEUE_SEL, 0)
    assert driver.put(QUEUE_READY, 0) == 0  # taking one away is allowed
    assert driver.put(QUEUE_READY, 1) == 1


@pytest.mark.parametrize("index", [2, 15, 16, 0xFFFF, 0xFFFFFFFF])
def test_a_queue_that_is_not_there_is_nowhere(driver: Driver, index: int) -> None:
    driver.negotiate()
    driver.put(QUEUE_SEL, index)
    assert (driver.get(QUEUE_NUM_MAX), driver.get(QUEUE_READY)) == (0, 0)
    assert driver.put(QUEUE_NUM, 16) == 1
    driver.put(QUEUE_SEL, 0)
    driver.queue(0, 16, 0x1000, 0x2000, 0x3000)
    driver.put(QUEUE_READY, 1)
    driver.status(15)
    assert driver.put(QUEUE_NOTIFY, index) == 1
    assert driver.put(QUEUE_NOTIFY, 0) == 0


def test_nobody_is_notified_before_driver_ok(driver: Driver) -> None:
    driver.negotiate()
    driver.queue(0, 16, 0x1000, 0x2000, 0x3000)
    driver.put(QUEUE_READY, 1)
    assert driver.put(QUEUE_NOTIFY, 0) == 1


@pytest.mark.parametrize("offset", [MAGIC, VERSION, DEVICE_ID, DEVICE_FEATURES, QUEUE_NUM_MAX, 0x18, 0xC0, 0xFC, 0x71])
def test_registers_that_cannot_be_written_are_not(driver: Driver, offset: int) -> None:
    driver.negotiate()
    before = driver.get(offset)
    assert driver.put(offset, 1) == 1
    assert driver.get(offset) == before


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
