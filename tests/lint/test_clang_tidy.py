"""clang-tidy finds nothing (.clang-tidy says what it looks for), and would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import clang_tidy, tree


@pytest.mark.timeout(1800)
def test_clang_tidy_finds_nothing() -> None:
    build = tree.ROOT / "build" / "release"
    assert (build / "compile_commands.json").exists(), "run `make build`"
    findings = clang_tidy.run(build, os.cpu_count() or 1)
    assert not findings, "".join(findings)


def test_clang_tidy_sees_every_source_file() -> None:
    seen = {source for unit in clang_tidy.units(tree.ROOT / "build" / "release") for source in unit.sources}
    assert seen >= set((tree.ROOT / "src").rglob("*.cpp"))


def test_clang_tidy_would_find_something(tmp_path: Path) -> None:
    (tmp_path / ".clang-tidy").write_bytes((tree.ROOT / ".clang-tidy").read_bytes())
    (tmp_path / "src").mkdir()
    part = tmp_path / "src" / "part.cpp"
    part.write_text("int* f(long x) { return (int*)x; }\nint g(int* p) { return p == nullptr ? *p : 0; }\n")
    together = clang_tidy.as_one_file((part,), tmp_path, 1)
    done = subprocess.run(
        [clang_tidy.TOOL, "--quiet", together, "--", "-std=c++20"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "cppcoreguidelines-pro-type-cstyle-cast" in done.stdout
    assert "clang-analyzer-core.NullDereference" in done.stdout
