"""What a recorder writes is what the server did."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.integration.trace.conftest import PAGES
from tests.integration.trace.support import served, touch_all
from vmthaw import FillMode, PagerConfig, PageServer, PythonSource, Trace, TraceRecorder, WorkingSet
from vmthaw.errors import StateError
from vmthaw.testing import FakeVmm


def test_records_equal_the_counters(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    path = tmp_path / "t.parquet"
    with served(tmp_socket, memory_file) as server, TraceRecorder(path, server) as recorder:
        touch_all(tmp_socket, memory_file)
        touch_all(tmp_socket, memory_file, "sequential")
        server.wait(10)
        stats = server.stats
    trace = Trace.open(path)
    found = trace.summary()
    assert found.dropped == 0
    assert found.pages == stats.installed == 2 * PAGES
    assert found.pages_by_kind["fault-around"] == stats.fault_around
    assert found.pages_by_class["zero"] == stats.zero
    assert found.already_present == stats.redundant
    assert found.faults == found.pages_by_kind["demand"] + found.already_present
    assert found.faults <= stats.faults - stats.coalesced
    assert found.latency["demand"].count == sum(stats.latency_histogram()[1])
    assert found.vms == 2
    assert found.memory_bytes == 2 * PAGES * 4096
    assert found.complete
    assert recorder.recorded == len(trace)
    assert not recorder.stream_path.exists()
    for vm in trace.info.sessions:
        part = trace.session(vm.id)
        assert part.summary().pages == PAGES
        assert vm.label == f"pid {vm.pid}"
        assert (part.records["guest_address"] == part.records["offset"]).all()


def test_a_page_is_recorded_once(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    path = tmp_path / "t.arrow"
    config = PagerConfig(fill_mode=FillMode.block, fill_bytes=64 << 10)
    with served(tmp_socket, memory_file, config) as server, TraceRecorder(path, server):
        touch_all(tmp_socket, memory_file)
    records = Trace.open(path).records
    installed = records[records["outcome"] == 0]
    offsets = np.concatenate([row["offset"] + 4096 * np.arange(row["pages"]) for row in installed])
    assert sorted(offsets) == [4096 * page for page in range(PAGES)]


def test_live_records_are_the_newest_and_take_nothing_from_a_recorder(
    tmp_path: Path, tmp_socket: Path, memory_file: Path
) -> None:
    path = tmp_path / "t.parquet"
    config = PagerConfig(fill_mode=FillMode.page)
    with served(tmp_socket, memory_file, config) as server, TraceRecorder(path, server):
        server.enable_trace(live=100)
        touch_all(tmp_socket, memory_file)
        live = server.trace()
        assert len(live) == 100
        assert len(server.trace(7)) == 7
    recorded = Trace.open(path).records
    assert len(recorded) == PAGES
    assert np.array_equal(live["offset"], recorded[-100:]["offset"])
    assert np.array_equal(server.trace(), live), "what was there stays when the server has stopped"


def test_tracing_costs_nothing_and_gives_nothing_until_it_is_wanted(tmp_socket: Path, memory_file: Path) -> None:
    with served(tmp_socket, memory_file) as server:
        with pytest.raises(StateError, match="enable_trace"):
            server.trace()
        with FakeVmm(memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch([0, 1]).check()
            (session,) = server.sessions
            assert not session._tracing()
            server.enable_trace()
            vmm.touch([700]).check()
            assert server.trace()["offset"].tolist()[0] == 700 * 4096
            server.disable_trace()
            before = len(server.trace())
            vmm.touch([300]).check()
            assert len(server.trace()) == before


def test_a_recorder_leaves_tracing_as_it_was(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    with served(tmp_socket, memory_file) as server, FakeVmm(memory_file) as vmm:
        vmm.handover(tmp_socket)
        server.ready(10)
        (session,) = server.sessions
        with TraceRecorder(tmp_path / "a.arrow", server):
            with TraceRecorder(tmp_path / "b.arrow", server):
                assert session._tracing()
                vmm.touch([5]).check()
            assert session._tracing()
            vmm.touch([900]).check()
        assert not session._tracing()
    a, b = (Trace.open(tmp_path / name).summary() for name in ("a.arrow", "b.arrow"))
    assert a.faults == 2
    assert b.faults == 1


def test_one_session_can_be_recorded_alone(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    path = tmp_path / "one.parquet"
    with served(tmp_socket, memory_file) as server, FakeVmm(memory_file) as first, FakeVmm(memory_file) as second:
        first.handover(tmp_socket)
        server.ready(10)
        (session,) = server.sessions
        second.handover(tmp_socket)
        with TraceRecorder(path, session):
            first.touch("random", seed=1).check()
            second.touch("random", seed=1).check()
    trace = Trace.open(path)
    assert set(trace.records["session"]) == {session.id}
    assert trace.summary().pages == PAGES


def test_a_working_set_is_what_a_trace_demanded_in_its_order(
    tmp_path: Path, tmp_socket: Path, memory_file: Path
) -> None:
    touched = [700, 3, 512, 4, 1023, 3]
    config = PagerConfig(fill_mode=FillMode.page)
    with (
        served(tmp_socket, memory_file, config) as server,
        TraceRecorder(tmp_path / "t.parquet", server),
        FakeVmm(memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch(touched).check()
    found = WorkingSet.from_trace(Trace.open(tmp_path / "t.parquet"))
    assert (found.pages // np.uint64(4096)).tolist() == touched[:-1]
    assert found.page_size == 4096


def test_what_the_vm_gives_back_is_recorded(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    path = tmp_path / "t.parquet"
    with served(tmp_socket, memory_file) as server, TraceRecorder(path, server), FakeVmm(memory_file) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("sequential").check()
        vmm.remove([(16, 4)]).check()
        vmm.touch([17]).check()
        stats = server.stats
    trace = Trace.open(path)
    removal = trace.records[trace.records["kind"] == 4]
    assert (removal["offset"].tolist(), removal["pages"].tolist()) == ([16 * 4096], [4])
    assert trace.summary().removed_pages == stats.removed == 4
    again = trace.sql("select page_class, \"offset\" from faults where page_class = 'removed' and kind = 'demand'")
    assert again.to_pylist() == [{"page_class": "removed", "offset": 17 * 4096}]


def test_a_page_that_failed_and_the_tier_that_answered_are_recorded(
    tmp_path: Path, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    def read(offset: int, size: int) -> bytes:
        if offset == 8 * 4096:
            raise OSError(5, "this page cannot be read")
        return b"x" * size

    path = tmp_path / "t.parquet"
    config = PagerConfig(fill_mode=FillMode.page, retries=0)
    (tmp_path / "memory").write_bytes(b"x" * (64 * 4096))
    with (
        PythonSource(read, 64 * 4096) as source,
        PageServer(tmp_socket, source, config=config) as server,
        TraceRecorder(path, server),
        FakeVmm(tmp_path / "memory") as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch([3]).check()
        with contextlib.suppress(Exception):  # the VM is killed
            vmm.touch([8], timeout=5)
        eventually(lambda: server.stats.failed, what="the page failed")
    rows = Trace.open(path).faults.select(["offset", "source", "outcome", "pages"]).to_pylist()
    assert {"offset": 3 * 4096, "source": "python", "outcome": "installed", "pages": 1} in rows
    assert {"offset": 8 * 4096, "source": "none", "outcome": "failed", "pages": 0} in rows


def test_a_forked_child_leaves_the_recording_alone(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    path = tmp_path / "t.parquet"
    with served(tmp_socket, memory_file) as server, TraceRecorder(path, server) as recorder:
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                recorder.stop()
                code = 0 if not path.exists() else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        touch_all(tmp_socket, memory_file)
    assert Trace.open(path).summary().pages == PAGES


def test_the_tracing_thread_ends_with_the_last_who_wants_records(
    tmp_path: Path, tmp_socket: Path, memory_file: Path, eventually: Callable[..., object]
) -> None:
    import threading

    def running() -> bool:
        return any(thread.name in ("vmthaw-tracer", "vmthaw-recorder") for thread in threading.enumerate())

    with served(tmp_socket, memory_file) as server:
        with TraceRecorder(tmp_path / "t.arrow", server):
            assert running()
        touch_all(tmp_socket, memory_file)
    eventually(lambda: not running(), what="the threads have ended")
