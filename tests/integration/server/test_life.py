"""A server's life: started, waited for, stopped at any moment; what becomes of incomplete VMs is chosen."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource, the_session
from tests.support.eventually import eventually
from vmthaw import (
    DetachedSession,
    EndReason,
    FailurePolicy,
    FileSource,
    FillMode,
    PagerConfig,
    PageServer,
    Region,
    SessionEventKind,
)
from vmthaw.errors import (
    IncompleteSessionsError,
    RegionError,
    StateError,
    VmthawError,
    VmthawTimeoutError,
    VmthawValueError,
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


def test_detached_vm_is_served_on_by_another_server(full_memory_file: Path, tmp_socket: Path) -> None:
    taken: list[DetachedSession] = []
    with FlakySource(full_memory_file) as slow, FileSource(full_memory_file) as source, RawVmm(PAGES) as vmm:
        first = PageServer(tmp_socket, slow.source, config=PagerConfig(fill_mode=FillMode.page)).start()
        vmm.handover(tmp_socket)
        data = full_memory_file.read_bytes()
        assert vmm.read(1) == data[4096:8192]
        vmm.remove(5, 2)
        slow.held.add(9)
        vmm.start_read(9)
        assert slow.entered.wait(10)
        threading.Timer(0.05, slow.let_go.set).start()
        first.stop("detach", taker=taken.append)
        assert first.ended_sessions[0].end_reason is EndReason.detached
        detached = taken[0]
        assert detached.label == f"pid {vmm.pid}"
        states = detached.page_states[0]
        assert (states[0], states[1], states[5], states[6]) == (0, 2, 3, 3)
        pidfd = os.pidfd_open(vmm.pid)
        second = PageServer.adopt(
            detached.fd, detached.regions, source, pidfd=pidfd, label="taken", page_states=detached.page_states
        )
        os.close(pidfd)
        os.close(detached.fd)
        assert vmm.finish_read() == data[9 * 4096 : 10 * 4096]
        assert vmm.read(5) == bytes(4096)
        assert vmm.read(300) == data[300 * 4096 : 301 * 4096]
        assert second.sessions[0].label == "taken"
        assert second.sessions[0].failure_policy is FailurePolicy.kill
        vmm.kill()
        second.wait(10)
        second.stop()


def test_detach_without_a_taker_is_refused(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server, FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        server.ready(10)
        with pytest.raises(VmthawValueError, match="taker"):
            server.stop("detach")
        with pytest.raises(VmthawValueError, match="'drop'"):
            server.stop("drop")  # type: ignore[arg-type]
        vmm.touch("random").check()


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_adopted_descriptor_is_served(
    with_pidfd: bool, source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, FakeVmm(full_memory_file) as vmm:
        listener.bind(str(tmp_socket))
        listener.listen()
        vmm.handover(tmp_socket)
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
        regions = [
            Region(host_address=host, guest_address=offset, size=size, source_offset=offset)
            for host, size, offset in vmm.regions
        ]
        pidfd = os.pidfd_open(vmm.pid) if with_pidfd else None
        config = PagerConfig(poll_interval=0.05)
        server = PageServer.adopt(fds[0], regions, source, pidfd=pidfd, config=config)
        for fd in (fds[0], *([pidfd] if pidfd is not None else [])):
            os.close(fd)
        session = server.sessions[0]
        assert session.failure_policy is (FailurePolicy.kill if with_pidfd else FailurePolicy.poison)
        assert session.label == "adopted"
        server.ready(1)
        vmm.touch("random").check()
        vmm.kill()
        server.wait(10)
        assert session.end_reason is EndReason.vm_exited
        server.stop()
    with pytest.raises(VmthawError, match="userfaultfd"):
        PageServer.adopt(0, regions, source)
    with pytest.raises((RegionError, VmthawError)):
        PageServer.adopt(0, [*regions, *regions], source)


def test_listening_socket_may_be_given(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_socket))
        listener.listen()
        with PageServer(source=source, socket_fd=listener.fileno()), FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random").check()
        assert tmp_socket.exists()  # systemd's, not ours
    with pytest.raises(VmthawValueError, match="socket_path or socket_fd"):
        PageServer(source=source)
    with pytest.raises(VmthawValueError, match="needs a source"):
        PageServer(tmp_socket)


def test_socket_is_for_its_owner_alone(source: FileSource, tmp_socket: Path) -> None:
    former = os.umask(0)
    try:
        with PageServer(tmp_socket, source):
            status = tmp_socket.stat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
    finally:
        os.umask(former)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_socket_may_be_given_to_an_owner(source: FileSource, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source, owner_uid=1234, owner_gid=4321):
        assert (tmp_socket.stat().st_uid, tmp_socket.stat().st_gid) == (1234, 4321)


def test_live_socket_is_not_stolen_and_a_stale_one_is_replaced(
    source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    with PageServer(tmp_socket, source):
        with pytest.raises(OSError, match="in use"):
            PageServer(tmp_socket, source)
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch([1]).check()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_socket))
    with PageServer(tmp_socket, source), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch([1]).check()


def test_file_that_is_no_socket_is_not_replaced(source: FileSource, tmp_socket: Path) -> None:
    tmp_socket.write_text("precious")
    with pytest.raises(VmthawError):
        PageServer(tmp_socket, source)
    assert tmp_socket.read_text() == "precious"


def test_each_session_may_have_its_own_source(memory_file: Path, full_memory_file: Path, tmp_socket: Path) -> None:
    numbers: list[int] = []
    with FileSource(memory_file) as first, FileSource(full_memory_file) as second:

        def choose(info: object) -> FileSource:
            numbers.append(info.number)  # type: ignore[attr-defined]
            return first if len(numbers) == 1 else second

        with PageServer(tmp_socket, choose) as server, FakeVmm(memory_file) as one, FakeVmm(full_memory_file) as two:
            one.handover(tmp_socket)
            server.ready(10)
            two.handover(tmp_socket)
            one.touch("random").check()
            two.touch("random").check()
        assert numbers == [0, 1]


def test_events_come_in_order(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server:
        assert select.select([server], [], [], 0)[0] == []
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            server.ready(10)
            session = server.sessions[0]
            assert session.pid == vmm.pid
            assert session.label == f"pid {vmm.pid}"
            assert session.fileno() >= 0
            assert repr(session) == f"<PagerSession {session.id} pid {vmm.pid}>"
            vmm.touch([1, 2, 3]).check()
        server.wait(10)
        seen: list[SessionEventKind] = []

        def all_seen() -> bool:
            if select.select([server], [], [], 0)[0]:
                events = server.events()
                assert all(event.session == session.id for event in events)
                assert [event.t_ns for event in events] == sorted(event.t_ns for event in events)
                seen.extend(event.kind for event in events)
            return SessionEventKind.closed in seen

        eventually(all_seen)
        assert seen == [SessionEventKind.connected, SessionEventKind.first_fault, SessionEventKind.closed]
        assert server.events() == []
        assert session.fileno() == -1


def test_failed_event_comes_with_its_session(full_memory_file: Path, tmp_socket: Path) -> None:
    config = PagerConfig(retries=0, fill_mode=FillMode.page)
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=config) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        flaky.failing.add(9)
        with pytest.raises(EOFError):
            vmm.read(9)
        kinds: list[SessionEventKind] = []

        def closed() -> bool:
            kinds.extend(event.kind for event in server.events())
            return SessionEventKind.closed in kinds

        eventually(closed)
        assert kinds.index(SessionEventKind.failed) > kinds.index(SessionEventKind.connected)
        assert kinds[-1] is SessionEventKind.closed


def test_vm_that_closes_its_socket_is_served_on(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server, FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch([1]).check()
        vmm.close_socket()
        vmm.touch("random").check()
        assert len(server.sessions) == 1
        vmm.verify(only_touched=False).check()


def test_death_of_a_vm_ends_its_session_promptly(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source, config=PagerConfig(poll_interval=0)) as server:
        vmm = FakeVmm(full_memory_file)
        vmm.handover(tmp_socket)
        vmm.touch([1]).check()
        session = the_session(server)
        vmm.kill()
        assert session.wait(1.0)
        assert session.end_reason is EndReason.vm_exited
        assert session.missing_pages() == 0
        server.wait(1)


def test_death_of_a_vm_in_a_fault_ends_its_session(full_memory_file: Path, tmp_socket: Path) -> None:
    with FlakySource(full_memory_file) as slow, PageServer(tmp_socket, slow.source) as server, RawVmm(PAGES) as vmm:
        vmm.handover(tmp_socket)
        slow.held.add(7)
        vmm.start_read(7)
        assert slow.entered.wait(10)
        vmm.kill()
        assert the_session(server).wait(2.0)
        slow.let_go.set()
        server.stop()


async def asyncio_face(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    kinds: list[SessionEventKind] = []
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with PageServer(tmp_socket, source) as server:

        def on_events() -> None:
            kinds.extend(event.kind for event in server.events())
            if SessionEventKind.closed in kinds:
                closed.set()

        loop.add_reader(server.fileno(), on_events)
        with pytest.raises(VmthawTimeoutError, match="no VM"):
            await server.ready_async(0.05)
        ready = asyncio.create_task(server.ready_async(10))
        vmm = await asyncio.to_thread(FakeVmm, full_memory_file)
        await asyncio.to_thread(vmm.handover, tmp_socket)
        await ready
        await asyncio.to_thread(lambda: vmm.touch("random").check())
        waiting = asyncio.create_task(server.wait_async())
        await asyncio.sleep(0)
        assert not waiting.done()
        cancelled = asyncio.create_task(server.wait_async())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.to_thread(vmm.close)
        await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(closed.wait(), 10)
        loop.remove_reader(server.fileno())
    assert kinds == [SessionEventKind.connected, SessionEventKind.first_fault, SessionEventKind.closed]


def test_asyncio_face(
    source: FileSource, full_memory_file: Path, tmp_socket: Path, leaks_nothing: Callable[[], None]
) -> None:
    asyncio.run(asyncio_face(source, full_memory_file, tmp_socket))


def test_stopping_ends_an_async_wait(source: FileSource, tmp_socket: Path) -> None:
    async def body() -> None:
        server = PageServer(tmp_socket, source).start()
        waits = [asyncio.create_task(server.ready_async()), asyncio.create_task(server.wait_async())]
        await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop)
        await asyncio.wait_for(asyncio.gather(*waits), 5)

    asyncio.run(body())


def test_stats_add_up_over_sessions(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source, config=PagerConfig(fill_mode=FillMode.page)) as server:
        for pages in (10, 20):
            with FakeVmm(full_memory_file) as vmm:
                vmm.handover(tmp_socket)
                vmm.touch(range(pages)).check()
            server.wait(10)
        stats = server.stats
        assert stats.faults == stats.installed == 30
        assert stats.latency_ns(0.5) > 0
        bounds, counts = stats.latency_histogram()
        assert int(counts.sum()) == 30
        assert len(bounds) == len(counts)
