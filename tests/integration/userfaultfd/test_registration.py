"""Registering many ranges of many processes at once, and telling the living from the dead."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable

import pytest

from tests.integration.userfaultfd.conftest import EVERYWHERE
from tests.integration.userfaultfd.memory import Memory
from tests.integration.userfaultfd.peer import PeerProcess
from vmthaw.userfaultfd import (
    RANGE_COPY,
    RANGE_WRITE_PROTECT,
    RANGE_ZEROPAGE,
    REGISTER_MISSING,
    REGISTER_WRITE_PROTECT,
    FillStatus,
    Liveness,
    LivenessChecker,
    Userfaultfd,
    page_is_present,
    register_regions,
    unregister_regions,
)

MakeMemory = Callable[..., Memory]
MakeUserfaultfd = Callable[..., Userfaultfd]
MakePeer = Callable[..., tuple[PeerProcess, Userfaultfd]]


def is_registered(userfaultfd: Userfaultfd, memory: Memory) -> bool:
    """A fill goes into registered memory only."""
    return userfaultfd.copy(memory.address, bytes(memory.size)).status is not FillStatus.unmapped


def test_many_ranges_are_registered_and_unregistered(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memories = [make_memory(kind, 1) for _ in range(6)]
    descriptors = [make_userfaultfd(), make_userfaultfd()]
    regions = [
        (descriptors[0], [(memory.address, memory.size) for memory in memories[:3]]),
        (descriptors[1], [(memory.address, memory.size) for memory in memories[3:]]),
    ]
    outcome = register_regions(regions, REGISTER_MISSING | REGISTER_WRITE_PROTECT)
    assert outcome.skipped == []
    assert outcome.ioctls & (RANGE_COPY | RANGE_WRITE_PROTECT) == RANGE_COPY | RANGE_WRITE_PROTECT
    assert bool(outcome.ioctls & RANGE_ZEROPAGE) == ("hugetlb" not in kind)
    unregister_regions(regions)
    assert [is_registered(descriptors[0], memory) for memory in memories] == [False] * 6


def test_a_failure_rolls_everything_back(kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd) -> None:
    memories = [make_memory(kind, 1) for _ in range(3)]
    first, second, stranger = make_userfaultfd(), make_userfaultfd(), make_userfaultfd()
    stranger.register_range(memories[2].address, memories[2].size)
    spans = [(memory.address, memory.size) for memory in memories]
    with pytest.raises(OSError, match="UFFDIO_REGISTER") as caught:
        register_regions([(first, spans[:1]), (second, spans[1:])])
    assert caught.value.errno == errno.EBUSY
    assert caught.value.address == memories[2].address  # type: ignore[attr-defined]
    assert [is_registered(first, memory) for memory in memories[:2]] == [False, False]
    assert is_registered(stranger, memories[2]), "what belongs to somebody else stays registered"


@pytest.mark.parametrize("how", ["exit", "exec"])
def test_processes_that_are_gone_are_skipped_and_named(
    how: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd, make_peer: MakePeer
) -> None:
    peer, gone = make_peer("anonymous", 2)
    memory, alive = make_memory("anonymous", 2), make_userfaultfd()
    peer.end(how)
    regions = [(gone, [(peer.address, peer.size)] * 2), (alive, [(memory.address, memory.size)])]
    assert register_regions(regions).skipped == [0]
    assert is_registered(alive, memory)
    assert unregister_regions(regions).skipped == [0]
    assert not is_registered(alive, memory)


def test_unregistering_does_what_it_can_before_it_raises(
    make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory("anonymous", 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    with pytest.raises(OSError, match="UFFDIO_UNREGISTER") as caught:
        unregister_regions([(userfaultfd, [(1, 1), (memory.address, memory.size)])])
    assert caught.value.errno == errno.EINVAL
    assert not is_registered(userfaultfd, memory)


@pytest.mark.parametrize("how", ["exit", "kill", "exec"])
def test_a_stranger_is_alive_until_it_exits_or_execs(kind: str, how: str, make_peer: MakePeer) -> None:
    peer, userfaultfd = make_peer(kind, 1, REGISTER_MISSING, int(EVERYWHERE))
    checker = LivenessChecker.for_adopted()
    assert checker.check(userfaultfd) is Liveness.alive
    assert page_is_present(peer.process.pid, peer.address) is False, "no page of the stranger may be touched"
    peer.end(how)
    assert checker.check(userfaultfd) is Liveness.dead


def test_a_process_that_waits_for_its_event_is_alive(make_peer: MakePeer, eventually: Callable[..., object]) -> None:
    peer, userfaultfd = make_peer("anonymous", 1, REGISTER_MISSING, int(EVERYWHERE))
    peer.send("discard", 0)
    eventually(lambda: userfaultfd.copy(peer.address, bytes(peer.size)).status is FillStatus.again)
    assert LivenessChecker.for_adopted().check(userfaultfd) is Liveness.alive


def test_children_inherit_the_dummy_page_of_a_checker(make_userfaultfd: MakeUserfaultfd) -> None:
    import socket

    checker = LivenessChecker()
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about pytest's own threads
        pid = os.fork()
    if pid == 0:
        try:
            child = make_userfaultfd()
            socket.send_fds(theirs, [b"x"], [child.fileno()])
            theirs.recv(1)
        finally:
            os._exit(0)
    with ours, theirs:
        _data, descriptors, _flags, _address = socket.recv_fds(ours, 1, 1)
        with Userfaultfd.adopt(descriptors[0]) as userfaultfd:
            checker.register_page(userfaultfd)
            assert [checker.check(userfaultfd) for _ in range(3)] == [Liveness.alive] * 3
            assert page_is_present(os.getpid(), checker.address) is False, "the child's dummy page, not ours"
            ours.send(b"x")
            os.waitpid(pid, 0)
            assert checker.check(userfaultfd) is Liveness.dead


def test_a_checker_refuses_an_address_of_no_page() -> None:
    for address in 0, 4097:
        with pytest.raises(ValueError, match="not the address of a page"):
            LivenessChecker.for_adopted(address)


def test_presence_of_a_process_that_cannot_be_read_is_unknown() -> None:
    assert page_is_present(2**22 + 1, 4096) is None
