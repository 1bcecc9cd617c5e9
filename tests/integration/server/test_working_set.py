"""Restores with a recorded working set, through a real server and a VMM stand-in."""

from __future__ import annotations

import logging
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.integration.server.support import PAGES, FlakySource
from tests.support.eventually import eventually
from vmthaw import (
    FileSource,
    FillMode,
    HandoverInfo,
    MemoryLayout,
    PagerConfig,
    PagerSession,
    PageServer,
    PrewarmList,
    Region,
    Userfaultfd,
    UserfaultfdFactory,
    WorkingSet,
    WorkingSetMode,
)
from vmthaw.errors import VmthawValueError
from vmthaw.testing import FakeVmm

PAGE = 4096
X86 = MemoryLayout.x86_64()


def pages(*numbers: int) -> WorkingSet:
    return WorkingSet([number * PAGE for number in numbers])


def wait_for(session: PagerSession, prefetched: int) -> None:
    eventually(lambda: session.stats.prefetched == prefetched)


def test_a_recorded_run_is_restored_without_a_fault(full_memory_file: Path, tmp_socket: Path, tmp_path: Path) -> None:
    touched = np.random.default_rng(3).permutation(PAGES)[:100].tolist()
    config = PagerConfig(trace_records=4096, fill_mode=FillMode.page)
    with PageServer(tmp_socket, FileSource(full_memory_file), config=config, layout=X86) as server:
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch(touched).check()
            eventually(lambda: server.stats.installed == 100)
            records = server.trace()
        recorded = WorkingSet.from_trace(records)
        assert (recorded.pages // np.uint64(PAGE)).tolist() == touched
        assert PrewarmList.from_trace(records, limit=3).pages == [page * PAGE for page in touched[:3]]
    recorded.save(tmp_path / "ws")
    replayed = PagerConfig(working_set_mode=WorkingSetMode.before)
    loaded = WorkingSet.load(tmp_path / "ws")
    with (
        PageServer(tmp_socket, FileSource(full_memory_file), config=replayed, layout=X86, working_set=loaded) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        server.ready(10)
        vmm.touch(touched).check()
        assert (server.stats.faults, server.stats.prefetched) == (0, 100)
        assert vmm.resident_pages == 100
        vmm.verify(only_touched=False).check()


def test_alongside_the_guest_needs_not_wait_for_the_working_set(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FlakySource(full_memory_file) as slow,
        PageServer(tmp_socket, slow.source, layout=X86, working_set=pages(5, 6, 200)) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        slow.held.add(5)
        vmm.handover(tmp_socket)
        assert slow.entered.wait(10)
        vmm.touch([300, 301]).check()
        assert server.stats.prefetched == 0
        slow.let_go.set()
        eventually(lambda: server.stats.prefetched == 3)
        vmm.verify(only_touched=False).check()


def test_a_page_that_cannot_be_read_ahead_is_left_to_its_fault(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, layout=X86, working_set=pages(5, 200)) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        flaky.failing.add(5)
        vmm.handover(tmp_socket)
        eventually(lambda: server.stats.prefetched == 1)
        assert vmm.alive
        assert not server.failures
        flaky.failing.clear()
        vmm.touch([5, 200]).check()
        assert server.stats.failed == 0


@pytest.mark.parametrize("how", ["drain", "kill"])
def test_stopping_in_the_middle_cancels_it(how: str, full_memory_file: Path, tmp_socket: Path) -> None:
    with FlakySource(full_memory_file) as slow, FakeVmm(full_memory_file) as vmm:
        slow.held.add(0)
        server = PageServer(tmp_socket, slow.source, layout=X86, working_set=pages(*range(PAGES))).start()
        vmm.handover(tmp_socket)
        assert slow.entered.wait(10)
        session = server.sessions[0]
        if how == "drain":
            session.drain()
            slow.let_go.set()
        server.stop("drain" if how == "drain" else "kill")
        slow.let_go.set()
        assert session.stats.prefetched < PAGES
        if how == "drain":
            vmm.verify(only_touched=False).check()
        else:
            eventually(lambda: not vmm.alive)


def test_each_vm_can_be_given_its_own(
    full_memory_file: Path, tmp_socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def choose(info: HandoverInfo) -> WorkingSet | None:
        if info.number == 2:
            raise RuntimeError("no working set for this one")
        return pages(7, 8, 9) if info.number == 0 else None

    with PageServer(tmp_socket, FileSource(full_memory_file), layout=X86, working_set=choose) as server:
        for expected in (3, 0, 0):
            with FakeVmm(full_memory_file) as vmm, caplog.at_level(logging.ERROR):
                vmm.handover(tmp_socket)
                vmm.touch([300]).check()
                session = server.sessions[0]
                wait_for(session, expected)
            assert session.wait(10)
            assert session.stats.prefetched == expected
    assert "the VM is served without one" in caplog.text


def test_nothing_comes_from_a_file_that_was_cut(
    full_memory_file: Path, tmp_socket: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copy(full_memory_file, tmp_path / "cut"))
    with FileSource(path) as source:
        os.truncate(path, 100 * PAGE + 1000)  # what is left of page 100 would be followed by zeros
        with (
            caplog.at_level(logging.WARNING),
            PageServer(tmp_socket, source, working_set=pages(*range(98, 104)), layout=X86) as server,
            FakeVmm(full_memory_file) as vmm,
        ):
            vmm.handover(tmp_socket)
            eventually(lambda: "given up because the source fails" in caplog.text)
            assert server.sessions[0].stats.prefetched == 0
            server.stop("kill")


def test_what_is_no_working_set_is_refused(full_memory_file: Path, tmp_socket: Path) -> None:
    with pytest.raises(VmthawValueError, match="must be a WorkingSet, not list"):
        PageServer(tmp_socket, FileSource(full_memory_file), working_set=[1])  # type: ignore[arg-type]


def test_huge_pages_come_whole_by_small_page_recordings(hugetlb_pages: Callable[[int], int], tmp_path: Path) -> None:
    huge = 2 << 20
    hugetlb_pages(4)
    memory_file = tmp_path / "memory"
    memory_file.write_bytes(b"".join(bytes([number + 1]) * huge for number in range(3)) + bytes(huge))
    with memory_file.open("r+b") as file:
        file.truncate(3 * huge)
        file.truncate(4 * huge)  # the last is a hole: zeros, which hugetlb has to be given as a copy
    with mmap.mmap(-1, 4 * huge, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000) as memory:
        address = int(np.frombuffer(memory, dtype=np.uint8).ctypes.data)
        userfaultfd: Userfaultfd = UserfaultfdFactory().create()
        userfaultfd.register_range(address, 4 * huge)
        regions = [Region(host_address=address, guest_address=0, size=4 * huge, page_size=huge)]
        server = PageServer.adopt(
            userfaultfd.fileno(), regions, FileSource(memory_file), pidfd=None,
            working_set=WorkingSet([huge + 5 * PAGE, huge + 9 * PAGE, 2 * huge, 3 * huge + PAGE]),
        )  # fmt: skip
        session = server.sessions[0]
        eventually(lambda: session.stats.prefetched == 3)
        assert (session.stats.faults, session.stats.zero, session.stats.source_bytes) == (0, 1, 2 * huge)
        descriptor, _, states = session._detach()
        os.close(descriptor)
        assert list(states[0]) == [0, 2, 2, 2]
        assert [memory[number * huge + 12345] for number in (1, 2, 3)] == [2, 3, 0]
        server.stop("drain")
        userfaultfd.close()
