"""One restore of `vmthaw demo`: hand-over, working set, the rest, and every byte compared."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vmthaw.cli._errors import CliError, sentence_of
from vmthaw.cli._mutants import MUTANTS, Mutant, mutant_source
from vmthaw.errors import VmthawError
from vmthaw.pager import FillMode, PagerConfig
from vmthaw.server import PageServer
from vmthaw.source import FileSource
from vmthaw.testing import FakeVmm, FindingsError, TextbookServer, TouchReport

_SLICES = 16
_BASELINE_TIMEOUT_S = 120.0
_REMOVED_RANGES = 8
_REMOVED_PAGES = 16

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Plan:
    """What every case does. `working_set` in pages, `timeout` in seconds for each touch of many pages."""

    memory_path: Path
    pages: int
    working_set: int
    seed: int
    directory: Path
    timeout: float = 60.0

    @property
    def socket_path(self) -> Path:
        """Where the cases listen, one after another."""
        return self.directory / "s"


@dataclass
class Result:
    """What a case came to. None: does not apply.

    Times in ms, all from the beginning of the hand-over. p50 and p99 in us: what a touch of the working set took in
    the VM.
    """

    name: str
    handler: str
    handover_ms: float | None = None
    first_touch_ms: float | None = None
    working_set_ms: float | None = None
    all_touched_ms: float | None = None
    faults: int | None = None
    pages: int | None = None
    zero_pages: int | None = None
    touch_p50_us: float | None = None
    touch_p99_us: float | None = None
    handler_cpu_ms: float | None = None
    verified: bool = False
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Case:
    """A way of restoring, with what it is called."""

    name: str
    handler: str
    run: Callable[[Plan, Result, Progress], None] = field(repr=False)

    def result(self, plan: Plan, progress: Progress) -> Result:
        """Runs it. What is wrong with the bytes becomes a problem of the result; anything else is raised."""
        result = Result(self.name, self.handler)
        try:
            self.run(plan, result, progress)
        except FindingsError as error:
            result.problem = sentence_of(error)
        else:
            result.verified = True
        progress(1.0)
        return result


def cases() -> list[Case]:
    """Ours, the textbook's and the two ways that need no handler."""
    return [
        Case("vmthaw, default plan", "vmthaw", partial(_through_vmthaw, PagerConfig(), None)),
        Case("vmthaw, page by page", "vmthaw", partial(_through_vmthaw, PagerConfig(fill_mode=FillMode.page), None)),
        Case("textbook loop", "textbook", partial(_through_textbook, {})),
        Case("eager read", "none", partial(_baseline, "eager")),
        Case("private file mapping", "kernel", partial(_baseline, "mapping")),
    ]


def mutant_case(mutant: Mutant) -> Case:
    """A page server that is wrong on purpose: its result must not be verified."""
    mutations = MUTANTS[mutant]
    if mutations is None:
        return Case(f"mutant: {mutant}", "vmthaw", partial(_through_vmthaw, PagerConfig(), mutant))
    return Case(f"mutant: {mutant}", "textbook", partial(_through_textbook, mutations))


def _through_vmthaw(config: PagerConfig, mutant: Mutant | None, plan: Plan, result: Result, progress: Progress) -> None:
    file = FileSource(plan.memory_path)
    source = mutant_source(mutant, plan.memory_path, file) if mutant else file
    with PageServer(plan.socket_path, source, config=config) as server, FakeVmm(plan.memory_path) as vmm:
        before = time.process_time()
        _hand_over(vmm, plan, result, lambda: server.ready(10.0))
        (session,) = server.sessions
        _touch_all(vmm, plan, result, progress)
        result.handler_cpu_ms = 1000 * (time.process_time() - before)
        stats = session.stats
        result.faults, result.pages, result.zero_pages = stats.faults, stats.installed, stats.zero
        _verify(vmm, plan)
        _inflate_balloon(vmm, plan)


