"""The benchmark of reads through the window measures reads, and none that go wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import window_cases
from tests.benchmarks.bench import Bench
from tests.benchmarks.memory_files import MemoryFiles
from tests.support.dax_guest import CHUNK
from tests.support.tree import ROOT
from vmthaw.errors import GuestError

pytestmark = pytest.mark.usefixtures("kvm_available")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(window_cases, "SIZE", 2 * CHUNK)
    monkeypatch.setattr(window_cases, "_TURNS", 2)
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / "build") as directory:
        files = MemoryFiles(4 << 20, Path(directory))
        yield Bench(files)
        files.close()


def test_every_case_of_the_window_has_a_figure_and_its_baseline(bench: Bench) -> None:
    found = {case.name: case.measure(bench) for case in window_cases.window_cases()}
    assert len(found) == 5
    for name, sample in found.items():
        assert sample.touched == 1024 // (8 if "random" in name else 1)
        assert sample.baseline_seconds


@pytest.mark.parametrize("rings", [False, True])
def test_a_guest_that_reads_a_wrong_byte_has_no_figure(bench: Bench, rings: bool) -> None:
    with window_cases.reader(bench, large=False) as reader:
        reader.map_all()
        reader.data[5] ^= 1
        way = reader.by_requests if rings else reader.through_window
        with pytest.raises(RuntimeError, match="did not read what is there"):
            way(window_cases.SEQUENTIAL, shuffled=False)


def test_pages_that_are_not_mapped_have_no_figure(bench: Bench) -> None:
    with window_cases.reader(bench, large=False) as reader, pytest.raises(GuestError):
        reader.through_window(window_cases.SEQUENTIAL, shuffled=False)
