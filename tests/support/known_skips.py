"""On CI (environment CI=true) a skip that tests/known_skips.toml does not list is a failure.

The machine there has KVM, userfaultfd and huge pages: a test that finds them missing has found a bug, in the machine or
in its own probe, and must not end as a quiet `s`. tests/conftest.py imports the hooks.
"""

from __future__ import annotations

import fnmatch
import os
import tomllib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class KnownSkip:
    """One entry: patterns (fnmatch) for the test's id and for the reason, and why that skip is right."""

    test: str
    reason: str
    why: str

    def covers(self, test: str, reason: str) -> bool:
        """Whether this entry allows `test` to skip with `reason`."""
        return fnmatch.fnmatchcase(test, self.test) and fnmatch.fnmatchcase(reason, self.reason)


def load(path: Path) -> list[KnownSkip]:
    """The entries of a known_skips.toml; no file is no entry."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [KnownSkip(**entry) for entry in tomllib.load(file).get("skip", [])]


def on_ci() -> bool:
    """Whether this is the CI machine."""
    return os.environ.get("CI", "").lower() == "true"


def _fail_unlisted(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail") or not on_ci():
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not any(known.covers(report.nodeid, reason) for known in load(config.rootpath / "tests" / "known_skips.toml")):
        report.outcome = "failed"
        report.longrepr = (
            f"{report.nodeid} skipped on CI ({reason}), and tests/known_skips.toml does not list that: "
            "mend the machine or the test, or list it with the reason why it is right"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test, or a fixture of it, skipped."""
    report = yield
    _fail_unlisted(report, item.config)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module skipped."""
    report = yield
    _fail_unlisted(report, collector.config)
    return report