def _through_textbook(mutations: dict[str, Any], plan: Plan, result: Result, progress: Progress) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(TextbookServer(plan.socket_path, plan.memory_path, **mutations))
        stack.callback(plan.socket_path.unlink, missing_ok=True)  # it is killed where it fails, and leaves its socket
        vmm = stack.enter_context(FakeVmm(plan.memory_path))
        _hand_over(vmm, plan, result, lambda: None)
        _touch_all(vmm, plan, result, progress)
        _verify(vmm, plan)
        if mutations:  # the page counts of the table are those of the touches alone
            _inflate_balloon(vmm, plan)
        vmm.close()
        stats = server.stats()
        result.faults = result.pages = stats["faults"]
        result.zero_pages = stats["zero_pages"]
        result.handler_cpu_ms = stats["cpu_ns"] / 1e6


def _hand_over(vmm: FakeVmm, plan: Plan, result: Result, ready: Callable[[], None]) -> None:
    start = time.perf_counter()
    vmm.handover(plan.socket_path)
    ready()
    result.handover_ms = 1000 * (time.perf_counter() - start)


def _touch_all(vmm: FakeVmm, plan: Plan, result: Result, progress: Progress) -> None:
    """A random working set, then everything in order; the comparison comes afterwards and is not timed."""
    import numpy as np

    progress(0.05)
    touched = _touch(vmm, plan, "subset", count=plan.working_set, seed=plan.seed)
    latencies = touched.latencies_ns
    result.touch_p50_us, result.touch_p99_us = (float(value) / 1000 for value in np.percentile(latencies, [50, 99]))
    assert result.handover_ms is not None
    result.first_touch_ms = result.handover_ms + float(latencies[0]) / 1e6
    elapsed_ms = result.working_set_ms = result.handover_ms + touched.duration_ns / 1e6
    bounds = [plan.pages * i // _SLICES for i in range(_SLICES + 1)]
    for done, (first, last) in enumerate(itertools.pairwise(bounds), 1):
        elapsed_ms += _touch(vmm, plan, "sequential", first_page=first, pages=last - first).duration_ns / 1e6
        progress(0.2 + 0.6 * done / _SLICES)
    result.all_touched_ms = elapsed_ms


def _touch(vmm: FakeVmm, plan: Plan, pattern: Any, **options: Any) -> TouchReport:
    return vmm.touch(pattern, verify=False, timeout=plan.timeout, **options).check()


def _verify(vmm: FakeVmm, plan: Plan) -> None:
    vmm.verify(only_touched=False, timeout=plan.timeout).check()


def _inflate_balloon(vmm: FakeVmm, plan: Plan) -> None:
    """Pages given back to the host are zeros when they are touched again, whatever the file holds there."""
    step = plan.pages // _REMOVED_RANGES
    count = min(_REMOVED_PAGES, step)
    ranges = [(number * step, count) for number in range(_REMOVED_RANGES)]
    vmm.remove(ranges).check()
    _touch(vmm, plan, [first + i for first, number in ranges for i in range(number)])
    _verify(vmm, plan)


def _baseline(kind: str, plan: Plan, result: Result, progress: Progress) -> None:
    progress(0.1)
    arguments = [kind, str(plan.memory_path), str(plan.pages), str(plan.working_set), str(plan.seed)]
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw.cli._baseline", *arguments],
        capture_output=True,
        text=True,
        timeout=_BASELINE_TIMEOUT_S,
        check=False,
        start_new_session=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise CliError(f"the baseline {result.name!r} ended early: {reason[0]}")
    report = json.loads(done.stdout)
    if not report.pop("verified"):
        raise FindingsError("the baseline's memory differs from the file")
    for name, value in report.items():
        setattr(result, name, value)


def check_userfaultfd() -> None:
    """Raises CliError with the remedy where no userfaultfd can be made."""
    from vmthaw.userfaultfd import UserfaultfdFactory

    try:
        UserfaultfdFactory().create().close()
    except (OSError, VmthawError) as error:
        raise CliError(f"the demo needs a userfaultfd: {sentence_of(error)} (see `vmthaw doctor`)") from error
