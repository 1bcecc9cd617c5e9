"""mypy --strict over everything, and the checked-in stub against the extension it describes."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.support import tree

PACKAGE = tree.ROOT / "python" / "vmthaw"
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


def stub_names(stub: str) -> set[str]:
    """What a stub defines at its top level."""
    names: set[str] = set()
    for node in ast.parse(stub).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def test_the_stub_lists_everything_the_extension_has() -> None:
    # stubtest (mypy 2.4) was seen to pass over classes of the extension that the stub lacks.
    from vmthaw import _core

    extension = {name for name in dir(_core) if not name.startswith("__")}
    assert extension
    assert extension - stub_names((PACKAGE / "_core.pyi").read_text(encoding="utf-8")) == set()


@pytest.mark.timeout(120)
def test_a_stale_stub_is_caught(tmp_path: Path) -> None:
    package = tmp_path / "vmthaw"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_bytes((PACKAGE / "errors.py").read_bytes())
    stub = (PACKAGE / "_core.pyi").read_text(encoding="utf-8")
    (package / "_core.pyi").write_text(f"{stub}\ndef no_such_function() -> int: ...\n", encoding="utf-8")
    status, output = stubtest(tmp_path)
    assert status != 0
    assert "no_such_function" in output
