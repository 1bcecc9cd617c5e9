"""`vmthaw serve` of memories that are no plain files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.cli.serving import Serving
from vmthaw import FileSource, compress_file
from vmthaw.cli._errors import Exit
from vmthaw.testing import FakeVmm, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
SIZE = 16 << 20


def test_any_address_of_a_memory_is_served(tmp_socket: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    write_memory_file(memory, SIZE, zero_share=0.3, seed=5)
    with FileSource(memory) as source:
        compress_file(source, tmp_path / "packed")
    (tmp_path / "diff").touch()
    os.truncate(tmp_path / "diff", SIZE)
    address = f"zstd:{tmp_path}/packed,diff:{tmp_path}/diff,cache:?memory=4MiB&chunk=64KiB"
    with Serving(tmp_socket, address, "--once") as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("sequential").check()
            vmm.verify(only_touched=False).check()
        assert serving.wait() == Exit.OK
        assert serving.named("listening")[0]["memory"] == address
