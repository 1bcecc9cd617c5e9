"""Notebooks run from their first cell to their last, and hold what running them gives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.notebooks import LIVE, all_notebooks, executed, texts

MOST_BYTES = 500_000  # what code hosts still show


def test_there_are_notebooks() -> None:
    assert [path.name for path in all_notebooks()] == ["01_first_restore.ipynb", "02_restore_it_better.ipynb"]


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_stored_outputs_are_those_of_today(path: Path, request: pytest.FixtureRequest) -> None:
    import nbformat

    if path.stem in LIVE:
        request.getfixturevalue("kvm_available")
        request.getfixturevalue("userfaultfd_available")
    stored = nbformat.read(path, as_version=4)
    now = executed(path)
    if path.stem not in LIVE:
        assert texts(now) == texts(stored), "run `python -m tests.support.notebooks`"
    for old, new in zip(stored.cells, now.cells, strict=True):
        kinds = [sorted(output.get("data", {})) for output in new.get("outputs", ())]
        assert kinds == [sorted(output.get("data", {})) for output in old.get("outputs", ())]
        assert not [output for output in new.get("outputs", ()) if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_a_notebook_is_small_and_tells_nothing_of_the_machine(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document["metadata"]) == {"kernelspec", "language_info"}
    words = "\n".join("\n".join(cell) for cell in texts_of_all(path))
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|usr)/", words)


def texts_of_all(path: Path) -> list[list[str]]:
    import nbformat

    return texts(nbformat.read(path, as_version=4))
