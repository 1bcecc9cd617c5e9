"""`vmthaw record` is `vmthaw serve` and a trace of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.integration.cli.serving import Serving
from vmthaw import Trace
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.testing import FakeVmm, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
PAGES = 1024


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    write_memory_file(path, PAGES * 4096, zero_share=0.3, seed=5)
    return path


def test_every_page_that_was_served_is_in_the_trace(memory: Path, tmp_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "boot.parquet"
    options = ("-o", str(path), "--title", "a boot", "--once")
    with Serving(tmp_socket, memory, *options, command="record") as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=1).check()
        assert serving.wait() == Exit.OK
        (closed,) = serving.named("closed")
        (recorded,) = serving.named("recorded")
    trace = Trace.open(path)
    found = trace.summary()
    assert (recorded["records"], recorded["dropped"], recorded["path"]) == (len(trace), 0, str(path))
    assert found.pages == closed["stats"]["installed"] == PAGES
    assert found.pages_by_class["zero"] == closed["stats"]["zero"]
    assert (trace.name, trace.info.notes["memory file"]) == ("a boot", str(memory))
    assert [each.name for each in tmp_path.glob("boot*")] == ["boot.parquet"]
    page = tmp_path / "boot.html"
    subprocess.run([sys.executable, "-m", "vmthaw", "report", path, "-o", page], check=True, stdout=subprocess.DEVNULL)
    assert "<h1>a boot</h1>" in page.read_text(encoding="utf-8")


def test_a_signal_ends_the_recording_with_what_draining_brought(memory: Path, tmp_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "boot.parquet"
    with Serving(tmp_socket, memory, "-o", str(path), command="record") as serving, FakeVmm(memory) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch([5]).check()
        serving.signal(signal.SIGTERM)
        assert serving.wait() == Exit.OK
        vmm.verify(only_touched=False).check()
        (closed,) = serving.named("closed")
    found = Trace.open(path).summary()
    assert found.complete
    # Draining need not install zeros: a page that is in nobody's hands reads so anyway.
    assert found.pages == closed["stats"]["installed"] > 0.7 * PAGES
    assert found.pages_by_class["data"] == closed["stats"]["installed"] - closed["stats"]["zero"]


def test_what_was_recorded_before_kill_9_can_be_reported(memory: Path, tmp_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "boot.parquet"
    stream = tmp_path / "boot.parquet.recording.arrow"
    with Serving(tmp_socket, memory, "-o", str(path), command="record") as serving, FakeVmm(memory) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=1).check()
        before = stream.stat().st_size
        while len(Trace.open(stream)) == 0:
            assert serving.process.poll() is None
        assert stream.stat().st_size >= before
        serving.kill()
    page = tmp_path / "boot.html"
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw", "report", path, "-o", page], capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.UNABLE
    assert f"open {stream} instead" in done.stderr
    subprocess.run(
        [sys.executable, "-m", "vmthaw", "report", stream, "-o", page], check=True, stdout=subprocess.DEVNULL
    )
    assert "The recording was cut off" in page.read_text(encoding="utf-8")


def test_a_full_disk_ends_the_recording_and_not_the_vms(memory: Path, tmp_socket: Path, small_disk: Path) -> None:
    options = ("-o", str(small_disk / "boot.parquet"), "--fill-mode", "page", "--once")
    with Serving(tmp_socket, memory, *options, command="record") as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=1).check()
            vmm.verify(only_touched=False).check()
        assert serving.wait() == Exit.FAILED
        (stopped,) = serving.named("stopped")
        assert (stopped["stats"]["installed"], stopped["failures"]) == (PAGES, 0)
        assert "No space left on device" in serving.errors[-1]
        assert any("No space left" in line["text"] for line in serving.named("log"))


def test_a_trace_is_not_overwritten_by_accident(memory: Path, tmp_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "boot.parquet"
    path.write_bytes(b"mine")
    arguments = ["record", "--memory", str(memory), "--socket", str(tmp_socket), "-o"]
    done = CliRunner().invoke(cli, [*arguments, str(path)])
    assert done.exit_code == Exit.UNABLE
    assert done.stderr.strip().endswith(f"{path} exists: choose another name, or overwrite it with --force")
    assert path.read_bytes() == b"mine"
    assert not os.path.lexists(tmp_socket), "nothing was served"
    done = CliRunner().invoke(cli, [*arguments, str(tmp_path / "boot.csv")])
    assert done.exit_code == Exit.USAGE
    assert "must end in .parquet or .arrow" in done.stderr
    with Serving(tmp_socket, memory, "-o", str(path), "--force", "--once", command="record") as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch([1]).check()
        assert serving.wait() == Exit.OK
    assert len(Trace.open(path)) > 0
