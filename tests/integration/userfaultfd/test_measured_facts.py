"""Facts that were measured on a running kernel and that the pager stands on."""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections.abc import Callable

import pytest

from tests.integration.userfaultfd.conftest import EVERYWHERE
from tests.integration.userfaultfd.memory import Background, Memory, libc, peek
from tests.integration.userfaultfd.peer import PeerProcess
from vmthaw.userfaultfd import (
    EVENT_FORK,
    EVENT_PAGEFAULT,
    EVENT_REMOVE,
    FAULT_WRITE,
    FAULT_WRITE_PROTECT,
    MODE_COPY_WRITE_PROTECT,
    PROTECT_CLEAR,
    REGISTER_MISSING,
    REGISTER_WRITE_PROTECT,
    Feature,
    FillStatus,
    Userfaultfd,
)

MakeMemory = Callable[..., Memory]
MakeUserfaultfd = Callable[..., Userfaultfd]
MakePeer = Callable[..., tuple[PeerProcess, Userfaultfd]]


def poll_events(userfaultfd: Userfaultfd) -> int:
    poller = select.poll()
    poller.register(userfaultfd, select.POLLIN)
    return sum(events for _fd, events in poller.poll(0))


def test_poll_says_error_on_a_blocking_descriptor(make_userfaultfd: MakeUserfaultfd) -> None:
    userfaultfd = make_userfaultfd()
    assert poll_events(userfaultfd) == 0
    userfaultfd.set_nonblocking(False)
    assert poll_events(userfaultfd) == select.POLLERR
    userfaultfd.set_nonblocking(True)
    assert poll_events(userfaultfd) == 0


def test_the_nonblocking_flag_is_shared_with_every_duplicate(make_userfaultfd: MakeUserfaultfd) -> None:
    userfaultfd = make_userfaultfd()
    with userfaultfd.try_clone() as clone:
        clone.set_nonblocking(False)
        assert os.get_blocking(userfaultfd.fileno())
        userfaultfd.set_nonblocking(True)
        assert not os.get_blocking(clone.fileno())


def pending_faults(userfaultfd: Userfaultfd) -> int:
    """Faults that nobody has read yet, as fdinfo counts them."""
    with open(f"/proc/self/fdinfo/{userfaultfd.fileno()}", encoding="ascii") as info:
        return next(int(line.split()[1]) for line in info if line.startswith("pending:"))


def test_a_batch_gives_a_page_fault_before_an_older_remove(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd, eventually: Callable[..., object]
) -> None:
    memory, userfaultfd = make_memory(kind, 2), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    remover = Background(memory.discard, 1)
    eventually(lambda: select.select([userfaultfd], [], [], 0)[0])
    toucher = Background(memory.peek, 0)
    eventually(lambda: pending_faults(userfaultfd) == 1)
    assert list(userfaultfd.read()["event"]) == [EVENT_PAGEFAULT, EVENT_REMOVE]
    remover.finish()
    eventually(lambda: userfaultfd.copy(memory.address, bytes(memory.page_size)).status is FillStatus.done)
    toucher.finish()


