"""What a server tells of its sessions: events, ends, failures, also to asyncio."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource, the_session
from tests.support.eventually import eventually
from vmthaw import (
    EndReason,
    FileSource,
    FillMode,
    PagerConfig,
    PageServer,
    SessionEventKind,
)
from vmthaw.errors import (
    VmthawTimeoutError,
)
from vmthaw.testing import FakeVmm

pytestmark = pytest.mark.usefixtures("leaks_nothing")


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
