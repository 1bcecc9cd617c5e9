"""Memory files that the tests of servers and of FakeVmm share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmthaw.testing import write_memory_file

PAGES = 512


@pytest.fixture
def memory_file(tmp_path: Path) -> Path:
    """2 MiB, three pages of ten are holes."""
    path = tmp_path / "memory"
    write_memory_file(path, PAGES * 4096, zero_share=0.3, seed=11)
    return path


@pytest.fixture
def full_memory_file(tmp_path: Path) -> Path:
    """2 MiB without a zero page: each page is unlike any other."""
    path = tmp_path / "full"
    write_memory_file(path, PAGES * 4096, seed=12)
    return path
