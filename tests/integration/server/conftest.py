"""Fixtures of the server's tests: memory files, and proof that a test leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.server.support import left_behind
from vmthaw import FileSource


@pytest.fixture(autouse=True)
def _needs(userfaultfd_available: None) -> None:
    """Every test here serves real faults."""


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
