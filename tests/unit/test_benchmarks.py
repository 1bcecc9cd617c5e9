"""The benchmarks run and report; how fast anything is, is not judged here."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from tests.benchmarks import cases, exit_guest, freeze_cases, fuse_cases, mapping_child, report, rounds, run_cases
from tests.benchmarks.bench import Bench, Case, Sample
from tests.benchmarks.cases import all_cases
from tests.benchmarks.goals import GOALS
from tests.benchmarks.memory_files import MemoryFiles, resident_share
from tests.benchmarks.server_child import FailingFile
from tests.benchmarks.subjects import SUBJECTS, complete
from tests.support.tree import ROOT
from vmthaw.errors import VmthawError
from vmthaw.testing import FindingsError, TextbookServer


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory beside what the build makes: /tmp may be a tmpfs, which nothing is evicted from."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "build") as directory:
        yield Path(directory)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks", "--quick", "--rounds", "1", "--size", "16MiB", *arguments]


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_small_run_measures_verifies_and_writes_json(tmp_path: Path, disk: Path) -> None:
    path = tmp_path / "found.json"
    names = [
        "random/textbook",
        "random/default",
        "trace/loop-2",
        "trace/server",
        "random/mapping-cold",
        "many/page-16",
        "failing/one-page-fails",
    ]
    only = [word for name in names for word in ("--only", name)]
    done = subprocess.run(
        command(*only, "--json", str(path), "--directory", str(disk / "memory")),
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["schema"] == report.SCHEMA
    assert found["complete"] is True
    assert found["conditions"]["size_bytes"] == 16 << 20
    assert "100% resident" in found["conditions"]["page_cache"]
    by_name = {case["name"]: case for case in found["cases"]}
    assert set(names) <= set(by_name)
    for case in by_name.values():
        assert len(case["samples"]) == 1
        assert case["median"]["us_per_page"] > 0
    assert by_name["random/textbook"]["ratio_to_textbook"] == 1
    assert by_name["random/textbook"]["median"]["touched"] == 409
    assert by_name["random/default"]["median"]["cpu_seconds"] > 0
    assert by_name["trace/loop-2"]["median"]["touched"] == 1 << 20
    assert by_name["trace/server"]["median"]["installed"] == 409
    assert by_name["random/default"]["median"]["installed"] >= 409
    assert by_name["random/default"]["median"]["wasted"] == by_name["random/default"]["median"]["installed"] - 409
    assert not list((disk / "memory").iterdir()), "the memory files were left behind"


@pytest.mark.usefixtures("userfaultfd_available")
def test_an_interrupted_run_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    marker = str(tmp_path / "memory")
    process = subprocess.Popen(
        command("--only", "sequential/textbook", "--rounds", "1000", "--json", str(tmp_path / "x.json"),
                "--directory", marker),
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        # A child between its fork and its exec has that command line, too, before there is a directory.
        while not (Path(marker).exists() and processes_that_name(marker, but=process.pid)):
            assert time.monotonic() < deadline, "no server was started"
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) in (1, 130)
    finally:
        process.kill()
        process.wait(10)
    assert processes_that_name(marker, but=process.pid) == []
    assert not list(Path(marker).iterdir())


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_server_that_gives_a_wrong_byte_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "TextbookServer", functools.partial(TextbookServer, wrong_byte_at_fault=100))
    with MemoryFiles(4 << 20, tmp_path) as files, pytest.raises(FindingsError, match="1 pages hold the wrong bytes"):
        cases.run_case(Case("random/wrong", cases.textbook("random"), ""), Bench(files))


def test_a_page_of_a_mapping_that_differs_from_the_file_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([number]) * 4096 for number in range(4)))
    memory = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    memory[2 * 4096 + 17] ^= 1
    with path.open("rb") as file:
        assert mapping_child.mismatches(file.fileno(), memory, [0, 1, 2, 3]) == 1
        assert mapping_child.mismatches(file.fileno(), memory, [3, 1]) == 0


def test_eviction_and_warming_are_told_apart(disk: Path) -> None:
    with MemoryFiles(4 << 20, disk) as files:
        files.evict()
        assert resident_share(files.cold) == 0
        assert resident_share(files.warm) == 1
        files.warm.write_bytes(files.warm.read_bytes())
        with files.warm.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert not files.stayed_warm()
        files.warm_up()
        assert files.stayed_warm()


def processes_that_name(text: str, but: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (but, os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(int(entry.name))
    return found


def test_every_goal_names_cases_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "why_no_guest", lambda: None)
    monkeypatch.setattr(fuse_cases, "why_no_libfuse", lambda: None)
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)
    for goal in GOALS:
        assert {goal.ours, goal.theirs} <= set(names)


def test_ratios_are_taken_within_a_round_before_the_median() -> None:
    slow_second = {
        "random/page": [Sample(1.0, 1), Sample(8.0, 1), Sample(1.0, 1)],
        "random/textbook": [Sample(2.0, 1), Sample(32.0, 1), Sample(4.0, 1)],
    }
    goal = next(goal for goal in GOALS if goal.key == "page-free-random")
    assert goal.value(slow_second) == 0.25
    assert goal.passed(0.5)
    assert not goal.passed(0.51)
    assert goal.value({"random/page": [Sample(1.0, 1)]}) is None
    rows = report.make_rows([case for case in all_cases() if case.name in slow_second], slow_second)
    assert [row.ratio for row in rows] == [1.0, 0.25]


def test_a_case_that_takes_turns_with_its_baseline_has_a_ratio_and_goals_of_its_own() -> None:
    samples = {"run/port": [Sample(103.0, 10, baseline_seconds=100.0), Sample(8.0, 10, baseline_seconds=4.0)]}
    samples["run/port"].append(Sample(1.0, 10, baseline_seconds=1.0))
    samples["run/port-function"] = [Sample(90e-6, 10, baseline_seconds=50e-6)]
    by_key = {goal.key: goal for goal in GOALS}
    assert by_key["run-port"].value(samples) == pytest.approx(1.03)
    assert by_key["run-port"].passed(1.03)
    assert not by_key["run-port"].passed(1.04)
    assert by_key["run-port-function"].value(samples) == pytest.approx(4.0)
    assert not rounds.close_goals(samples), "nothing is gained from two cases beside each other"
    rows = report.make_rows([Case(name, lambda _: Sample(1.0, 1), "") for name in samples], samples)
    assert [row.ratio for row in rows] == [pytest.approx(1.03), pytest.approx(1.8)]


@pytest.mark.usefixtures("kvm_available")
def test_runs_captures_and_freezes_are_measured(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_cases, "_ITERATIONS", 20)
    monkeypatch.setattr(run_cases, "_TURNS", 4)
    monkeypatch.setattr(run_cases, "_TURNS_IN_PYTHON", 2)
    monkeypatch.setattr(freeze_cases, "_CYCLES", 5)
    with MemoryFiles(4 << 20, disk) as files:
        found = {case.name: case.measure(Bench(files)) for case in all_cases() if case.group in ("run", "freeze")}
    assert found.keys() == {
        "run/port", "run/mmio", "run/port-function", "run/mmio-function", "freeze/1", "freeze/2", "freeze/4",
    }  # fmt: skip
    for name, sample in found.items():
        if name.startswith("run/"):
            assert sample.baseline_seconds
            assert sample.touched == (40 if name.endswith("-function") else 41)
        else:
            assert sample.touched == 5
            assert 0 < (sample.p50_us or 0) <= (sample.p99_us or 0)


@pytest.mark.usefixtures("kvm_available")
@pytest.mark.parametrize("mmio", [False, True])
def test_a_guest_that_reads_something_wrong_has_no_figure(mmio: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_guest, "EMPTY", 0x61)  # what the guest expects; the devices answer 0x60
    program = exit_guest.exit_program(mmio=mmio)
    with pytest.raises(VmthawError, match="did not find what it was to read"):
        run_cases.turns_in_cpp(exit_guest.ExitGuest(program, iterations=20))
    with pytest.raises(RuntimeError, match="did not find what it was to read"):
        run_cases.turns_in_python(exit_guest.ExitGuest(program, iterations=20), mmio=mmio)


def test_pairs_side_by_side_count_like_those_of_the_rounds() -> None:
    goal = next(goal for goal in GOALS if goal.key == "page-free-random")
    first = {"random/page": [Sample(1.0, 1)], "random/textbook": [Sample(2.0, 1)]}
    beside = {"random/page": [Sample(1.0, 1), Sample(1.0, 1)], "random/textbook": [Sample(4.0, 1), Sample(4.0, 1)]}
    assert goal.value(first) == 0.5
    assert goal.value(first, beside) == 0.25


def test_goals_near_their_limit_are_measured_side_by_side_each_case_first_in_turn(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near on either side; the choice must not favour those that miss."""
    near = {name: [Sample(1.0, 1)] for name in ("random/page-same-core", "random/textbook-same-core")}
    passing_by_far = {"random/page": [Sample(0.2, 1)], "random/textbook": [Sample(1.0, 1)]}
    samples = {**near, **passing_by_far, "exits/port": [Sample(50e-9, 1)]}
    assert [goal.key for goal in rounds.close_goals(samples)] == ["page-pinned-random"]
    assert not rounds.close_goals({**near, "random/page-same-core": [Sample(1.3, 1)]})
    order: list[str] = []

    def measure(case: Case, _: Bench) -> Sample:
        order.append(case.name)
        return Sample(1.0, 1)

    monkeypatch.setattr(rounds, "measured", measure)
    with MemoryFiles(1 << 22, disk / "memory") as files, Progress(disable=True) as progress:
        found = rounds.side_by_side(all_cases(), samples, Bench(files), 1, progress)
    assert order == [*reversed(near), *near]
    assert {name: len(found["page-pinned-random"][name]) for name in near} == dict.fromkeys(near, 2)


