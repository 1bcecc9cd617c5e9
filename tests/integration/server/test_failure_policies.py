"""A page that cannot be had ends as the policy says, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource, failure_texts, the_session
from tests.support.eventually import eventually
from vmthaw import (
    EndReason,
    FailurePolicy,
    FileSource,
    FillMode,
    PagerConfig,
    PageServer,
    Region,
    UserfaultfdFactory,
)
from vmthaw.errors import PageFailedError, VmthawError, VmthawTimeoutError, VmthawValueError
from vmthaw.testing import FakeVmm, FakeVmmDiedError, write_memory_file


def quick(policy: FailurePolicy = FailurePolicy.automatic) -> PagerConfig:
    return PagerConfig(failure_policy=policy, fill_mode=FillMode.page, retries=2, retry_min=0.01, retry_max=0.02)


@pytest.mark.parametrize("policy", [FailurePolicy.automatic, FailurePolicy.kill])
def test_kill_ends_the_vm_and_names_the_page(policy: FailurePolicy, full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=quick(policy)) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        assert len(vmm.read(8)) == 4096
        with pytest.raises(EOFError):
            vmm.read(9)
        assert vmm.exit_status() == -signal.SIGKILL
        session = the_session(server)
        assert session.wait(5)
        assert session.end_reason is EndReason.killed
        assert session.failure_policy is FailurePolicy.kill
        assert "offset 0x9000" in session.failures[0]
        assert "Input/output error" in session.failures[0]
        assert server.stats.failed == 1
        assert server.stats.retried == 2
        assert flaky.asked.count(9) == 3
        with pytest.raises(PageFailedError, match="offset 0x9000"):
            server.wait(5)
        assert session.id in [failure.session for failure in server.failures]


def test_poison_hits_the_toucher_alone(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=quick(FailurePolicy.poison)) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        with pytest.raises(OSError, match="Bad address"):  # as the kernel says when it reads poison for the VM
            vmm.read(9)
        assert len(vmm.read(10)) == 4096
        with pytest.raises(OSError, match="Bad address"):
            vmm.read(9)
        assert server.stats.failed == 1
        assert the_session(server).end_reason is EndReason.none
        with pytest.raises(EOFError):
            vmm.call("load", 9)
        assert vmm.exit_status() == -signal.SIGBUS
        assert the_session(server).wait(5)
        assert server.ended_sessions[0].end_reason is EndReason.vm_exited


def test_hang_leaves_the_toucher_asleep_until_the_vm_is_killed(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=quick(FailurePolicy.hang)) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        report = vmm.touch([8, 9, 10], timeout=0.7)
        assert report.timed_out
        assert report.stuck_pages == [9]
        assert server.stats.failed == 1
        server.stop("kill")
        assert server.ended_sessions[0].end_reason is EndReason.killed
        assert not vmm.alive


@pytest.mark.parametrize("wrong", ["page size", "short file"])
@pytest.mark.parametrize(
    "policy", [FailurePolicy.automatic, FailurePolicy.kill, FailurePolicy.poison, FailurePolicy.hang]
)
def test_refused_vm_never_runs_on_with_zeros(
    policy: FailurePolicy, wrong: str, full_memory_file: Path, tmp_socket: Path
) -> None:
    region = {"size": PAGES * 4096, "offset": 0, "page_size": 4096}
    if wrong == "page size":
        region["page_size"] = 16384
    else:
        os.truncate(full_memory_file, 4096)
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source, config=quick(policy)) as server,
        RawVmm(PAGES) as vmm,
    ):
        regions = json.dumps([{"base_host_virt_addr": vmm.call("base_address"), **region}])
        with contextlib.suppress(EOFError):  # killed before it could say that it has handed over
            vmm.handover(tmp_socket, text=regions)
        eventually(lambda: server.failures)
        assert server.failures[0].field == "regions"
        if policy in (FailurePolicy.automatic, FailurePolicy.kill):
            assert vmm.exit_status() == -signal.SIGKILL
            assert "the VM was killed" in failure_texts(server)
        elif policy is FailurePolicy.poison:
            with pytest.raises(OSError, match="Bad address"):
                vmm.read(9)
        else:
            vmm.start_read(9)
            with pytest.raises(TimeoutError):
                vmm.finish_read(timeout=0.5)


def test_source_that_recovers_is_tried_again(full_memory_file: Path, tmp_socket: Path) -> None:
    config = PagerConfig(fill_mode=FillMode.page, retries=5, retry_min=0.1, retry_max=0.1)
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=config) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        vmm.start_read(9)
        eventually(lambda: 9 in flaky.asked)
        flaky.failing.clear()
        assert vmm.finish_read() == full_memory_file.read_bytes()[9 * 4096 : 10 * 4096]
        assert server.stats.retried >= 1
        assert server.stats.failed == 0
        assert server.failures == []


def test_neighbour_that_fails_in_a_block_fails_nobody(full_memory_file: Path, tmp_socket: Path) -> None:
    """Only the page that was asked for ends by the policy; what was filled around it is simply not filled."""
    config = PagerConfig(fill_mode=FillMode.block, fill_bytes=64 << 10, retries=1, retry_min=0.01, retry_max=0.01)
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=config) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        vmm.touch([*range(9), *range(10, 16)]).check()
        assert server.stats.failed == 0
        flaky.failing.clear()
        vmm.verify(only_touched=False).check()


@pytest.mark.parametrize("mode", ["mapped", "pread"])
def test_file_that_is_cut_while_it_is_served_is_an_error(mode: str, tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "memory"
    write_memory_file(path, PAGES * 4096, seed=1)
    source = FileSource(path, mode="mapped" if mode == "mapped" else "pread")
    with source, PageServer(tmp_socket, source, config=quick()) as server, RawVmm(PAGES) as vmm:
        vmm.handover(tmp_socket)
        vmm.read(1)
        os.truncate(path, 100 * 4096)
        time.sleep(0.01)
        with pytest.raises(EOFError):
            vmm.read(300)
        assert vmm.exit_status() == -signal.SIGKILL
        eventually(lambda: "ended early" in failure_texts(server) or "short" in failure_texts(server).lower())


def test_killing_oneself_is_refused(tmp_path: Path, source: FileSource, tmp_socket: Path) -> None:
    with UserfaultfdFactory().create() as uffd:
        region = Region(host_address=1 << 32, guest_address=0, size=PAGES * 4096)
        pidfd = os.pidfd_open(os.getpid())
        try:
            with pytest.raises(VmthawValueError, match="pidfd of a VMM that is not this process"):
                PageServer.adopt(uffd.fileno(), [region], source, pidfd=pidfd, config=quick(FailurePolicy.kill))
            with pytest.raises(VmthawValueError, match="pidfd"):
                PageServer.adopt(uffd.fileno(), [region], source, config=quick(FailurePolicy.kill))
            server = PageServer.adopt(uffd.fileno(), [region], source, pidfd=pidfd)
            assert server.sessions[0].failure_policy is FailurePolicy.poison
            with pytest.raises(VmthawError, match="foreign VMM"):
                server.sessions[0].kill()
            server.stop("detach", taker=lambda detached: os.close(detached.fd))
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("policy", [FailurePolicy.kill, FailurePolicy.poison])
def test_fault_in_no_region_ends_by_the_policy(
    policy: FailurePolicy, full_memory_file: Path, source: FileSource, tmp_socket: Path
) -> None:
    with PageServer(tmp_socket, source, config=quick(policy)) as server, RawVmm(PAGES) as vmm:
        vmm.handover(tmp_socket, count=100)  # registered are 512
        assert vmm.read(99) == full_memory_file.read_bytes()[99 * 4096 : 100 * 4096]
        if policy is FailurePolicy.kill:
            with pytest.raises(EOFError):
                vmm.read(100)
        else:
            for page in (100, 101):
                with pytest.raises(OSError, match="Bad address"):
                    vmm.read(page)
            assert len(vmm.read(5)) == 4096
            assert server.stats.forwarded == 2
        eventually(lambda: "is in no region" in failure_texts(server))
        assert sum("is in no region" in text for text in the_session(server).failures) == 1


def test_thousand_faults_are_answered_while_one_page_fails(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "memory"
    write_memory_file(path, 1100 * 4096, seed=1)
    config = PagerConfig(fill_mode=FillMode.page, retries=50, retry_min=0.2, retry_max=0.2)
    with (
        FlakySource(path, size=1100 * 4096) as flaky,
        PageServer(tmp_socket, flaky.source, config=config) as server,
        RawVmm(1100) as failing,
        FakeVmm(path) as other,
    ):
        failing.handover(tmp_socket)
        other.handover(tmp_socket)
        flaky.failing.add(1099)
        failing.start_read(1099)
        eventually(lambda: 1099 in flaky.asked)
        other.touch("subset", pages=1099, count=1000, seed=1, threads=4).check()
        for page in range(20):
            assert len(failing.read(page)) == 4096  # and of the same VM
        assert server.stats.retried >= 1
        assert server.stats.failed == 0
        flaky.failing.clear()
        assert len(failing.finish_read()) == 4096


def test_slow_page_of_one_vm_delays_no_other(full_memory_file: Path, tmp_path: Path, tmp_socket: Path) -> None:
    """All the source threads that one VM may have are asleep; the other VM's source works all the same."""
    with FlakySource(full_memory_file, threads=8) as slow, FlakySource(full_memory_file, threads=1) as fast:
        sources = iter([slow.source, fast.source])
        with (
            PageServer(tmp_socket, lambda _info: next(sources)) as server,
            FakeVmm(full_memory_file) as first,
            FakeVmm(full_memory_file) as second,
        ):
            first.handover(tmp_socket)
            eventually(lambda: len(server.sessions) == 1)
            second.handover(tmp_socket)
            eventually(lambda: len(server.sessions) == 2)
            slow.held.update(range(PAGES))
            touching = first.start_touch("random", threads=16, timeout=20)
            assert slow.entered.wait(10)
            start = time.monotonic()
            second.touch("random", threads=4).check()
            assert time.monotonic() - start < 5
            slow.let_go.set()
            FakeVmm.touch_result(touching).check()


