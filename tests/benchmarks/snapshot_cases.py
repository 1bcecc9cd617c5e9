"""How long a guest stands still while it is saved: a diff, against how much was written, and a full snapshot."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample
from tests.benchmarks.memory_files import PAGE
from vmthaw.kvm import Kvm
from vmthaw.machine import FIRST_WORK_PAGE, Machine, MachineState

RING = 65536
"""Entries of the vCPU's dirty ring."""


def pause(share: float | None, *, ring: bool = False) -> Callable[[Bench], Sample]:
    """Of a diff with that share of the memory's pages, or of a full snapshot; `touched` are the pages written."""

    def measure(bench: Bench) -> Sample:
        folder = Path(tempfile.mkdtemp(prefix="pause-", dir=bench.files.path))
        try:
            with Machine(bench.pages * PAGE, dirty_ring=RING if ring else 0) as machine:
                machine.fill(1, timeout=TIMEOUT)
                machine.snapshot(folder / "base", timeout=TIMEOUT)
                written = int((bench.pages - FIRST_WORK_PAGE) * (share if share is not None else 0))
                machine.rewrite(2, share=1.0, pages=written, timeout=TIMEOUT)
                machine.snapshot(folder / "later", share is not None, timeout=TIMEOUT)
                pages = MachineState.load(str(folder / "later")).memory_data_pages
                seconds = (machine.snapshot_pause_ns or 0) / 1e9
                if share is not None and not written <= pages <= written + 64:
                    raise RuntimeError(f"the diff has {pages} pages, not {written}: the case measures something else")
                return Sample(seconds, pages)
        finally:
            shutil.rmtree(folder)

    return measure


def snapshot_cases() -> list[Case]:
    """A page's time is per page saved; the pause itself is the time. Only where a guest runs."""
    cases = [
        Case("pause/full", pause(None), "a full snapshot"),
        Case("pause/diff-none", pause(0.0), "a diff of almost nothing: what a diff costs at least"),
        Case("pause/diff-1", pause(0.01), "a diff of 1 % of the pages"),
        Case("pause/diff-10", pause(0.1), "a diff of 10 %"),
        Case("pause/diff-50", pause(0.5), "a diff of 50 %"),
    ]
    if Kvm().create_vm().most_dirty_ring_entries() >= RING:
        cases.append(Case("pause/diff-10-ring", pause(0.1, ring=True), "a diff of 10 %, known by the dirty ring"))
    return cases
