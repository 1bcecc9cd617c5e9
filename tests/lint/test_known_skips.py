"""A skip that is not listed fails on CI, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import known_skips, tree

TESTS = """
import pytest

def test_listed():
    pytest.skip("no hugetlb: 0 of 8 pages")

@pytest.fixture
def userfaultfd():
    pytest.skip("no userfaultfd: denied")

def test_unlisted(userfaultfd):
    pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False
"""
LIST = """
[[skip]]
test = "*test_listed"
reason = "no hugetlb: *"
why = "for this test"
"""


def outcome(directory: Path, ci: str) -> tuple[int, str]:
    (directory / "tests").mkdir(exist_ok=True)
    (directory / "pytest.ini").write_text("[pytest]\n")
    hooks = "pytest_make_collect_report, pytest_runtest_makereport"
    (directory / "suite").mkdir(exist_ok=True)
    (directory / "suite" / "conftest.py").write_text(f"from tests.support.known_skips import {hooks}\n")
    (directory / "tests" / "known_skips.toml").write_text(LIST)
    (directory / "suite" / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib", "suite/test_it.py"],
        cwd=directory,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(tree.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_an_unlisted_skip_fails_on_ci(tmp_path: Path) -> None:
    status, output = outcome(tmp_path, "true")
    assert status == 1, output
    assert "1 skipped, 1 xfailed, 1 error" in output or "1 failed, 1 skipped, 1 xfailed" in output
    assert "test_unlisted skipped on CI (no userfaultfd: denied)" in output


def test_skips_are_free_elsewhere(tmp_path: Path) -> None:
    status, output = outcome(tmp_path, "false")
    assert status == 0, output
    assert "2 skipped, 1 xfailed" in output


def test_a_skipped_module_fails_on_ci(tmp_path: Path) -> None:
    outcome(tmp_path, "true")
    (tmp_path / "suite" / "test_it.py").write_text('import pytest\npytest.skip("no KVM", allow_module_level=True)\n')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib", "suite/test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "CI": "true", "PYTHONPATH": str(tree.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert "skipped on CI (no KVM)" in done.stdout


def test_every_listed_skip_says_why() -> None:
    entries = known_skips.load(tree.ROOT / "tests" / "known_skips.toml")
    assert all(len(entry.why) > 10 for entry in entries)
    assert len(set(entries)) == len(entries)


@pytest.mark.parametrize(("test", "reason"), [("tests/unit/test_x.py::test_y", "no KVM"), ("tests/vm/x", "tired")])
def test_the_list_does_not_cover_everything(test: str, reason: str) -> None:
    entries = known_skips.load(tree.ROOT / "tests" / "known_skips.toml")
    assert not any(entry.covers(test, reason) for entry in entries)
