"""A real guest: our payload under KVM, which fills its memory and verifies every word of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmthaw.cli._demo.guest import Progress, Way
from vmthaw.cli._demo.mutants import Mutant, changed_page, wrong_source
from vmthaw.cli._demo.plan import PAGE_BYTES, Plan
from vmthaw.cli._demo.result import Times
from vmthaw.cli._errors import sentence_of
from vmthaw.errors import VmthawError
from vmthaw.kvm import Kvm
from vmthaw.machine import FIRST_WORK_PAGE, VmmProcess, Workload
from vmthaw.source import FileSource, PageSource

_ZERO_SHARE = 0.4
_REWRITTEN_SHARE = 0.1


def why_no_kvm() -> str | None:
    """A sentence why no guest of ours can run here; None where one can."""
    try:
        Kvm()
    except (OSError, VmthawError) as error:
        return sentence_of(error)
    return None


class KvmGuest:
    """Its memory: 40 % zero pages, a tenth of all rewritten since."""

    title = "a guest under KVM"

    def prepare(self, plan: Plan, progress: Progress) -> None:
        """See `Guest`."""
        self._plan = plan
        self._directory = plan.directory / "snapshot"
        self.memory_path: Path = self._directory / "memory.bin"
        with VmmProcess() as vmm:
            vmm.create(plan.memory_bytes)
            progress(0.1)
            vmm.command("fill", seed=plan.seed, zero_share=_ZERO_SHARE, timeout=plan.timeout).check()
            progress(0.5)
            vmm.command("rewrite", seed=plan.seed + 1, share=_REWRITTEN_SHARE, timeout=plan.timeout).check()
            progress(0.6)
            vmm.snapshot(self._directory, timeout=plan.timeout)
            self._workload = vmm.workload

    @contextlib.contextmanager
    def vm(self) -> Iterator[KvmVm]:
        """See `Guest`."""
        with VmmProcess() as vmm:
            yield KvmVm(vmm, self._directory, self._plan)

    def mutate(self, mutant: Mutant, file: FileSource) -> PageSource | dict[str, Any]:
        """See `Guest`."""
        if mutant == "lost-fault":
            return {"lost_fault_at_fault": 40}
        return wrong_source(mutant, self.memory_path, file, self.changes(mutant, file))

    def changes(self, mutant: Mutant, file: FileSource) -> dict[int, bytes]:
        """See `Guest`. A stale page is one that was rewritten: its source has it as it was before."""
        if mutant != "stale-page":
            return changed_page(mutant, self.memory_path, file)
        before = Workload(self._workload.seed, self._workload.zero_share)
        for page in range(self._plan.pages // 2, self._plan.pages):
            stale = before.page(page)
            # Of data that was other data: zeros are holes, for which no source is asked.
            if self._workload.generation(page) == 1 and any(stale) and any(self._workload.page(page)):
                return {page * PAGE_BYTES: stale}
        raise AssertionError("no page was rewritten")


class KvmVm:
    """See `Vm`."""

    def __init__(self, vmm: VmmProcess, directory: Path, plan: Plan) -> None:
        self._vmm = vmm
        self._directory = directory
        self._plan = plan
        self._before = vmm.memory_usage().rss

    def restore(self, way: Way) -> Times:
        """See `Vm`. It verifies what it touches."""
        plan = self._plan
        lazy = False if way == "eager" else way
        start = time.perf_counter()
        timings = self._vmm.restore(self._directory, lazy=lazy, timeout=plan.timeout)
        self._touch("sequential", first_page=plan.first_page, pages=plan.in_order)
        self._touch("random", count=plan.working_set - plan.in_order, seed=plan.seed)
        end = time.perf_counter()
        assert timings.first_answer_ns is not None
        return Times(timings.resume_ns / 1e6, timings.first_answer_ns / 1e6, 1000 * (end - start))

    def _touch(self, order: str, **options: int) -> None:
        self._vmm.command("touch", order=order, timeout=self._plan.timeout, **options).check()

    def memory_bytes(self) -> int:
        """See `Vm`."""
        return max(0, self._vmm.memory_usage().rss - self._before)

    def verify(self) -> None:
        """See `Vm`."""
        report = self._vmm.command("verify", timeout=self._plan.timeout).check()
        assert report.pages == self._plan.pages - FIRST_WORK_PAGE, report
