"""Every answer of the kernel that a handler has to tell from every other, on every kind of memory."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.userfaultfd.conftest import EVERYWHERE
from tests.integration.userfaultfd.memory import HUGE_PAGE, MAP_NORESERVE, SMALL_PAGE, Background, Memory, libc
from tests.integration.userfaultfd.peer import PeerProcess
from vmthaw.userfaultfd import (
    EVENT_REMOVE,
    MODE_DONT_WAKE,
    REGISTER_MINOR,
    REGISTER_MISSING,
    REGISTER_WRITE_PROTECT,
    Feature,
    FillStatus,
    Userfaultfd,
    page_is_present,
)

MakeMemory = Callable[..., Memory]
MakeUserfaultfd = Callable[..., Userfaultfd]
MakePeer = Callable[..., tuple[PeerProcess, Userfaultfd]]


def test_progress_before_an_error_is_counted_and_the_error_is_the_real_one(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 4), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    userfaultfd.copy(memory.page(2), bytes(memory.page_size))
    outcome = userfaultfd.copy(memory.address, b"\x07" * memory.size)
    assert (outcome.status, outcome.errno_value) == (FillStatus.present, errno.EEXIST)
    assert outcome.done_bytes == 2 * memory.page_size
    assert memory.peek(1) == b"\x07"


def test_a_pending_event_of_another_process_says_again_and_never_a_size(
    kind: str, make_peer: MakePeer, eventually: Callable[..., object]
) -> None:
    peer, userfaultfd = make_peer(kind, 4, REGISTER_MISSING | REGISTER_WRITE_PROTECT, int(EVERYWHERE))
    page = bytes(peer.page_size)
    peer.send("discard", 3)
    eventually(lambda: select.select([userfaultfd], [], [], 0)[0])
    outcomes = [
        userfaultfd.copy(peer.address, page),
        userfaultfd.poison(peer.address, peer.page_size),
        userfaultfd.write_protect(peer.address, peer.page_size),
    ]
    if "hugetlb" not in kind:
        outcomes.append(userfaultfd.zero(peer.address, peer.page_size))
    assert {(o.status, o.errno_value, o.done_bytes) for o in outcomes} == {(FillStatus.again, errno.EAGAIN, 0)}
    (message,) = userfaultfd.read()
    assert (message["event"], message["start"], message["end"]) == (EVENT_REMOVE, peer.page(3), peer.page(4))
    eventually(lambda: userfaultfd.copy(peer.address, page).status is FillStatus.done)
    assert peer.answer() is None


def test_a_present_page_does_not_wake_until_asked(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    toucher = Background(memory.peek, 0)
    assert len(userfaultfd.read(timeout=10)) == 1
    assert userfaultfd.copy(memory.address, b"\x01" * memory.size, mode=MODE_DONT_WAKE).status is FillStatus.done
    outcome = userfaultfd.copy(memory.address, b"\x02" * memory.size)
    assert (outcome.status, outcome.done_bytes) == (FillStatus.present, 0)
    assert toucher.is_waiting
    userfaultfd.wake(memory.address, memory.size)
    assert toucher.finish() == b"\x01"


def test_an_exhausted_pool_fills_nothing_whatever_it_says(
    hugetlb_pages: Callable[[int], int], make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    hugetlb_pages(2)
    memory, userfaultfd = make_memory("hugetlb", 64, flags=MAP_NORESERVE), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    page = b"\x05" * HUGE_PAGE
    statuses = [userfaultfd.copy(memory.page(index), page).status for index in range(64)]
    filled = statuses.count(FillStatus.done)
    assert filled >= 2
    # Linux 6.18 says EEXIST, 6.12 ENOMEM.
    assert statuses[filled:] in ([status] * (64 - filled) for status in (FillStatus.present, FillStatus.no_memory))
    assert page_is_present(os.getpid(), memory.page(filled - 1)) is True
    assert page_is_present(os.getpid(), memory.page(filled)) is False


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={2 * SMALL_PAGE}", "tmpfs", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"no tmpfs can be mounted: {result.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_tmpfs_is_no_memory_after_what_fitted(small_tmpfs: Path, make_userfaultfd: MakeUserfaultfd) -> None:
    path = small_tmpfs / "memory"
    with path.open("w+b") as file:
        file.truncate(4 * SMALL_PAGE)
        with contextlib.closing(Memory("shared_memory", 4, fd=file.fileno())) as memory:
            userfaultfd = make_userfaultfd()
            userfaultfd.register_range(memory.address, memory.size)
            outcome = userfaultfd.copy(memory.address, b"\x01" * memory.size)
            assert (outcome.status, outcome.done_bytes) == (FillStatus.no_memory, 2 * SMALL_PAGE)
            userfaultfd.close()


def test_a_range_that_crosses_the_end_of_a_registration_is_unmapped(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 4), make_userfaultfd()
    userfaultfd.register_range(memory.address, 2 * memory.page_size)
    across = userfaultfd.copy(memory.page(1), bytes(2 * memory.page_size))
    outside = userfaultfd.copy(memory.page(2), bytes(memory.page_size))
    for outcome in across, outside:
        assert (outcome.status, outcome.done_bytes) == (FillStatus.unmapped, 0)


def test_a_range_that_the_other_process_unmapped_is_unmapped(kind: str, make_peer: MakePeer) -> None:
    peer, userfaultfd = make_peer(kind, 4, REGISTER_MISSING, int(EVERYWHERE))
    assert peer.call("unmap", 2, 2) == 0
    assert userfaultfd.copy(peer.page(2), bytes(peer.page_size)).status is FillStatus.unmapped
    assert userfaultfd.copy(peer.page(1), bytes(peer.page_size)).status is FillStatus.done


def test_a_source_that_cannot_be_read_is_a_bad_source(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 2), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    nowhere = userfaultfd.copy(memory.address, SMALL_PAGE, memory.page_size)
    assert (nowhere.status, nowhere.errno_value, nowhere.done_bytes) == (FillStatus.bad_source, errno.EFAULT, 0)


def test_a_truncated_source_file_is_a_bad_source_and_no_sigbus(
    tmp_path: Path, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory("anonymous", 4), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size)
    path = tmp_path / "source"
    path.write_bytes(b"\x09" * memory.size)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as source:
        os.truncate(path, 2 * SMALL_PAGE)
        outcome = userfaultfd.copy(memory.address, source)
    assert (outcome.status, outcome.done_bytes) == (FillStatus.bad_source, 2 * SMALL_PAGE)
    assert memory.peek(1) == b"\x09"


@pytest.mark.parametrize("kind", ["shared_memory", "shared_hugetlb"], indirect=True)
def test_continue_without_a_cached_page_is_a_bad_source_until_it_is_populated(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 1), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size, REGISTER_MINOR)
    outcome = userfaultfd.continue_range(memory.address, memory.size)
    assert (outcome.status, outcome.errno_value) == (FillStatus.bad_source, errno.EFAULT)
    memory.poke(0, 6, alias=True)
    assert userfaultfd.continue_range(memory.address, memory.size).status is FillStatus.done
    assert memory.peek(0) == b"\x06"


def test_unaligned_and_empty_ranges_and_bad_modes_are_invalid_with_nothing_done(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, userfaultfd = make_memory(kind, 2), make_userfaultfd()
    userfaultfd.register_range(memory.address, memory.size, REGISTER_MISSING | REGISTER_WRITE_PROTECT)
    size = memory.page_size
    page = bytes(size)
    outcomes = [
        userfaultfd.copy(memory.address + 1, page),
        userfaultfd.copy(memory.address, page, 0),
        userfaultfd.copy(memory.address, page, size - 1),
        userfaultfd.copy(memory.address, page, mode=1 << 20),
        userfaultfd.zero(memory.address, 0),
        userfaultfd.zero(memory.address, size, 1 << 20),
        userfaultfd.poison(memory.address + 1, size),
        userfaultfd.poison(memory.address, size, 1 << 20),
        userfaultfd.continue_range(memory.address, 0),
        userfaultfd.continue_range(memory.address, size, 1 << 20),
        userfaultfd.move(memory.address + 1, memory.page(1), size),
        userfaultfd.move(memory.address, memory.page(1), size, 1 << 20),
        userfaultfd.write_protect(memory.address, 0),
        userfaultfd.write_protect(memory.address, size, 1 << 20),
        userfaultfd.write_protect(memory.address, size, 3),
    ]
    assert {(o.status, o.errno_value, o.done_bytes) for o in outcomes} == {(FillStatus.invalid, errno.EINVAL, 0)}
    with pytest.raises(OSError, match="UFFDIO_WAKE"):
        userfaultfd.wake(memory.address, 1)


@pytest.mark.parametrize("how", ["exit", "kill", "exec"])
@pytest.mark.parametrize("kind", ["anonymous", "shared_memory", "hugetlb"], indirect=True)
def test_after_the_process_is_gone_every_call_says_so_in_its_own_way(kind: str, how: str, make_peer: MakePeer) -> None:
    peer, userfaultfd = make_peer(kind, 2, REGISTER_MISSING | REGISTER_WRITE_PROTECT, int(EVERYWHERE))
    peer.end(how)
    outcomes = [
        userfaultfd.copy(peer.address, bytes(peer.page_size)),
        userfaultfd.zero(peer.address, peer.page_size),
        userfaultfd.poison(peer.address, peer.page_size),
        userfaultfd.write_protect(peer.address, peer.page_size),
        userfaultfd.continue_range(peer.address, peer.page_size),
    ]
    assert {(o.status, o.errno_value, o.done_bytes) for o in outcomes} == {(FillStatus.gone, errno.ESRCH, 0)}
    for call in userfaultfd.register_range, userfaultfd.unregister_range:
        with pytest.raises(OSError, match="UFFDIO_") as caught:
            call(peer.address, peer.page_size)
        assert (caught.value.errno, caught.value.address) == (errno.ENOMEM, peer.address)  # type: ignore[attr-defined]
    userfaultfd.wake(peer.address, peer.page_size)
    assert select.select([userfaultfd], [], [userfaultfd], 0) == ([], [], [])


def test_a_range_of_another_descriptor_is_busy(
    kind: str, make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    memory, first, second = make_memory(kind, 1), make_userfaultfd(), make_userfaultfd()
    first.register_range(memory.address, memory.size)
    with pytest.raises(OSError, match="UFFDIO_REGISTER") as caught:
        second.register_range(memory.address, memory.size)
    assert caught.value.errno == errno.EBUSY


def test_a_read_only_shared_mapping_cannot_be_registered(
    make_memory: MakeMemory, make_userfaultfd: MakeUserfaultfd
) -> None:
    writable = make_memory("shared_memory", 1)
    fd = os.open(f"/proc/self/fd/{writable.fd}", os.O_RDONLY)
    address = libc.mmap(None, SMALL_PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    try:
        with pytest.raises(PermissionError):
            make_userfaultfd().register_range(address, SMALL_PAGE)
    finally:
        libc.munmap(address, SMALL_PAGE)


def test_move_over_the_descriptor_of_another_process_is_invalid(make_memory: MakeMemory, make_peer: MakePeer) -> None:
    source = make_memory("anonymous", 1)
    source.poke(0, 1)
    peer, userfaultfd = make_peer("anonymous", 1, REGISTER_MISSING, int(Feature.move))
    outcome = userfaultfd.move(peer.address, source.address, source.size)
    assert (outcome.status, outcome.done_bytes) == (FillStatus.invalid, 0)
