"""Every header stands by itself: it includes what it needs, whatever came before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tree

HEADERS = [path for path in tree.files(".hpp", under="src/") if "bindings" not in path.parts]


def first_include(source: Path) -> str:
    return next((line for line in source.read_text(encoding="utf-8").splitlines() if line.startswith("#include")), "")


def complaint(header: Path) -> str:
    """What the compiler says to a file that includes nothing but this header."""
    status, said = tree.run("c++", "-std=c++20", "-fsyntax-only", "-x", "c++", "-I", tree.ROOT / "src", header)
    return said if status else ""


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: str(path.relative_to(tree.ROOT)))
def test_header_stands_by_itself(header: Path) -> None:
    source = header.with_suffix(".cpp")
    if source.exists() and str(header.relative_to(tree.ROOT / "src")) in first_include(source):
        return  # the build proves it: nothing comes before it there
    assert complaint(header) == ""


def test_a_header_that_needs_another_is_found(tmp_path: Path) -> None:
    header = tmp_path / "needy.hpp"
    header.write_text("#pragma once\ninline std::string f() { return {}; }\n", encoding="utf-8")
    assert "std" in complaint(header)
