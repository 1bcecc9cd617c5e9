"""Devices, interrupts and virtio back ends that are written in Python: called for their own alone, never swallowed."""

from __future__ import annotations

import gc
import struct
import threading
import weakref
from collections.abc import Callable

import pytest

from tests.unit.vcpu.made import DATA_OFFSET, STRICT, X86, io_in, io_out, mmio_read, mmio_write
from vmthaw.devices import Buses, Serial, VirtioMmio, VirtioQueue
from vmthaw.errors import VmthawValueError
from vmthaw.vcpu import Dispatcher, decode_exit


class Failing:
    def read(self, offset: int, size: int) -> bytes:
        raise KeyError(f"{offset} {size}")

    def write(self, offset: int, data: bytes) -> None:
        raise OSError(5, f"{offset} {data!r}")


class Answering:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def read(self, offset: int, size: int) -> bytes:
        return self.answer  # type: ignore[return-value]

    def write(self, offset: int, data: bytes) -> None:
        self.written = data


def dispatcher(device: object) -> Dispatcher:
    buses = Buses(X86)
    buses.ports.add(0x100, 8, device, "device")  # type: ignore[arg-type]
    return Dispatcher(STRICT, buses)


def handle(target: Dispatcher, mapping: bytes) -> bytearray:
    run = bytearray(mapping)
    target.handle(decode_exit(X86, 0, 0, mapping), run)
    return run


def test_what_a_device_raises_comes_out_of_handle() -> None:
    target = dispatcher(Failing())
    with pytest.raises(KeyError, match="3 2"):
        handle(target, io_in(0x103, 2))
    with pytest.raises(OSError, match=r"4 b'x'") as caught:
        handle(target, io_out(0x104, b"x"))
    assert caught.value.errno == 5
    assert handle(target, io_in(0x200))[DATA_OFFSET] == 0xFF  # nothing is left behind


def test_the_rest_of_a_string_is_not_served_after_a_failure() -> None:
    calls = []

    class Once:
        def read(self, offset: int, size: int) -> bytes:
            raise AssertionError

        def write(self, offset: int, data: bytes) -> None:
            calls.append(data)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        handle(dispatcher(Once()), io_out(0x100, b"abc"))
    assert calls == [b"a"]


@pytest.mark.parametrize("answer", [b"", b"abc", 7, None, "xy"])
def test_an_answer_of_another_kind_or_length_is_refused(answer: object) -> None:
    with pytest.raises((VmthawValueError, TypeError)) as caught:
        handle(dispatcher(Answering(answer)), io_in(0x100, 2))
    if isinstance(answer, bytes):
        assert f"read(0x0, 2) of Answering gave {len(answer)} bytes" in str(caught.value)