def test_a_goal_of_at_least_is_missed_below() -> None:
    goal = next(goal for goal in GOALS if goal.key == "many-16")
    assert goal.passed(1.8)
    assert not goal.passed(1.79)


def test_the_readme_table_replaces_what_stood_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    frame = (
        "before\n<!-- bench:begin a -->\n{}<!-- bench:end a -->\n<!-- bench:begin b --><!-- bench:end b -->\nafter\n"
    )
    readme.write_text(frame.format("old\n"))
    report.update_readme(readme, "a", "new\n")
    report.update_readme(readme, "a", "newer\n")
    assert readme.read_text() == frame.format("newer\n")
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="bench:begin a"):
        report.update_readme(readme, "a", "new\n")


def test_every_case_is_in_one_table_which_the_readme_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "why_no_guest", lambda: None)
    monkeypatch.setattr(fuse_cases, "why_no_libfuse", lambda: None)
    every = all_cases()
    assert [sum(case.group in subject.groups for subject in SUBJECTS) for case in every] == [1] * len(every)
    for subject in SUBJECTS:
        assert f"<!-- bench:begin {subject.name} -->\n" in (ROOT / "README.md").read_text()
        of_it = subject.chosen(every)
        assert complete(of_it, every) == [subject]
        assert complete(of_it[1:], every) == []


def test_a_table_has_no_column_that_nobody_fills() -> None:
    (subject,) = [subject for subject in SUBJECTS if subject.name == "vcpu"]
    row = report.Row(Case("run/port", lambda _: Sample(1.0, 1), "note"), [Sample(2e-6, 1)], 1.02)
    conditions = report.conditions(16 << 20, 5, "unused")
    assert "| case | us/event | / baseline | total ms | what |\n" in report.markdown(conditions, subject, [row], [])


def test_the_failing_page_fails_until_all_others_were_read(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096) + b"\1" * 4096)
    read = FailingFile(str(path), failing=0, others=2)
    for _ in range(2):
        with pytest.raises(OSError, match="fails for now"):
            read(0, 4096)
        assert read(4096, 4096) == b"\1" * 4096
    assert read(0, 4096) == bytes(4096)
