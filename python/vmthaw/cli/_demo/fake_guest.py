"""Without KVM: `FakeVmm` plays the guest, and compares every byte with the memory file by its own reading."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmthaw.cli._demo.guest import Progress, Way
from vmthaw.cli._demo.memory_file import write_demo_memory
from vmthaw.cli._demo.mutants import Mutant, changed_page, wrong_source
from vmthaw.cli._demo.plan import Plan
from vmthaw.cli._demo.result import Times
from vmthaw.cli._errors import CliError
from vmthaw.source import FileSource, PageSource
from vmthaw.testing import FakeVmm, FindingsError

_BASELINE_TIMEOUT_S = 120.0
_REMOVED_RANGES = 8
_REMOVED_PAGES = 16


def _touched(plan: Plan) -> tuple[int, ...]:
    """What the baselines are told: pages, first in order, how many in order, how many at random, seed."""
    return plan.pages, plan.first_page, plan.in_order, plan.working_set - plan.in_order, plan.seed


class FakeGuest:
    """Its memory: runs of random words and of zeros."""

    title = "FakeVmm in the guest's place"

    def prepare(self, plan: Plan, progress: Progress) -> None:
        """See `Guest`."""
        self._plan = plan
        self.memory_path: Path = plan.directory / "memory.bin"
        write_demo_memory(self.memory_path, plan.pages, plan.seed)
        progress(0.9)

    @contextlib.contextmanager
    def vm(self) -> Iterator[FakeVm]:
        """See `Guest`."""
        with contextlib.ExitStack() as stack:
            yield FakeVm(stack, self.memory_path, self._plan)

    def mutate(self, mutant: Mutant, file: FileSource) -> PageSource | dict[str, Any]:
        """See `Guest`. A stale page is one that was given back and comes again with its old bytes."""
        if mutant == "lost-fault":
            return {"lost_fault_at_fault": 40}
        if mutant == "stale-page":
            return {"stale_after_remove": True}
        return wrong_source(mutant, self.memory_path, file, self.changes(mutant, file))

    def changes(self, mutant: Mutant, file: FileSource) -> dict[int, bytes]:
        """See `Guest`."""
        return changed_page(mutant, self.memory_path, file)


class FakeVm:
    """See `Vm`."""

    def __init__(self, stack: contextlib.ExitStack, memory_path: Path, plan: Plan) -> None:
        self._vmm = stack.enter_context(FakeVmm(memory_path))
        self._before = self._vmm.rss
        self._memory_path = memory_path
        self._plan = plan
        self._baseline: dict[str, Any] | None = None

    def restore(self, way: Way) -> Times:
        """See `Vm`."""
        if not isinstance(way, Path):
            self._baseline = self._run_baseline(way)
            return Times(*(self._baseline[name] for name in ("resume_ms", "first_answer_ms", "working_set_ms")))
        plan = self._plan
        start = time.perf_counter()
        self._vmm.handover(way)
        resume_ms = 1000 * (time.perf_counter() - start)
        in_order = self._touch("sequential", first_page=plan.first_page, pages=plan.in_order)
        scattered = self._touch("subset", count=plan.working_set - plan.in_order, seed=plan.seed)
        first_ms = resume_ms + float(in_order.latencies_ns[0]) / 1e6
        return Times(resume_ms, first_ms, resume_ms + (in_order.duration_ns + scattered.duration_ns) / 1e6)

    def memory_bytes(self) -> int:
        """See `Vm`."""
        if self._baseline is not None:
            return int(self._baseline["memory_bytes"])
        return max(0, self._vmm.rss - self._before)

    def verify(self) -> None:
        """See `Vm`. Pages given back to the host are zeros when they are touched again, whatever the file holds."""
        if self._baseline is not None:
            if not self._baseline["verified"]:
                raise FindingsError("the memory differs from the file")
            return
        self._touch("sequential")
        self._compare()
        step = self._plan.pages // _REMOVED_RANGES
        count = min(_REMOVED_PAGES, step)
        ranges = [(number * step, count) for number in range(_REMOVED_RANGES)]
        self._vmm.remove(ranges).check()
        self._touch([first + i for first, number in ranges for i in range(number)])
        self._compare()

    def _touch(self, pattern: Any, **options: Any) -> Any:
        return self._vmm.touch(pattern, verify=False, timeout=self._plan.timeout, **options).check()

    def _compare(self) -> None:
        self._vmm.verify(only_touched=False, timeout=self._plan.timeout).check()

    def _run_baseline(self, kind: str) -> dict[str, Any]:
        plan = self._plan
        arguments = [kind, str(self._memory_path), *map(str, _touched(plan))]
        done = subprocess.run(
            [sys.executable, "-m", "vmthaw.cli._demo.baseline", *arguments],
            capture_output=True,
            text=True,
            timeout=_BASELINE_TIMEOUT_S,
            check=False,
            start_new_session=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise CliError(f"restoring by {kind} ended early: {reason[0]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found