def test_two_threads_on_one_page_give_two_messages(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd, eventually: Callable[..., object]
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    touchers = [Background(memory.peek, 0), Background(memory.peek, 0)]
    eventually(lambda: pending_faults(userfaultfd) == 2)
    messages = userfaultfd.read()
    assert list(messages["address"]) == [memory.address] * 2
    userfaultfd.copy(memory.address, b"\x01" * memory.size)
    assert [toucher.finish() for toucher in touchers] == [b"\x01"] * 2


def test_a_page_filled_before_the_read_leaves_no_message(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd, eventually: Callable[..., object]
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    toucher = Background(memory.peek, 0)
    eventually(lambda: pending_faults(userfaultfd) == 1)
    userfaultfd.copy(memory.address, bytes(memory.size))
    toucher.finish()
    assert len(userfaultfd.read()) == 0


def test_a_bare_wake_brings_a_lost_message_back(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    toucher = Background(memory.peek, 0)
    assert len(userfaultfd.read(timeout=10)) == 1
    userfaultfd.wake(memory.address, memory.size)
    assert len(userfaultfd.read(timeout=10)) == 1
    userfaultfd.copy(memory.address, b"\x03" * memory.size)
    assert toucher.finish() == b"\x03"


@pytest.mark.parametrize("how", ["close", "unregister"])
def test_closing_or_unregistering_with_a_fault_in_flight_gives_zeros(
    kind: str, how: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    toucher = Background(memory.peek, 0)
    assert len(userfaultfd.read(timeout=10)) == 1
    if how == "close":
        userfaultfd.close()
    else:
        userfaultfd.unregister_range(memory.address, memory.size)
    assert toucher.finish() == b"\x00"


def test_a_duplicate_keeps_a_fault_waiting_when_the_original_closes(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    with userfaultfd.try_clone() as clone:
        toucher = Background(memory.peek, 0)
        assert len(userfaultfd.read(timeout=10)) == 1
        userfaultfd.close()
        clone.wake(memory.address, memory.size)
        assert len(clone.read(timeout=10)) == 1
        clone.copy(memory.address, b"\x04" * memory.size)
        assert toucher.finish() == b"\x04"


def test_fork_waits_until_its_event_is_read(kind: str, make_peer: MakePeer) -> None:
    # In another process: fork() holds the allocator's locks while it waits, so here nothing could allocate meanwhile.
    peer, userfaultfd = make_peer(kind, 1, REGISTER_MISSING, int(EVERYWHERE | Feature.event_fork))
    peer.send("fork")
    message = userfaultfd.read(timeout=10)[0]
    assert message["event"] == EVENT_FORK
    with Userfaultfd.adopt(int(message["ufd"])) as child:
        assert child.features == userfaultfd.features
        assert peer.answer() == 0


def test_with_user_mode_only_a_system_call_gets_efault(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd(user_mode_only=True)
    userfaultfd.register_range(memory.address, memory.size)
    reader, writer = os.pipe()
    try:
        written = ctypes.CDLL(None, use_errno=True).write(writer, ctypes.c_void_p(memory.address), 1)
        assert (written, ctypes.get_errno()) == (-1, 14)
    finally:
        os.close(reader)
        os.close(writer)
    assert len(userfaultfd.read()) == 0


def test_the_faulting_thread_is_named(kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd(EVERYWHERE | Feature.thread_id)
    userfaultfd.register_range(memory.address, memory.size)
    toucher = Background(memory.peek, 0)
    (message,) = userfaultfd.read(timeout=10)
    assert message["tid"] == toucher.native_id != threading.get_native_id()
    userfaultfd.copy(memory.address, bytes(memory.size))
    toucher.finish()


@pytest.mark.parametrize(("feature", "offset"), [(Feature(0), 0), (Feature.exact_address, 123)])
def test_the_address_is_exact_only_with_the_feature(
    kind: str, feature: Feature, offset: int, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd(EVERYWHERE | feature)
    userfaultfd.register_range(memory.address, memory.size)
    toucher = Background(peek, memory.address + 123)
    (message,) = userfaultfd.read(timeout=10)
    assert message["address"] == memory.address + offset
    userfaultfd.copy(memory.address, bytes(memory.size))
    toucher.finish()


def test_zeros_with_protection_are_one_copy_and_lose_no_write(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size, REGISTER_MISSING | REGISTER_WRITE_PROTECT)
    zeros = bytes(memory.size)
    assert userfaultfd.copy(memory.address, zeros, mode=MODE_COPY_WRITE_PROTECT).status is FillStatus.done
    writer = Background(memory.poke, 0, 8)
    (message,) = userfaultfd.read(timeout=10)
    assert message["flags"] == FAULT_WRITE | FAULT_WRITE_PROTECT
    assert memory.peek(0) == b"\x00"
    userfaultfd.write_protect(memory.address, memory.size, PROTECT_CLEAR)
    writer.finish()
    assert memory.peek(0) == b"\x08"


@pytest.mark.parametrize("kind", ["shared_memory"], indirect=True)
def test_punching_a_hole_sends_no_event(kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd) -> None:
    memory, userfaultfd = make_memory(kind, 2), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    userfaultfd.copy(memory.address, b"\x01" * memory.size)
    keep_size_punch_hole = 1 | 2
    assert libc.fallocate(memory.fd, keep_size_punch_hole, ctypes.c_long(0), ctypes.c_long(memory.page_size)) == 0
    assert len(userfaultfd.read()) == 0
    assert userfaultfd.zero(memory.address, memory.page_size).status is FillStatus.done


@pytest.mark.parametrize("kind", ["anonymous", "private_memfd", "hugetlb"], indirect=True)
def test_a_removed_page_is_missing_again(kind: str, make_peer: MakePeer) -> None:
    peer, userfaultfd = make_peer(kind, 2, REGISTER_MISSING, int(EVERYWHERE))
    assert userfaultfd.copy(peer.address, b"\x01" * 2 * peer.page_size).status is FillStatus.done
    peer.send("discard", 0)
    assert userfaultfd.read(timeout=10)[0]["event"] == EVENT_REMOVE
    assert peer.answer() is None
    peer.send("peek", 0)
    assert userfaultfd.read(timeout=10)[0]["address"] == peer.address
    assert userfaultfd.copy(peer.address, bytes(peer.page_size)).status is FillStatus.done
    assert peer.answer() == 0
