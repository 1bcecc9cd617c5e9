"""Memory files and disks that several rooms' tests share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
