"""What cases share: the sample a case gives, the files, sockets, processors and plans it uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.memory_files import PAGE, MemoryFiles, same_history
from vmthaw.testing import FakeVmm, TouchReport

RANDOM_SHARE = 0.1
TIMEOUT = 300.0


@dataclass(frozen=True)
class Sample:
    """One run of a case. ``seconds`` of touching, ``touched`` pages, handler CPU, percentiles of single touches that
    faulted or not, and from our server what it installed (and wasted: installed, never touched). ``baseline_seconds``:
    what the same took by what this case takes turns with, where the two must be closer together than two cases are."""

    seconds: float
    touched: int
    cpu_seconds: float | None = None
    p50_us: float | None = None
    p95_us: float | None = None
    p99_us: float | None = None
    installed: int | None = None
    wasted: int | None = None
    bytes_read: int | None = None
    faults: int | None = None
    baseline_seconds: float | None = None

    @property
    def us_per_page(self) -> float:
        return self.seconds * 1e6 / self.touched

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "us_per_page": self.us_per_page}


class Bench:
    """What cases share: files, sockets, processors, the plan of touches (the same in every round and case)."""

    def __init__(self, files: MemoryFiles) -> None:
        self.files = files
        self.pages = files.size // PAGE
        self.random_pages = max(1, int(self.pages * RANDOM_SHARE))
        cpus = sorted(os.sched_getaffinity(0))
        self.toucher_cpu, self.other_cpu = cpus[0], cpus[-1]
        self.cpus = len(cpus)
        self.uses_warm = False
        self._sockets = 0

    def socket(self) -> Path:
        self._sockets += 1
        return self.files.path / f"{self._sockets}.sock"

    def memory(self, cold: bool) -> Path:
        """The file to use. A cold one is evicted before anybody maps it, or it could not be."""
        if cold:
            self.files.evict()
        else:
            self.uses_warm = True
        return self.files.cold if cold else self.files.warm

    def make_ready(self, cold: bool = False) -> None:
        """What comes right before the timed part."""
        same_history(self.files.size)
        if cold:
            self.files.check_cold()

    def plan(self, pattern: str) -> dict[str, Any]:
        if pattern == "sequential":
            return {"pattern": "sequential"}
        return {"pattern": "subset", "count": self.random_pages, "seed": 1}

    def page_list(self, pattern: str) -> list[int]:
        from vmthaw import _core

        plan = self.plan(pattern)
        return _core.plan_touches(plan.pop("pattern"), self.pages, **plan)


@dataclass(frozen=True)
class Case:
    """``name`` is group/what; ``measure`` runs it once. ``note`` stands in the table."""

    name: str
    measure: Callable[[Bench], Sample]
    note: str

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]


def percentiles(latencies_ns: NDArray[np.uint64]) -> tuple[float, float, float]:
    """The 50th, 95th and 99th, in us."""
    p50, p95, p99 = (float(value) / 1000 for value in np.percentile(latencies_ns, [50, 95, 99]))
    return p50, p95, p99


def touch(vmm: FakeVmm, plan: dict[str, Any], cpu: int | None) -> TouchReport:
    cpus = [] if cpu is None else [cpu]
    return vmm.touch(cpus=cpus, verify=False, timeout=TIMEOUT, **plan).check()


def with_counters(sample: Sample, found: dict[str, int]) -> Sample:
    return replace(
        sample, installed=found["installed"], wasted=found["installed"] - sample.touched,
        bytes_read=found["source_bytes"], faults=found["faults"],
    )  # fmt: skip
