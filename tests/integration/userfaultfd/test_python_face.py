"""What is Python's own about the wrapper: arrays, buffers, the GIL, closing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.integration.userfaultfd.memory import Background, Memory
from vmthaw.errors import StateError
from vmthaw.userfaultfd import (
    EVENT_PAGEFAULT,
    MESSAGE_SIZE_BYTES,
    Feature,
    FillStatus,
    Userfaultfd,
    UserfaultfdFactory,
    message_dtype,
    register_regions,
)

MakeMemory = Callable[..., Memory]
MakeUserfaultfd = Callable[..., Userfaultfd]


def test_messages_are_records_with_named_fields(make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd) -> None:
    memory, userfaultfd = make_memory("anonymous", 2), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    touchers = [Background(memory.peek, index) for index in range(2)]
    first = userfaultfd.read(1, timeout=10)
    assert len(first) == 1, "no more than was asked for"
    second = userfaultfd.read(timeout=10)
    for messages in first, second:
        assert messages.dtype == message_dtype()
        assert messages.dtype.itemsize == MESSAGE_SIZE_BYTES == 32
        assert messages["event"][0] == EVENT_PAGEFAULT
    assert sorted([*first["address"], *second["address"]]) == [memory.page(0), memory.page(1)]
    userfaultfd.zero(memory.address, memory.size)
    for toucher in touchers:
        toucher.finish()


def test_fields_lie_where_the_kernel_puts_them() -> None:
    raw = bytes([0x14] + [0] * 7) + b"".join(n.to_bytes(8, "little") for n in (1, 2, 3))
    (message,) = np.frombuffer(raw, dtype=message_dtype())
    assert [int(message[name]) for name in ("event", "from", "to", "len")] == [0x14, 1, 2, 3]
    assert [int(message[name]) for name in ("start", "end", "flags", "address", "tid", "ufd")] == [1, 2, 1, 2, 3, 1]


def test_reading_nothing_gives_an_empty_array_after_the_time_out(make_userfaultfd: MakeUserfaultfd) -> None:
    userfaultfd = make_userfaultfd()
    start = time.monotonic()
    assert len(userfaultfd.read(timeout=0.05)) == 0
    assert 0.04 < time.monotonic() - start < 5
    for max_messages, timeout in (0, 0.0), (1 << 20, 0.0), (1, -1.0), (1, float("nan")):
        with pytest.raises(ValueError, match="read"):
            userfaultfd.read(max_messages, timeout)


@pytest.mark.parametrize("nonblocking", [True, False])
def test_ctrl_c_ends_a_read_that_waits_for_ever(nonblocking: bool, make_userfaultfd: MakeUserfaultfd) -> None:
    userfaultfd = make_userfaultfd()
    userfaultfd.set_nonblocking(nonblocking)
    main = threading.main_thread().ident
    assert main is not None
    stopped = threading.Event()

    def interrupt_until_it_works() -> None:
        while not stopped.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt_until_it_works)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            userfaultfd.read(timeout=None)
    finally:
        stopped.set()
        interrupter.join()


def test_a_waiting_read_holds_no_gil(make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd) -> None:
    memory, userfaultfd = make_memory("anonymous", 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    reader = Background(userfaultfd.read, 1, 10.0)
    toucher = Background(memory.peek, 0)  # this thread goes on while both of those wait
    assert len(reader.finish()) == 1  # type: ignore[arg-type]
    userfaultfd.zero(memory.address, memory.size)
    toucher.finish()


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, np.frombuffer])
def test_copy_takes_whatever_is_bytes_like(
    make: Callable[[bytes], object], make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory("anonymous", 2), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    source = make(b"\x0b" * memory.size)
    outcome = userfaultfd.copy(memory.address, source, memory.page_size)  # type: ignore[arg-type]
    assert (outcome.status, outcome.done_bytes) == (FillStatus.done, memory.page_size)
    assert memory.peek(0, 3) == b"\x0b" * 3


def test_copy_takes_an_address_and_checks_what_it_is_given(
    make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, source, userfaultfd = make_memory("anonymous", 1), make_memory("anonymous", 1), make_userfaultfd()
    source.poke(0, 0x0C)
    userfaultfd.register_range(memory.address, memory.size)
    with pytest.raises(ValueError, match="needs size="):
        userfaultfd.copy(memory.address, source.address)
    with pytest.raises(ValueError, match="from a buffer of 10"):
        userfaultfd.copy(memory.address, bytes(10), 11)
    with pytest.raises(TypeError):
        userfaultfd.copy(memory.address, "text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        userfaultfd.copy(memory.address, memoryview(bytes(16))[::2])
    assert userfaultfd.copy(memory.address, source.address, source.size).status is FillStatus.done
    assert memory.peek(0) == b"\x0c"


def test_outcomes_compare_and_show_what_they_are(make_userfaultfd: MakeUserfaultfd) -> None:
    userfaultfd = make_userfaultfd()
    outcome = userfaultfd.zero(1 << 24, 4096)
    assert repr(outcome) == "FillOutcome(FillStatus.unmapped, errno_value=2, done_bytes=0)"
    assert outcome == userfaultfd.zero(1 << 24, 4096)
    assert outcome != userfaultfd.zero(1, 4096)
    assert outcome != "FillOutcome"


def test_a_closed_descriptor_says_so_everywhere() -> None:
    userfaultfd = UserfaultfdFactory().create()
    with userfaultfd as entered:
        assert entered is userfaultfd
    userfaultfd.close()
    calls: list[Callable[[], object]] = [
        userfaultfd.fileno,
        userfaultfd.read,
        userfaultfd.try_clone,
        userfaultfd.detach,
        lambda: userfaultfd.features,
        lambda: userfaultfd.copy(4096, b""),
        lambda: userfaultfd.zero(4096, 4096),
        lambda: userfaultfd.wake(4096, 4096),
        lambda: userfaultfd.register_range(4096, 4096),
        lambda: register_regions([(userfaultfd, [])]),
    ]
    for call in calls:
        with pytest.raises(StateError, match="Userfaultfd is closed"):
            call()


def test_closing_waits_for_nobody_and_breaks_no_call_under_way(make_memory: MakeMemory) -> None:
    memory = make_memory("anonymous", 1)
    userfaultfd = UserfaultfdFactory().create()
    userfaultfd.register_range(memory.address, memory.size)
    reader = Background(userfaultfd.read, 1, 0.2)
    userfaultfd.close()
    assert len(reader.finish()) == 0  # type: ignore[arg-type]


def test_detach_gives_the_descriptor_away() -> None:
    original = UserfaultfdFactory(required=Feature.thread_id).create()
    fd = original.detach()
    assert original.closed
    with Userfaultfd.adopt(fd) as adopted:
        assert adopted.fileno() == fd
        assert adopted.features == Feature.thread_id
