"""Each fuzz target runs for some seconds over its corpus; VMTHAW_FUZZ_SECONDS makes it longer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = ROOT / "build" / "fuzz" / "tests" / "fuzz"
TARGETS = sorted(source.stem for source in HERE.glob("*_fuzz.cpp"))
SECONDS = int(os.environ.get("VMTHAW_FUZZ_SECONDS", "3"))


@pytest.fixture(scope="session")
def programs() -> Path:
    if shutil.which("clang++-19") is None:
        pytest.skip("needs clang++-19 (apt-get install clang-19)")
    build = subprocess.run(
        [ROOT / "scripts" / "build", "fuzz"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert build.returncode == 0, build.stdout
    return PROGRAMS


def run(program: Path, *arguments: str | Path, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
        env={
            **os.environ,
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1",
        },
    )


@pytest.mark.timeout(900 + SECONDS)
@pytest.mark.parametrize("target", TARGETS)
def test_target_finds_nothing(target: str, programs: Path, tmp_path: Path) -> None:
    corpus = HERE / "corpus" / target
    assert any(corpus.iterdir())
    found = tmp_path / "found"
    found.mkdir()
    dictionary = HERE / "dictionaries" / f"{target}.dict"
    options = [f"-dict={dictionary}"] if dictionary.exists() else []
    done = run(
        programs / target,
        found,
        corpus,
        *options,
        f"-max_total_time={SECONDS}",
        f"-artifact_prefix={tmp_path}/",
        timeout=SECONDS + 120,
    )
    crashes = [(path.name, path.read_bytes()) for path in tmp_path.iterdir() if path.is_file()]
    assert done.returncode == 0, f"{crashes}\n{done.stdout[-4000:]}"
    executions = re.search(r"Done (\d+) runs", done.stdout)
    assert executions is not None, done.stdout[-4000:]
    assert int(executions[1]) > 1000
    print(f"{target}: {executions[1]} executions in {SECONDS} s")


def test_every_target_has_seeds() -> None:
    assert TARGETS
    assert {path.name for path in (HERE / "corpus").iterdir()} == set(TARGETS)
