"""mypy --strict over everything, and the checked-in stub against the extension it describes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import tree

ALLOWLIST = tree.ROOT / "tests" / "lint" / "stubtest_allowlist.txt"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["python", "tests"])
def test_types_are_strictly_right(part: str) -> None:
    cache = tree.ROOT / "build" / "lint" / "mypy"
    status, output = tree.run(sys.executable, "-m", "mypy", f"--cache-dir={cache}", part)
    assert status == 0, output


def stubtest(mypy_path: Path | None = None) -> tuple[int, str]:
    environment = ["env", f"MYPYPATH={mypy_path}"] if mypy_path else []
    allowlist = ["--allowlist", str(ALLOWLIST)] if ALLOWLIST.exists() else []
    return tree.run(
        *environment, sys.executable, "-m", "mypy.stubtest", "vmthaw._core", "--ignore-disjoint-bases", *allowlist
    )


@pytest.mark.timeout(120)
def test_the_stub_says_what_the_extension_is() -> None:
    status, output = stubtest()
    assert status == 0, output


@pytest.mark.timeout(120)
def test_a_stale_stub_is_caught(tmp_path: Path) -> None:
    package = tmp_path / "vmthaw"
    package.mkdir()
    real = tree.ROOT / "python" / "vmthaw"
    (package / "__init__.py").write_text("")
    for path in real.glob("*.py"):
        (package / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    stub = (real / "_core.pyi").read_text(encoding="utf-8")
    (package / "_core.pyi").write_text(f"{stub}\ndef no_such_function() -> int: ...\n", encoding="utf-8")
    status, output = stubtest(tmp_path)
    assert status != 0
    assert "no_such_function" in output
