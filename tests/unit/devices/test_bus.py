"""Buses: windows that never overlap, at the standard addresses of either architecture."""

from __future__ import annotations

import pytest

from tests.unit.vcpu.made import ARM, X86
from vmthaw.devices import I8042, Bus, Buses, Serial, VirtioMmio, make_idle_console
from vmthaw.errors import VmthawValueError


def ports() -> Bus:
    bus = Buses(X86).ports
    bus.add(0x100, 0x10, Serial(), "first")
    return bus


def test_the_standard_devices_of_x86_lie_where_guests_look_for_them() -> None:
    buses = Buses(X86)
    window = VirtioMmio(make_idle_console())
    buses.add_standard(com1=Serial(), com2=Serial(), keyboard=I8042(), console=window, block=window, net=window)
    assert buses.ports.windows == [
        (0x60, 1, "i8042 data"),
        (0x64, 1, "i8042 command"),
        (0x2F8, 8, "com2"),
        (0x3F8, 8, "com1"),
    ]
    assert buses.mmio.windows == [
        (0xC0000000, 0x1000, "console"),
        (0xC0001000, 0x1000, "block"),
        (0xC0002000, 0x1000, "net"),
    ]


def test_the_standard_devices_of_aarch64_are_all_mmio() -> None:
    buses = Buses(ARM)
    window = VirtioMmio(make_idle_console())
    buses.add_standard(com1=Serial(), com2=Serial(), console=window, block=window, net=window)
    assert buses.ports.windows == []
    assert buses.mmio.windows == [
        (0x09000000 + 0x1000 * number, 0x1000, name)
        for number, name in enumerate(("com1", "com2", "console", "block", "net"))
    ]
    with pytest.raises(VmthawValueError, match="no i8042"):
        Buses(ARM).add_standard(keyboard=I8042())


def test_what_is_left_out_has_no_window() -> None:
    buses = Buses(X86)
    buses.add_standard(com2=Serial())
    assert (buses.ports.windows, buses.mmio.windows) == ([(0x2F8, 8, "com2")], [])


@pytest.mark.parametrize(
    ("first", "size"), [(0x100, 0x10), (0xFF, 2), (0x10F, 1), (0x10F, 0x100), (0, 0x10000), (0x105, 1)]
)
def test_windows_never_overlap(first: int, size: int) -> None:
    bus = ports()
    with pytest.raises(VmthawValueError, match=r'"second" .* overlaps "first" \(0x100 to 0x10f\) on the port bus'):
        bus.add(first, size, Serial(), "second")
    assert bus.windows == [(0x100, 0x10, "first")]


@pytest.mark.parametrize("first", [0xFF, 0x110])
def test_windows_may_touch(first: int) -> None:
    bus = ports()
    bus.add(first, 1, Serial(), "second")
    assert len(bus.windows) == 2


@pytest.mark.parametrize(
    ("first", "size", "complaint"),
    [
        (0, 0, "is empty"),
        (0x10000, 1, "ends behind 0xffff"),
        (0xFFFF, 2, "ends behind 0xffff"),
        (1, 0xFFFFFFFFFFFFFFFF, "ends behind 0xffff"),
        (0xFFFFFFFFFFFFFFFF, 1, "ends behind 0xffff"),
    ],
)
def test_a_window_must_lie_on_the_bus(first: int, size: int, complaint: str) -> None:
    with pytest.raises(VmthawValueError, match=complaint):
        Buses(X86).ports.add(first, size, Serial(), "odd")


def test_the_last_address_of_either_bus_can_be_used() -> None:
    buses = Buses(X86)
    buses.ports.add(0xFFFF, 1, Serial(), "last port")
    buses.mmio.add((1 << 52) - 4, 4, Serial(), "last word")
    with pytest.raises(VmthawValueError, match="ends behind 0xfffffffffffff, the last address of the MMIO bus"):
        buses.mmio.add(1 << 52, 4, Serial(), "beyond")
    with pytest.raises(VmthawValueError, match="device_offset"):
        buses.mmio.add(0, 4, Serial(), "wrapping", device_offset=(1 << 64) - 2)
    assert (buses.ports.name, buses.mmio.name) == ("port", "MMIO")


def test_a_bus_lives_as_long_as_somebody_holds_it() -> None:
    bus = Buses(X86).ports
    bus.add(1, 1, Serial(), "one")
    assert bus.windows == [(1, 1, "one")]
