"""`vmthaw demo`: it must pass, and it must fail with every wrong server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vmthaw.cli._errors import Exit
from vmthaw.cli._mutants import MUTANTS

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
PAGES = (4 << 20) // 4096


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw", "demo", "--memory", "4MiB", *options],
        capture_output=True, text=True, timeout=45, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_every_way_of_restoring_is_verified_and_kept(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    done = demo("--json", "--keep", str(keep))
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    report = json.loads(done.stdout)
    assert report["verified"]
    results = {result["name"]: result for result in report["results"]}
    assert list(results) == [
        "vmthaw, default plan", "vmthaw, page by page", "textbook loop", "eager read", "private file mapping",
    ]  # fmt: skip
    for result in results.values():
        times = [result[name] for name in ("handover_ms", "first_touch_ms", "working_set_ms", "all_touched_ms")]
        assert all(result["verified"] for result in results.values())
        assert times == sorted(times), result
    assert results["vmthaw, default plan"]["pages"] == PAGES
    assert results["vmthaw, default plan"]["faults"] < results["vmthaw, page by page"]["faults"] == PAGES
    assert results["textbook loop"]["faults"] == PAGES
    assert results["vmthaw, default plan"]["zero_pages"] == round(report["zero_share"] * PAGES)
    assert "a private mapping wins" in report["meaning"]
    assert json.loads((keep / "results.json").read_text()) == report
    assert (keep / "memory.bin").stat().st_size == 4 << 20
    assert sorted(path.name for path in keep.iterdir()) == ["memory.bin", "results.json"]


def test_the_table_says_what_it_means() -> None:
    done = demo()
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    for name in ("vmthaw, default plan", "textbook loop", "private file mapping", "working", "When not to use it"):
        assert name in done.stdout
    assert done.stdout.count("right") == 5


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_every_wrong_server_makes_it_fail(mutant: str) -> None:
    done = demo("--mutant", mutant)
    assert done.returncode == Exit.FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vmthaw demo: verification failed: mutant: {mutant}: ")
    assert ("not answered" if mutant == "lost-fault" else "wrong bytes") in line
    assert "WRONG" in done.stdout
