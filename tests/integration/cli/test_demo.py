"""`vmthaw demo`: it must pass, and it must fail with every wrong server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmthaw.cli._demo.mutants import MUTANTS
from vmthaw.cli._errors import Exit

pytestmark = pytest.mark.usefixtures("userfaultfd_available")

WAYS = [
    "vmthaw, first restore",
    "vmthaw, knowing the working set",
    "textbook loop",
    "eager read",
    "private file mapping",
]
FILES = ["first.parquet", "memory.png", "report.html", "results.json", "second.parquet"]


@pytest.fixture(params=["kvm", "fake"])
def guest(request: pytest.FixtureRequest) -> str:
    if request.param == "kvm":
        request.getfixturevalue("kvm_available")
    return str(request.param)


def command(*options: str, memory: str = "8MiB") -> list[str]:
    return [sys.executable, "-m", "vmthaw", "demo", "--memory", memory, *options]


def demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=60, check=False, cwd=directory)
    assert "Traceback" not in done.stderr
    return done


def test_every_way_of_restoring_is_verified_by_the_guest(guest: str, tmp_path: Path) -> None:
    done = demo(tmp_path, "--json", "--guest", guest, "--output", "out")
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    report = json.loads(done.stdout)
    results = {result["name"]: result for result in report["results"]}
    assert list(results) == WAYS
    assert report["verified"]
    for result in results.values():
        times = [result[name] for name in ("resume_ms", "first_answer_ms", "working_set_ms")]
        assert result["verified"]
        assert times == sorted(times), result
        assert result["memory_bytes"] > 0
    first, second = results[WAYS[0]], results[WAYS[1]]
    touched = report["working_set_pages"]
    assert 0.9 * touched <= first["pages"] <= 1.2 * touched + 16  # some twice, some around a fault
    assert first["faults"] > second["faults"]
    assert 0 < first["zero_pages"] < first["pages"]
    assert results["eager read"]["memory_bytes"] > first["memory_bytes"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert sorted(Path(path).name for path in report["files"]) == FILES


def test_the_table_says_what_it_means_and_where_the_pictures_are(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    for name in (*WAYS, "times as long", "When not to use it", str(tmp_path / "demo-results" / "report.html")):
        assert " ".join(name.split()) in " ".join(done.stdout.split())  # lines are broken anywhere
    assert done.stdout.count("verified") == len(WAYS)


def test_results_of_an_earlier_demo_are_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    assert demo(tmp_path, "--guest", "fake").returncode == Exit.OK
    assert demo(tmp_path, "--guest", "fake").returncode == Exit.OK
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("years of work")
    done = demo(tmp_path, "--output", "mine")
    assert done.returncode == Exit.UNABLE
    assert "not a demo's" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis"]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_wrong_server_makes_it_fail(mutant: str, guest: str, tmp_path: Path) -> None:
    done = demo(tmp_path, "--mutant", mutant, "--guest", guest)
    assert done.returncode == Exit.FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vmthaw demo: verification failed: mutant: {mutant}: ")
    wrong = "words are wrong" if guest == "kvm" else "wrong bytes"
    assert ("not answered" if mutant == "lost-fault" else wrong) in line
    assert "WRONG" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_process_and_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    running = subprocess.Popen(command(memory="256MiB"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("vmthaw-demo-*/**/memory.bin")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == Exit.INTERRUPTED
    assert "Traceback" not in errors
    assert list(tmp_path.glob("vmthaw-demo-*")) == []
