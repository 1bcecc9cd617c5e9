"""The queues of a virtio window: where a driver may put them, and when."""

from __future__ import annotations

import pytest

from tests.unit.devices.virtio_driver import (
    DESC,
    DEVICE_FEATURES,
    DEVICE_ID,
    DEVICE_RING,
    DRIVER_RING,
    MAGIC,
    QUEUE_NOTIFY,
    QUEUE_NUM,
    QUEUE_NUM_MAX,
    QUEUE_READY,
    QUEUE_SEL,
    VERSION,
    Driver,
)


@pytest.fixture
def driver() -> Driver:
    return Driver()


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
