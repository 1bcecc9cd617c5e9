"""A real guest under KVM whose code and data are missing until the page server gives them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.integration.guest import kvm_guest
from tests.integration.guest.kvm_guest import CODE, FIRST, LOAD_AT, PAGE
from tests.support.eventually import PATIENCE
from vmthaw import FileSource, FillMode, PagerConfig, PageServer

pytestmark = [
    pytest.mark.usefixtures("userfaultfd_available", "kvm_available"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the guest's code is x86"),
]
PAGES = 96


class Memory:
    """The guest's memory as a file: its code, and a random byte where each page of data begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.firsts = random.Random(7).choices(range(256), k=PAGES)
        image = bytearray(FIRST + PAGES * PAGE)
        image[LOAD_AT : LOAD_AT + len(CODE)] = CODE
        image[FIRST::PAGE] = bytes(self.firsts)
        path.write_bytes(image)

    @property
    def sums(self) -> list[int]:
        """What the guest has to find."""
        return [total & 0xFF for total in accumulate(self.firsts)]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "mem")


def seen_by_the_guest(socket: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", kvm_guest.__name__, str(socket), str(PAGES)],
        capture_output=True, text=True, check=False, timeout=30 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["halted"], seen
    return seen


@pytest.mark.parametrize("fill_mode", [FillMode.page, FillMode.window])
def test_a_guest_at_cpl_0_gets_code_and_data(memory: Memory, tmp_socket: Path, fill_mode: FillMode) -> None:
    with PageServer(tmp_socket, FileSource(memory.path), config=PagerConfig(fill_mode=fill_mode)) as server:
        seen = seen_by_the_guest(tmp_socket)
        assert seen["sent"] == memory.sums
        assert seen["written"] == memory.sums
        stats = server.stats
    assert stats.failed == 0
    assert stats.installed >= PAGES + 1  # all of data, and the code's
    if fill_mode is FillMode.page:
        assert stats.faults >= PAGES + 1


def test_a_guest_sees_a_byte_that_is_wrong(memory: Memory, tmp_socket: Path) -> None:
    with memory.path.open("r+b") as file:
        file.seek(FIRST + 40 * PAGE)
        file.write(bytes([memory.firsts[40] ^ 1]))
    with PageServer(tmp_socket, FileSource(memory.path)):
        sent = seen_by_the_guest(tmp_socket)["sent"]
    assert sent[:40] == memory.sums[:40]
    assert sent[40] != memory.sums[40]