@pytest.mark.parametrize("answer", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_anything_with_a_buffer_is_an_answer(answer: object) -> None:
    assert handle(dispatcher(Answering(answer)), io_in(0x100, 2))[DATA_OFFSET : DATA_OFFSET + 2] == b"ab"


def test_python_is_called_only_for_its_own_window() -> None:
    buses = Buses(X86)
    buses.ports.add(0x100, 1, Failing(), "python")
    buses.add_standard(com1=Serial())
    target = Dispatcher(STRICT, buses)
    for port in (0xFF, 0x101, 0x3F8, 0x3FD):
        handle(target, io_in(port))
        handle(target, io_out(port, b"x"))


def test_something_without_the_methods_is_no_device() -> None:
    bus = Buses(X86).ports
    with pytest.raises(VmthawValueError, match="int is no device: it has no method read"):
        bus.add(0, 1, 7, "seven")  # type: ignore[arg-type]

    class ReadOnly:
        read = write = 3

    with pytest.raises(VmthawValueError, match="no method read"):
        bus.add(0, 1, ReadOnly(), "numbers")  # type: ignore[arg-type]
    assert bus.windows == []


def test_buses_keep_a_device_and_let_it_go() -> None:
    device = Answering(b"a")
    gone = weakref.ref(device)
    target = dispatcher(device)
    del device
    gc.collect()
    assert handle(target, io_in(0x100))[DATA_OFFSET] == ord("a")
    del target
    gc.collect()
    assert gone() is None


def test_several_threads_may_handle_exits_of_one_python_device() -> None:
    seen = []

    class Counting:
        def read(self, offset: int, size: int) -> bytes:
            return bytes(size)

        def write(self, offset: int, data: bytes) -> None:
            seen.append(data)

    target = dispatcher(Counting())
    threads = [
        threading.Thread(target=lambda n=n: [handle(target, io_out(0x100, bytes([n]))) for _ in range(200)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == sorted(bytes([n]) for n in range(4) for _ in range(200))


# --- interrupts


def test_an_interrupt_that_raises_comes_out_of_whatever_changed_the_level() -> None:
    def line(level: bool) -> None:
        raise LookupError(f"level {level}")

    port = Serial(interrupt=line)
    port.write(1, b"\x01")  # received data
    with pytest.raises(LookupError, match="level True"):
        port.receive(b"a")
    with pytest.raises(LookupError, match="level False"):
        port.read(0, 1)


# --- back ends


class Backend:
    """Notes what the window tells it."""

    device_id, features, queue_count = 18, 1 << 40, 2

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def read_config(self, offset: int, size: int) -> bytes:
        return bytes((offset + i) & 0xFF for i in range(size))

    def write_config(self, offset: int, data: bytes) -> None:
        self.seen.append(("config", offset, data))

    def activate(self, features: int, queues: list[VirtioQueue]) -> None:
        self.seen.append(("activate", features, [(queue.size, queue.ready) for queue in queues]))

    def reset(self) -> None:
        self.seen.append(("reset",))

    def notify(self, queue: int) -> None:
        self.seen.append(("notify", queue))


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def bring_up(window: VirtioMmio, features: int) -> None:
    for status in (1, 3):
        window.write(0x70, word(status))
    for page in (0, 1):
        window.write(0x24, word(page))
        window.write(0x20, word(features >> (32 * page) & 0xFFFFFFFF))
    window.write(0x70, word(11))
    window.write(0x30, word(1))
    for register, value in ((0x38, 16), (0x80, 0x1000), (0x90, 0x2000), (0xA0, 0x3000), (0x44, 1)):
        window.write(register, word(value))
    window.write(0x70, word(15))


def test_a_python_back_end_hears_of_everything() -> None:
    backend = Backend()
    window = VirtioMmio(backend)
    assert (window.read(8, 4), window.read(0x103, 2)) == (word(18), b"\x03\x04")
    bring_up(window, 1 << 40 | 1 << 32)
    window.write(0x108, b"ab")
    window.write(0x50, word(1))
    window.write(0x50, word(0))  # not ready
    window.write(0x70, word(0))
    assert backend.seen == [
        ("activate", 1 << 40 | 1 << 32, [(0, False), (16, True)]),
        ("config", 8, b"ab"),
        ("notify", 1),
        ("reset",),
    ]
    assert window.refused == 1


def test_a_back_end_needs_only_its_identity_and_configuration() -> None:
    class Small:
        device_id, features, queue_count = 4, 0, 2

        def read_config(self, offset: int, size: int) -> bytes:
            return bytes(size)

    window = VirtioMmio(Small())
    bring_up(window, 1 << 32)
    window.write(0x108, b"ab")
    window.write(0x50, word(1))
    window.write(0x70, word(0))
    assert (window.status, window.refused) == (0, 0)


@pytest.mark.parametrize("method", ["read_config", "write_config", "activate", "reset", "notify"])
def test_what_a_back_end_raises_comes_out(method: str) -> None:
    class Broken(Backend):
        pass

    def fail(*_: object) -> None:
        raise ZeroDivisionError(method)

    setattr(Broken, method, fail)
    window = VirtioMmio(Broken())
    steps: list[Callable[[], object]] = [
        lambda: window.read(0x100, 1),
        lambda: bring_up(window, 1 << 32),
        lambda: window.write(0x100, b"x"),
        lambda: window.write(0x50, word(1)),
        lambda: window.write(0x70, word(0)),
    ]
    raised = []
    for step in steps:
        try:
            step()
        except ZeroDivisionError as error:
            raised.append(str(error))
    assert raised == [method]


def test_what_a_back_end_raises_comes_out_of_handle_too() -> None:
    class Broken(Backend):
        def read_config(self, offset: int, size: int) -> bytes:
            raise ZeroDivisionError

    buses = Buses(X86)
    buses.add_standard(console=VirtioMmio(Broken()))
    target = Dispatcher(STRICT, buses)
    handle(target, mmio_write(0xC0000070, word(1)))
    with pytest.raises(ZeroDivisionError):
        handle(target, mmio_read(0xC0000100, 1))


@pytest.mark.parametrize("missing", ["device_id", "features", "queue_count", "read_config"])
def test_a_back_end_that_lacks_something_is_named(missing: str) -> None:
    members = {"device_id": 1, "features": 0, "queue_count": 1, "read_config": lambda self, offset, size: b""}
    del members[missing]
    with pytest.raises(VmthawValueError, match=missing):
        VirtioMmio(type("Half", (), members)())


def test_a_back_end_of_too_many_queues_is_refused() -> None:
    class Greedy(Backend):
        queue_count = 17

    with pytest.raises(VmthawValueError, match="17 queues; 16 is the most"):
        VirtioMmio(Greedy())