def test_in_flight_faults_are_bounded_and_all_answered(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "memory"
    write_memory_file(path, 1024 * 4096, seed=1)
    config = PagerConfig(max_in_flight=64, fill_mode=FillMode.page)
    with (
        FlakySource(path, threads=4) as slow,
        PageServer(tmp_socket, slow.source, config=config) as server,
        FakeVmm(path) as vmm,
    ):
        vmm.handover(tmp_socket)
        slow.delay = 0.002
        vmm.touch("random", seed=1, threads=200).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.overflowed > 0
        assert server.stats.failed == 0


def test_server_goes_on_after_a_vm_was_killed(full_memory_file: Path, tmp_socket: Path) -> None:
    with FlakySource(full_memory_file) as flaky, PageServer(tmp_socket, flaky.source, config=quick()) as server:
        flaky.failing.add(9)
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            with pytest.raises(FakeVmmDiedError):
                vmm.touch([9])
        flaky.failing.clear()
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random").check()
        with pytest.raises((PageFailedError, VmthawTimeoutError)):
            server.wait(10)


def test_failed_page_is_reported_in_the_log(
    full_memory_file: Path, tmp_socket: Path, caplog: pytest.LogCaptureFixture, eventually: Callable[..., object]
) -> None:
    with (
        caplog.at_level("INFO", "vmthaw"),
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=quick()),
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        with pytest.raises(EOFError):
            vmm.read(9)
        eventually(lambda: any(f"pid {vmm.pid}" in line and "0x9000" in line for line in caplog.messages))
