"""Every test here serves real faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmthaw.testing import write_memory_file

PAGES = 1024


@pytest.fixture(autouse=True)
def _needs(userfaultfd_available: None) -> None:
    """Skip where there is no userfaultfd."""


@pytest.fixture
def memory_file(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    write_memory_file(path, PAGES * 4096, zero_share=0.3, seed=11)
    return path
