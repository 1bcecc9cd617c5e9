"""Fixtures of the server's tests: memory files, and proof that a test leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.server.support import PAGES, left_behind
from vmthaw import FileSource
from vmthaw.testing import write_memory_file


@pytest.fixture(autouse=True)
def _needs(userfaultfd_available: None) -> None:
    """Every test here serves real faults."""


@pytest.fixture
def memory_file(tmp_path: Path) -> Path:
    """2 MiB, three pages of ten are holes."""
    path = tmp_path / "memory"
    write_memory_file(path, PAGES * 4096, zero_share=0.3, seed=11)
    return path


@pytest.fixture
def full_memory_file(tmp_path: Path) -> Path:
    """2 MiB without a zero page."""
    path = tmp_path / "full"
    write_memory_file(path, PAGES * 4096, seed=12)
    return path


@pytest.fixture
def source(full_memory_file: Path) -> Iterator[FileSource]:
    with FileSource(full_memory_file) as source:
        yield source


@pytest.fixture
def leaks_nothing(source: FileSource) -> Iterator[Callable[[], None]]:
    """Descriptors and threads are as before when the test has ended. `leaks_nothing()` begins the comparison anew.

    After `source`, whose file stays open as long as pytest holds it.
    """
    before = left_behind()

    def again() -> None:
        nonlocal before
        before = left_behind()

    yield again
    left_behind(before)
