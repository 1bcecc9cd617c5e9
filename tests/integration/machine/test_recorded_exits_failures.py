"""What becomes of recorded exits when something fails: nothing is lost silently, and the guest runs on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG, OUT_FOR_EVER, out
from tests.integration.machine.test_machine_run import machine_with
from tests.support.eventually import eventually
from vmthaw import PageServer, Trace, TraceRecorder, ZeroSource
from vmthaw.errors import StateError, VmthawFileExistsError, VmthawOSError, VmthawValueError
from vmthaw.trace._reader import Parts

pytestmark = pytest.mark.usefixtures("kvm_available")

_KILLED = """
import sys, time
from tests.integration.kvm.test_run_loop import OUT_FOR_EVER
from tests.integration.machine.test_machine_run import machine_with
from vmthaw import TraceRecorder
with machine_with(OUT_FOR_EVER, exit_records=1 << 18) as machine, TraceRecorder(sys.argv[1], machine) as recorder:
    machine.start()
    while True:
        print(recorder.exits_recorded, flush=True)
        time.sleep(0.05)
"""


def test_recorded_exits_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    try:
        assert process.stdout is not None
        recorded = 0
        while recorded < 1000:
            line = process.stdout.readline()
            assert line, "it ended by itself"
            recorded = int(line)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with pytest.raises(FileNotFoundError, match=r"did not end by itself, open .*recording\.arrow"):
        Trace.open(path)
    found = Trace.open(tmp_path / "t.parquet.recording.arrow")
    assert len(found.exit_records) >= recorded
    assert set(found.exit_records["address"].tolist()) == {0x80}
    assert (np.diff(found.exit_records["t_enter_ns"].astype(np.int64)) > 0).all()
    summary = found.summary().exits
    assert summary is not None
    assert not summary.complete
    assert not found.summary().complete


def test_a_full_disk_ends_recording_but_not_the_guest(small_disk: Path) -> None:
    path = small_disk / "t.parquet"
    with machine_with(out(0x80, 1) + HLT + OUT_FOR_EVER, exit_records=1 << 16) as machine:
        recorder = TraceRecorder(path, machine).start()
        machine.run(timeout=LONG)
        eventually(lambda: recorder.exits_recorded == 2, LONG)
        machine.start()
        eventually(lambda: recorder.error, LONG)
        before = machine.stats[0].exits["IO"]
        eventually(lambda: machine.stats[0].exits["IO"] > before, LONG)
        with pytest.raises(VmthawOSError, match="No space left on device") as caught:
            recorder.stop()
        assert str(path.with_name("t.exits.parquet.recording.arrow")) in str(caught.value)
        assert f"{recorder.exits_recorded} exits can be opened with Trace.open" in str(caught.value)
        machine.stop()
    found = Trace.open(path.with_name("t.parquet.recording.arrow"))
    assert 2 <= len(found.exit_records) == recorder.exits_recorded
    assert not path.exists()
    assert not path.with_name("t.exits.parquet").exists()


@pytest.mark.parametrize(
    "name", ["t.parquet", "t.exits.parquet", "t.parquet.recording.arrow", "t.exits.parquet.recording.arrow"]
)
def test_no_file_of_a_recording_is_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with machine_with(out(0x80, 1) + HLT, exit_records=8) as machine:
        with pytest.raises(VmthawFileExistsError, match="another name, or overwrite"):
            TraceRecorder(tmp_path / "t.parquet", machine).start()
        assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"precious"]
        with TraceRecorder(tmp_path / "t.parquet", machine, overwrite=True):
            machine.run(timeout=LONG)
    assert len(Trace.open(tmp_path / "t.parquet").exit_records) == 2


def test_a_recording_that_cannot_begin_leaves_nothing(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "t.parquet"
    with machine_with(out(0x80, 1) + HLT, exit_records=8) as machine:
        with pytest.raises(VmthawOSError, match=r"t\.exits\.parquet\.recording\.arrow cannot be made: No such file"):
            TraceRecorder(tmp_path / "none" / "t.parquet", machine).start()
        with ZeroSource(1 << 20) as source, PageServer(tmp_socket, source) as server:
            recorder = TraceRecorder(path, server, exits=machine, ring_records=0)
            with pytest.raises(VmthawValueError, match="at least 1 where tracing is switched on"):
                recorder.start()
            assert not list(tmp_path.glob("*.arrow"))
            with pytest.raises(StateError, match="has been started"):
                recorder.start()
        machine.run(timeout=LONG)
        assert len(machine.take_exit_records()) == 2, "the machine's records are its own again"


def test_parquet_that_cannot_be_made_leaves_both_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmthaw.trace import _channel

    def fail(path: Path, parts: Parts) -> None:
        if parts.table.name == "exits":
            raise OSError(28, "No space left on device")
        path.write_bytes(b"made")

    monkeypatch.setattr(_channel, "write_parquet", fail)
    with machine_with(out(0x80, 1) + HLT, exit_records=8) as machine:
        recorder = TraceRecorder(tmp_path / "t.parquet", machine).start()
        machine.run(timeout=LONG)
        with pytest.raises(VmthawOSError, match="No space left"):
            recorder.stop()
    names = ["t.exits.parquet.recording.arrow", "t.parquet.recording.arrow"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    found = Trace.open(tmp_path / names[1])
    assert len(found.exit_records) == 2
