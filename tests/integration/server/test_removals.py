"""Pages that the VM gives back are zeros for ever after, whatever is under way."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Literal

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource, the_session
from tests.support.eventually import PATIENCE, eventually
from vmthaw import EndReason, FileSource, FillMode, PagerConfig, PageServer
from vmthaw.testing import FakeVmm, write_memory_file

RUNS = 100 if os.environ.get("VMTHAW_LONG") else 10


@pytest.mark.timeout(120 * PATIENCE)
@pytest.mark.parametrize("threads", [1, 3])
def test_storm_of_removals_during_touches_is_right_in_every_run(threads: int, tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "memory"
    write_memory_file(path, 256 * 4096, seed=1)
    modes = list(FillMode)
    with FileSource(path) as source:
        for run in range(RUNS):
            config = PagerConfig(fill_mode=modes[run % 3], fill_bytes=64 << 10)
            with PageServer(tmp_socket, source, config=config) as server, FakeVmm(path) as vmm:
                vmm.handover(tmp_socket)
                report = vmm.storm(100, max_pages=32, threads=threads, seed=run).check()
                assert report.removals == 100
                assert server.stats.removed == report.removed_pages
                assert server.stats.failed == 0


@pytest.mark.parametrize("mode", ["mapped", "pread"])
def test_removed_pages_of_each_file_mode_are_zeros(
    mode: Literal["mapped", "pread"], memory_file: Path, tmp_socket: Path
) -> None:
    with FileSource(memory_file, mode=mode) as source, PageServer(tmp_socket, source), FakeVmm(memory_file) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("random", count=0, pages=200).check()
        vmm.remove([(0, 100), (150, 200)]).check()
        vmm.touch("random", seed=2).check()
        vmm.verify(only_touched=False).check()


def test_removal_beside_a_slow_fill_wins(full_memory_file: Path, tmp_socket: Path) -> None:
    """The VM gives the page back while the source works on it: the bytes that come later must not be installed."""
    with (
        FlakySource(full_memory_file) as slow,
        PageServer(tmp_socket, slow.source, config=PagerConfig(fill_mode=FillMode.page)) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        slow.held.add(7)
        vmm.start_read(7)
        assert slow.entered.wait(10)
        vmm.remove(7, 1)
        eventually(lambda: server.stats.removed == 1)
        slow.let_go.set()
        assert vmm.finish_read() == bytes(4096)
        assert vmm.read(8) == full_memory_file.read_bytes()[8 * 4096 : 9 * 4096]
        assert server.stats.zero == 1


def test_half_removed_block_is_filled_page_by_page(full_memory_file: Path, tmp_socket: Path) -> None:
    config = PagerConfig(fill_mode=FillMode.block, fill_bytes=64 << 10)
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source, config=config),
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.remove([(2, 3), (8, 1), (15, 2)]).check()
        vmm.touch([0]).check()
        vmm.touch("sequential").check()
        vmm.verify(only_touched=False).check()


def test_removal_is_answered_before_the_vm_waits_long(full_memory_file: Path, tmp_socket: Path) -> None:
    """A source that sleeps holds no removal up."""
    with FlakySource(full_memory_file) as slow, PageServer(tmp_socket, slow.source), RawVmm(PAGES) as vmm:
        vmm.handover(tmp_socket)
        slow.held.update(range(PAGES))
        vmm.start_read(7)
        assert slow.entered.wait(10)
        assert vmm.remove(100, 50) < 2.0
        slow.let_go.set()
        vmm.finish_read()
        assert vmm.read(120) == bytes(4096)


def test_unmapped_range_ends_and_the_rest_is_served_on(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file, features=["event_unmap"]) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch(range(50)).check()
        vmm.unmap([(40, 100), (511, 1)]).check()
        eventually(lambda: len(the_session(server).regions) == 2)
        assert sum(region.size for region in the_session(server).regions) == (PAGES - 101) * 4096
        vmm.touch([*range(40), *range(140, 511)]).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0


def test_moved_range_keeps_its_bytes(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file, features=["event_remap", "event_unmap"]) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch(range(20), write=True).check()
        vmm.remove([(30, 4)]).check()
        vmm.remap([(10, 60), (100, 1), (200, 312)]).check()
        vmm.touch("random", seed=5, threads=4).check()
        vmm.verify(only_touched=False).check()
        vmm.remap([(10, 60)]).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
        assert server.stats.forwarded == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_moves_beside_touches_lose_no_fault(threads: int, full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source),
        FakeVmm(full_memory_file, features=["event_remap", "event_unmap"]) as vmm,
    ):
        vmm.handover(tmp_socket)
        for step in range(20):
            vmm.touch("subset", count=20, seed=step, threads=threads).check()
            vmm.remap([(step * 20, 20)]).check()
        vmm.verify(only_touched=False).check()


def test_forked_child_of_a_vmm_is_served_from_the_same_source(full_memory_file: Path, tmp_socket: Path) -> None:
    data = full_memory_file.read_bytes()
    with FileSource(full_memory_file) as source, PageServer(tmp_socket, source) as server:
        with RawVmm(PAGES, features=("event_fork",)) as vmm:
            vmm.handover(tmp_socket)
            assert vmm.read(3) == data[3 * 4096 : 4 * 4096]
            vmm.remove(5, 1)
            child = vmm.fork()
            eventually(lambda: len(server.sessions) == 2)
            for page in (3, 4, 400):
                assert child.read(page) == data[page * 4096 : (page + 1) * 4096]
            assert child.read(5) == bytes(4096)
            assert vmm.read(400) == data[400 * 4096 : 401 * 4096]
            assert "fork" in server.sessions[1].label
        server.wait(10)
        assert {session.end_reason for session in server.ended_sessions} == {EndReason.vm_exited}


def test_drain_beside_a_storm_of_removals_holds_no_madvise_up(tmp_path: Path, tmp_socket: Path) -> None:
    """A VM that keeps its own descriptor would sleep for ever in madvise() if its last event were not read."""
    path = tmp_path / "memory"
    write_memory_file(path, 1024 * 4096, seed=1)
    with FileSource(path) as source:
        for run in range(RUNS):
            with FakeVmm(path) as vmm:
                server = PageServer(tmp_socket, source).start()
                vmm.handover(tmp_socket)
                server.ready(10)
                stopping = threading.Timer(0.002 * (run % 10), server.stop, ["drain"])
                stopping.start()
                report = vmm.storm(3000, max_pages=3, threads=1, seed=run, timeout=10 * PATIENCE)
                stopping.join()
                assert not report.timed_out, report
                assert server.ended_sessions[0].end_reason is EndReason.drained
