"""A Firecracker double and a snapshot for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.firecracker.support import our_folders
from tests.support.eventually import eventually
from vmthaw.testing import FirecrackerDouble, write_double_snapshot, write_firecracker_double

pytestmark = pytest.mark.usefixtures("userfaultfd_available")


@pytest.fixture
def double(tmp_path: Path, userfaultfd_available: None) -> Iterator[FirecrackerDouble]:
    """Executables; afterwards no folder of a VM may lie about."""
    before = our_folders()
    folder = tmp_path / "bin"
    folder.mkdir()
    yield write_firecracker_double(folder)
    eventually(lambda: our_folders() <= before, what="no folder of a VM is left")


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[Path, Path]:
    """State and memory of 4 MiB; the guest reads every page and goes on running."""
    return write_double_snapshot(tmp_path, 4 << 20)
