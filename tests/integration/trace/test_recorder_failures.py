"""What a recorder does when something fails: it loses nothing silently, and serving goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.trace.conftest import PAGES
from tests.integration.trace.support import served, touch_all
from vmthaw import FillMode, PagerConfig, Trace, TraceRecorder
from vmthaw.errors import VmthawFileExistsError, VmthawOSError, VmthawValueError
from vmthaw.testing import FakeVmm
from vmthaw.trace._collector import collector


def test_records_that_nobody_took_in_time_are_counted_and_placed(
    tmp_path: Path, tmp_socket: Path, memory_file: Path
) -> None:
    path = tmp_path / "t.parquet"
    config = PagerConfig(trace_records=64, fill_mode=FillMode.page)
    with (
        served(tmp_socket, memory_file, config) as server,
        TraceRecorder(path, server) as recorder,
        FakeVmm(memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        server.ready(10)
        with collector()._lock:  # nobody takes anything meanwhile
            vmm.touch("random", seed=5).check()
    trace = Trace.open(path)
    assert len(trace) == 64
    assert recorder.dropped == trace.info.dropped == trace.summary().dropped == PAGES - 64
    (gap,) = trace.info.gaps
    assert (gap.after, gap.dropped, gap.where) == (64, PAGES - 64, "ring")
    assert gap.session == trace.info.sessions[0].id


def test_a_disk_that_is_too_slow_loses_records_and_says_so(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    path = tmp_path / "t.arrow"
    config = PagerConfig(fill_mode=FillMode.page)
    with served(tmp_socket, memory_file, config) as server, TraceRecorder(path, server, max_pending=0) as recorder:
        touch_all(tmp_socket, memory_file)
    trace = Trace.open(path)
    assert len(trace) == 0
    assert trace.info.dropped == recorder.dropped == PAGES
    assert {gap.where for gap in trace.info.gaps} == {"writer"}


_KILLED = """
import sys, time
from pathlib import Path
from vmthaw import FileSource, FillMode, PagerConfig, PageServer, TraceRecorder
from vmthaw.testing import FakeVmm
directory, memory = Path(sys.argv[1]), sys.argv[2]
config = PagerConfig(fill_mode=FillMode.page)
with FileSource(memory) as source, PageServer(directory / "s", source, config=config) as server:
    recorder = TraceRecorder(directory / "t.parquet", server).start()
    with FakeVmm(memory) as vmm:
        vmm.handover(directory / "s")
        for page in range(1024):
            vmm.touch([page]).check()
            if page % 100 == 0:
                print(page, recorder.recorded, flush=True)
            time.sleep(0.0005)
"""


def test_a_recording_survives_kill_9(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_socket.parent), str(memory_file)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        recorded = 0
        while recorded < 200:
            line = process.stdout.readline()
            assert line, "it ended by itself"
            recorded = int(line.split()[1])
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with pytest.raises(FileNotFoundError, match=r"did not end by itself, open .*recording\.arrow"):
        Trace.open(tmp_socket.parent / "t.parquet")
    trace = Trace.open(tmp_socket.parent / "t.parquet.recording.arrow")
    assert len(trace) >= recorded
    assert trace.records["offset"].tolist() == [4096 * page for page in range(len(trace))]
    assert not trace.summary().complete
    assert trace.info.sessions[0].regions[0].size == PAGES * 4096


def test_a_full_disk_ends_recording_but_not_serving(
    small_disk: Path, tmp_socket: Path, memory_file: Path, eventually: Callable[..., object]
) -> None:
    path = small_disk / "t.parquet"
    config = PagerConfig(fill_mode=FillMode.page)
    with served(tmp_socket, memory_file, config) as server:
        recorder = TraceRecorder(path, server).start()
        with FakeVmm(memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch(list(range(300))).check()
            eventually(lambda: recorder.recorded >= 300, what="the first batch was written")
            vmm.touch("random", seed=5).check()
            eventually(lambda: recorder.error, what="the disk is full")
            vmm.verify(only_touched=False).check()
        with pytest.raises(VmthawOSError, match="No space left on device") as caught:
            recorder.stop()
        assert caught.value.errno == 28
        assert "Trace.open" in str(caught.value)
        assert server.stats.failed == 0
    trace = Trace.open(path.with_name("t.parquet.recording.arrow"))
    assert 300 <= len(trace) == recorder.recorded < PAGES
    assert not trace.info.complete
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path, tmp_socket: Path, memory_file: Path) -> None:
    with served(tmp_socket, memory_file) as server:
        with pytest.raises(VmthawOSError, match="cannot be made: No such file"):
            TraceRecorder(tmp_path / "none" / "t.parquet", server).start()
        with pytest.raises(VmthawValueError, match=r"\.parquet or \.arrow"):
            TraceRecorder(tmp_path / "t.csv", server)
        (tmp_path / "t.parquet").write_bytes(b"precious")
        with pytest.raises(VmthawFileExistsError, match="another name, or overwrite"):
            TraceRecorder(tmp_path / "t.parquet", server).start()
        assert (tmp_path / "t.parquet").read_bytes() == b"precious"
        with TraceRecorder(tmp_path / "t.parquet", server, overwrite=True):
            touch_all(tmp_socket, memory_file)
    assert Trace.open(tmp_path / "t.parquet").summary().pages == PAGES
