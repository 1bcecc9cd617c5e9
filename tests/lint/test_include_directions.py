"""The arrows of the design: a room includes only those it stands on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support import rooms, tree


def test_every_include_points_down() -> None:
    assert rooms.problems(tree.ROOT / "src") == []


def test_the_graph_itself_has_no_cycle() -> None:
    for room, below in rooms.STANDS_ON.items():
        for other in below:
            assert room not in rooms.reachable(other), f"{room} and {other} stand on each other"


def test_cmake_links_rooms_by_the_same_arrows() -> None:
    text = (tree.ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    linked = {
        name: set(below.split()) for name, below in re.findall(r"^vmthaw_room\((\w+)([^)]*)\)", text, re.MULTILINE)
    }
    assert linked.keys() >= {"base", "userfaultfd", "pager"}
    for name, below in linked.items():
        assert below == set(rooms.STANDS_ON[name]), f"CMakeLists.txt and tests/support/rooms.py differ about {name}"


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("base/clock.hpp", '#include "pager/region.hpp"', "may include base"),
        ("source/page_source.hpp", '#  include "userfaultfd/features.hpp"', "may include base, source"),
        ("pager/region.hpp", "#include <Python.h>", "only src/bindings"),
        ("userfaultfd/features.hpp", "#include <pybind11/pybind11.h>", "only src/bindings"),
        ("base/clock.hpp", '#include "base/no_such_file.hpp"', "not below src"),
        ("trace/extra.hpp", '#include "bindings/bindings.hpp"', "may include base, trace"),
        ("cellar/wine.hpp", "#pragma once", "no room of the design"),
    ],
)
def test_an_include_that_points_back_is_caught(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    src = tmp_path / "src"
    shutil.copytree(tree.ROOT / "src", src)
    before = rooms.problems(src)
    mutant = src / file
    mutant.parent.mkdir(exist_ok=True)
    mutant.write_text((mutant.read_text(encoding="utf-8") if mutant.exists() else "") + f"\n{line}\n", encoding="utf-8")
    new = [problem for problem in rooms.problems(src) if problem not in before]
    assert len(new) == 1
    assert new[0].startswith(f"{file}: ")
    assert complaint in new[0]
