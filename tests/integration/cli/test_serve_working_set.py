"""`vmthaw serve --working-set`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli.serving import Serving
from vmthaw import WorkingSet
from vmthaw.cli._errors import Exit
from vmthaw.testing import FakeVmm, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")


def test_a_saved_working_set_is_there_before_the_first_fault(tmp_socket: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    write_memory_file(memory, 1 << 20, seed=5)
    WorkingSet([0x5000, 0x1000, 0x6000]).save(tmp_path / "ws")
    options = ("--working-set", str(tmp_path / "ws"), "--working-set-mode", "before", "--layout", "x86_64", "--once")
    with Serving(tmp_socket, memory, *options) as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            serving.until("connected")
            assert vmm.resident_pages == 3
            vmm.verify(only_touched=False).check()
        assert serving.wait() == Exit.OK
        assert serving.named("closed")[0]["stats"]["prefetched"] == 3
