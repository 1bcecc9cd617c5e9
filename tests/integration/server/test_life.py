"""A server's life: started, waited for, stopped at any moment; what becomes of incomplete VMs is chosen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource
from tests.support.eventually import eventually
from vmthaw import (
    EndReason,
    FailurePolicy,
    FileSource,
    FillMode,
    PagerConfig,
    PageServer,
)
from vmthaw.errors import (
    IncompleteSessionsError,
    StateError,
    VmthawTimeoutError,
)
from vmthaw.testing import FakeVmm

pytestmark = pytest.mark.usefixtures("leaks_nothing")


def test_stop_before_start_and_twice(source: FileSource, tmp_socket: Path) -> None:
    server = PageServer(tmp_socket, source)
    assert tmp_socket.exists()
    server.stop()
    server.stop()
    assert not tmp_socket.exists()
    with pytest.raises(StateError, match="stopped"):
        server.start()
    with pytest.raises(StateError, match="not been started"):
        server.ready()


@pytest.mark.parametrize("mode", [None, "drain", "kill"])
def test_stop_before_a_vm_came_and_twice(mode: str | None, source: FileSource, tmp_socket: Path) -> None:
    server = PageServer(tmp_socket, source).start()
    assert server.start() is server
    start = time.monotonic()
    server.stop(mode)  # type: ignore[arg-type]
    server.stop(mode)  # type: ignore[arg-type]
    server.stop()
    assert time.monotonic() - start < 2
    assert not tmp_socket.exists()
    server.ready()  # ends too when the server does
    server.wait()


def test_stop_from_another_thread_ends_the_waits(source: FileSource, tmp_socket: Path) -> None:
    server = PageServer(tmp_socket, source).start()
    ended: list[str] = []

    def end(name: str, wait: Callable[[], None]) -> None:
        wait()
        ended.append(name)

    waits = [
        threading.Thread(target=end, args=["ready", server.ready]),
        threading.Thread(target=end, args=["wait", server.wait]),
    ]
    for wait in waits:
        wait.start()
    server.stop()
    for wait in waits:
        wait.join(5)
    assert sorted(ended) == ["ready", "wait"]


def test_session_whose_end_was_awaited_is_among_the_ended_ones(
    source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    with PageServer(tmp_socket, source) as server:
        for _ in range(10):
            with FakeVmm(full_memory_file) as vmm:
                vmm.handover(tmp_socket)
                eventually(lambda: server.sessions)
                session = server.sessions[0]
                vmm.kill()
                assert session.wait(10)
                assert session in server.ended_sessions
                assert server.sessions == []


def test_many_threads_may_stop_at_once(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    server = PageServer(tmp_socket, source).start()
    with FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        server.ready(10)
        stops = [threading.Thread(target=server.stop, args=["drain"]) for _ in range(8)]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join(10)
        vmm.verify(only_touched=False).check()
        assert server.ended_sessions[0].end_reason is EndReason.drained


def test_waits_have_time_outs(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server:
        for wait in (server.ready, server.wait):
            start = time.monotonic()
            with pytest.raises(TimeoutError, match=r"within 0.1 s") as caught:
                wait(0.1)
            assert isinstance(caught.value, VmthawTimeoutError)
            assert 0.05 < time.monotonic() - start < 2
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            server.ready(10)
            with pytest.raises(VmthawTimeoutError, match="still being served"):
                server.wait(0.1)
            vmm.kill()
            server.wait(10)


def test_ready_names_the_handover_that_failed(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server, FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket, text="garbage")
        with pytest.raises(VmthawTimeoutError, match="not an array of regions"):
            server.ready(0.5)


def test_incomplete_sessions_are_refused_by_name(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server, FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        server.ready(10)
        with pytest.raises(IncompleteSessionsError, match=f"pid {vmm.pid}") as caught:
            server.stop()
        assert caught.value.sessions == f"pid {vmm.pid}"
        assert server._core.listening
        vmm.touch("random").check()  # it goes on
        with FakeVmm(full_memory_file) as other:
            other.handover(tmp_socket)
            other.touch("sequential").check()
        eventually(lambda: len(server.sessions) == 1)
        server.stop()  # complete now
        assert server.ended_sessions[-1].end_reason is EndReason.drained
        vmm.verify(only_touched=False).check()


def test_vm_that_waits_for_its_source_is_incomplete(
    source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_info: object) -> FileSource:
        asked.set()
        go_on.wait(10)
        return source

    with PageServer(tmp_socket, slow) as server, FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        assert asked.wait(10)
        try:
            with pytest.raises(IncompleteSessionsError, match=f"pid {vmm.pid}"):
                server.stop()
        finally:
            go_on.set()
        vmm.touch("random").check()


@pytest.mark.parametrize("keeps_its_descriptor", [True, False])
def test_drained_vm_is_whole_without_the_server(
    keeps_its_descriptor: bool, memory_file: Path, tmp_socket: Path
) -> None:
    with FileSource(memory_file) as source, FakeVmm(memory_file) as vmm:
        server = PageServer(tmp_socket, source).start()
        vmm.handover(tmp_socket)
        server.ready(10)
        vmm.touch("subset", count=30, seed=1, write=True).check()
        vmm.remove([(100, 50)]).check()
        if not keeps_its_descriptor:
            vmm.close_userfaultfd()
        server.stop("drain")
        assert server.ended_sessions[0].end_reason is EndReason.drained
        assert server.sessions == []
        source.close()
        vmm.verify(only_touched=False).check()
        vmm.remove([(300, 20)]).check()
        vmm.verify(only_touched=False).check()


def test_drain_beside_touches_is_right(full_memory_file: Path, tmp_socket: Path) -> None:
    with FlakySource(full_memory_file, threads=2) as slow, FakeVmm(full_memory_file) as vmm:
        slow.delay = 0.001
        server = PageServer(tmp_socket, slow.source, config=PagerConfig(fill_mode=FillMode.page)).start()
        vmm.handover(tmp_socket)
        touching = vmm.start_touch("random", threads=4)
        eventually(lambda: server.stats.faults > 20)
        server.stop("drain")
        FakeVmm.touch_result(touching).check()
        vmm.verify(only_touched=False).check()


def test_drain_that_takes_too_long_ends_by_the_policy_with_a_warning(
    full_memory_file: Path, tmp_socket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FlakySource(full_memory_file) as flaky, FakeVmm(full_memory_file) as vmm:
        flaky.held.add(400)
        config = PagerConfig(drain_timeout=0.3)
        with caplog.at_level("INFO", "vmthaw"), PageServer(tmp_socket, flaky.source, config=config) as server:
            vmm.handover(tmp_socket)
            server.ready(10)
            start = time.monotonic()
        assert time.monotonic() - start < 5
        assert not vmm.alive
        assert server.ended_sessions[0].end_reason is EndReason.killed
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any(f"pid {vmm.pid}" in text and "not drained" in text for text in warnings)


def test_drain_that_takes_too_long_poisons_what_is_missing(full_memory_file: Path, tmp_socket: Path) -> None:
    config = PagerConfig(drain_timeout=0.3, failure_policy=FailurePolicy.poison)
    with FlakySource(full_memory_file) as flaky, RawVmm(PAGES) as vmm:
        flaky.held.add(400)
        with PageServer(tmp_socket, flaky.source, config=config) as server:
            vmm.handover(tmp_socket)
            server.ready(10)
        assert server.ended_sessions[0].end_reason is EndReason.failed
        assert vmm.read(3) == full_memory_file.read_bytes()[3 * 4096 : 4 * 4096]
        with pytest.raises(OSError, match="Bad address"):
            vmm.read(400)


def test_stop_during_a_fill_answers_it(full_memory_file: Path, tmp_socket: Path) -> None:
    with FlakySource(full_memory_file) as slow, RawVmm(PAGES) as vmm:
        server = PageServer(tmp_socket, slow.source).start()
        vmm.handover(tmp_socket)
        slow.held.add(7)
        vmm.start_read(7)
        assert slow.entered.wait(10)
        stopping = threading.Thread(target=server.stop, args=["drain"])
        stopping.start()
        stopping.join(0.1)
        slow.let_go.set()
        assert vmm.finish_read() == full_memory_file.read_bytes()[7 * 4096 : 8 * 4096]
        stopping.join(10)
        assert server.ended_sessions[0].end_reason is EndReason.drained


def test_kill_ends_every_vm(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with FakeVmm(full_memory_file) as first, FakeVmm(full_memory_file) as second:
        server = PageServer(tmp_socket, source).start()
        first.handover(tmp_socket)
        second.handover(tmp_socket)
        eventually(lambda: len(server.sessions) == 2)
        start = time.monotonic()
        server.stop("kill")
        assert time.monotonic() - start < 5
        assert {session.end_reason for session in server.ended_sessions} == {EndReason.killed}
        assert not first.alive
        assert not second.alive
