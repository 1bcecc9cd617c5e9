"""Restores with a recorded working set: from the hand-over to the last touch, nothing waited for in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample, percentiles, touch, with_counters
from tests.benchmarks.memory_files import PAGE
from tests.benchmarks.processes import OurServer, thread_cpu_ns
from vmthaw import MemoryLayout, WorkingSet
from vmthaw.testing import FakeVmm, TextbookServer


def working_set(bench: Bench) -> WorkingSet:
    """What the random plan touches, in its order: what a recording of it would hold."""
    layout = MemoryLayout.host()
    return WorkingSet(np.array([layout.guest_address(page * PAGE) for page in bench.page_list("random")], np.uint64))


def textbook(*, same_core: bool = False) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        cpu = bench.toucher_cpu if same_core else None
        socket, memory = bench.socket(), bench.memory(cold=False)
        with TextbookServer(socket, memory, cpu=cpu) as server, FakeVmm(memory) as vmm:
            bench.make_ready()
            before, start = thread_cpu_ns(server.pid), time.perf_counter()
            vmm.handover(socket)
            report = touch(vmm, bench.plan("random"), cpu)
            seconds = time.perf_counter() - start
            cpu_seconds = (thread_cpu_ns(server.pid) - before) / 1e9
            vmm.verify(timeout=TIMEOUT).check()
        return Sample(seconds, report.touches, cpu_seconds, *percentiles(report.latencies_ns))

    return measure


def ours(
    pattern: str = "random", *, replay: bool = True, settle: bool = False, **options: Any
) -> Callable[[Bench], Sample]:
    """``settle``: touched (and timed) only when the whole working set is there."""

    def measure(bench: Bench) -> Sample:
        socket, memory = bench.socket(), bench.memory(cold=False)
        saved = bench.files.path / "working-set"
        wanted = working_set(bench)
        wanted.save(saved)
        if replay:
            options["working_set"] = saved
        with OurServer(socket, memory, **options) as server, FakeVmm(memory) as vmm:
            bench.make_ready()
            before, start = thread_cpu_ns(server.pid), time.perf_counter()
            vmm.handover(socket)
            if settle:
                _wait_for(server, len(wanted))
                before, start = thread_cpu_ns(server.pid), time.perf_counter()
            faults = server.statistics()["faults"] if settle else 0
            report = touch(vmm, bench.plan(pattern), None)
            seconds = time.perf_counter() - start
            cpu_seconds = (thread_cpu_ns(server.pid) - before) / 1e9
            found = server.settled_statistics()
            found["faults"] -= faults
            vmm.verify(timeout=TIMEOUT).check()
        sample = Sample(seconds, report.touches, cpu_seconds, *percentiles(report.latencies_ns))
        return with_counters(sample, found)

    return measure


def _wait_for(server: OurServer, pages: int) -> None:
    deadline = time.monotonic() + 30
    while server.statistics()["prefetched"] < pages:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the working set of {pages} pages is not installed within 30 s")
        time.sleep(0.005)


def restore_cases() -> list[Case]:
    """10 % of the pages at random, or all of them in order."""
    return [
        Case("restore/textbook", textbook(), "random, from the hand-over on; nothing pinned"),
        Case("restore/textbook-same-core", textbook(same_core=True), "the same, both pinned to one core"),
        Case("restore/default", ours(replay=False), "ours, no working set"),
        Case("restore/working-set", ours(), "ours, the recorded working set alongside"),
        Case("restore/working-set-before", ours(working_set_mode="before"), "ours, the working set first"),
        Case("restore/scan", ours("sequential", replay=False), "ours, all pages in order"),
        Case("restore/scan-after-working-set", ours("sequential", settle=True),
             "the same when a scattered working set is there"),
    ]  # fmt: skip
