"""A guest's driver in front of a virtio window, and the places of its registers (virtio 1.2, table 4.1)."""

from __future__ import annotations

import struct

from vmthaw.devices import VirtioMmio, make_idle_net

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
