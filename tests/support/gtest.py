"""Running the C++ core tests (GoogleTest) and reading what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def executable(preset: str) -> Path:
    """Where scripts/build puts the core tests of a preset."""
    return ROOT / "build" / preset / "vmthaw_core_tests"


def suites(program: Path, prefix: Sequence[str] = ()) -> list[str]:
    """The test suites of an executable, in its order; empty when it does not exist or cannot list them.

    `prefix` is what runs the program, where it is not this machine itself.
    """
    return re.findall(r"^(\S+)\.(?=\s|$)", _listing(program, prefix), re.MULTILINE)


def cases(program: Path, prefix: Sequence[str] = ()) -> list[str]:
    """All its tests, as "suite.test"; otherwise as `suites`."""
    found = []
    suite = ""
    for line in _listing(program, prefix).splitlines():
        words = line.split()
        if words and line.startswith(" "):
            found.append(suite + words[0])
        elif words and words[0].endswith("."):
            suite = words[0]
    return found


def _listing(program: Path, prefix: Sequence[str]) -> str:
    if not program.exists():
        return ""
    command = [*prefix, str(program), "--gtest_list_tests"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout


@dataclass
class Result:
    """What one run came to."""

    status: int
    output: str
    passed_names: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        """How many passed."""
        return len(self.passed_names)

    @property
    def ok(self) -> bool:
        """The process ended well, ran something and nothing failed."""
        return self.status == 0 and not self.failed and self.passed + len(self.skipped) > 0

    @property
    def account(self) -> str:
        """The output without the tests that passed, which bury the one that did not (or the report of a sanitizer)."""
        passed = re.compile(r"\[ RUN      \] (\S+)\n\[       OK \] \1 .*\n")
        return re.sub(r"(?m)^(\[-{10}\].*)?\n", "", passed.sub("", self.output))

    @property
    def skip_reason(self) -> str:
        """Every distinct reason given by a skipped test."""
        return "; ".join(sorted(set(self.skipped.values())))


def run(
    program: Path,
    pattern: str = "*",
    *,
    prefix: list[str] | None = None,
    environment: dict[str, str] | None = None,
    timeout: float = 55.0,
) -> Result:
    """Run the tests that match `pattern` (--gtest_filter). `timeout` in seconds; beyond it the run has failed."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [
            *(prefix or []),
            str(program),
            f"--gtest_filter={pattern}",
            f"--gtest_output=json:{report}",
            "--gtest_shuffle",
        ]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return Result(-1, f"{(error.output or b'').decode(errors='replace')}\nstill running after {timeout:g} s")
        result = Result(done.returncode, done.stdout.decode(errors="replace"))
        if report.exists():
            _read(json.loads(report.read_text(encoding="utf-8")), result)
        return result


def read_output(status: int, output: str) -> Result:
    """What a run came to whose report cannot be had: from its lines alone."""
    result = Result(status, output)
    result.passed_names = re.findall(r"^\[       OK \] (\S+)", output, re.MULTILINE)
    result.failed = sorted(set(re.findall(r"^\[  FAILED  \] (\w+[./]\S+?),? ", output, re.MULTILINE)))
    result.skipped = _reasons(output)
    return result


def _reasons(output: str) -> dict[str, str]:
    found = re.findall(r": Skipped\n(.*?)\n+\[  SKIPPED \] (\S+)", output, re.DOTALL)
    return {name: " ".join(reason.split()) for reason, name in found}


def _read(report: dict[str, list[dict[str, list[dict[str, object]]]]], result: Result) -> None:
    reasons = _reasons(result.output)  # old GoogleTest gives the reason of a skip there only
    for suite in report["testsuites"]:
        for case in suite["testsuite"]:
            name = f"{suite['name']}.{case['name']}"
            if case.get("failures"):
                result.failed.append(name)
            elif case.get("result") == "SKIPPED":
                result.skipped[name] = reasons.get(name) or f"{name} gives no reason"
            else:
                result.passed_names.append(name)
