"""A server, a VM and a recorder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from vmthaw import FileSource, PagerConfig, PageServer
from vmthaw.testing import FakeVmm


@contextmanager
def served(socket: Path, memory_file: Path, config: PagerConfig | None = None) -> Iterator[PageServer]:
    with FileSource(memory_file) as source, PageServer(socket, source, config=config) as server:
        yield server


def touch_all(
    socket: Path, memory_file: Path, pattern: Literal["random", "sequential"] = "random", seed: int = 5
) -> None:
    """A VM comes, touches every page and goes."""
    with FakeVmm(memory_file) as vmm:
        vmm.handover(socket)
        if pattern == "random":
            vmm.touch(pattern, seed=seed).check()
        else:
            vmm.touch(pattern).check()
