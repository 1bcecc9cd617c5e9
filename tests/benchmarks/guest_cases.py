"""The same restores with a real guest under KVM in the place of FakeVmm."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample, with_counters
from tests.benchmarks.memory_files import PAGE, read_whole
from tests.benchmarks.processes import OurServer, thread_cpu_ns
from tests.support.kernel_probes import why_no_kvm
from vmthaw import PageServer, WorkingSet
from vmthaw.machine import VmmProcess
from vmthaw.source import FileSource
from vmthaw.testing import TextbookServer

_LIVE_RECORDS = 1 << 20


def _touch(vmm: VmmProcess, bench: Bench, *, whole: bool = False) -> int:
    """A word of each page of the plan, or all words; the pages touched. The guest compares what it reads."""
    report = vmm.command(
        "touch", order="random", count=bench.random_pages, seed=1, one_word=not whole, timeout=TIMEOUT
    ).check()
    return report.pages


def _snapshot(bench: Bench) -> Path:
    """A guest of the benchmark's size, filled and saved; with the working set of its touches. Made once."""
    folder = bench.files.path / "guest"
    if folder.exists():
        return folder
    with VmmProcess() as vmm:
        vmm.create(bench.pages * PAGE, timeout=TIMEOUT)
        vmm.command("fill", seed=1, timeout=TIMEOUT).check()
        vmm.snapshot(folder, timeout=TIMEOUT)
    socket = bench.socket()
    with FileSource(folder / "memory.bin") as source, PageServer(socket, source) as server, VmmProcess() as vmm:
        server.enable_trace(live=_LIVE_RECORDS)
        vmm.restore(folder, lazy=socket, timeout=TIMEOUT)
        _touch(vmm, bench)
        WorkingSet.from_trace(server.trace(), include=("demand", "fault_around")).save(folder / "working-set")
    return folder


@contextlib.contextmanager
def _guest(bench: Bench) -> Iterator[tuple[Path, VmmProcess]]:
    """The snapshot, warm, and a VMM that waits."""
    folder = _snapshot(bench)
    read_whole(folder / "memory.bin")
    with VmmProcess() as vmm:
        yield folder, vmm


def _restore(vmm: VmmProcess, folder: Path, lazy: Any, bench: Bench) -> tuple[float, int]:
    """Seconds from the request to the last touch, and the pages touched; what they hold is verified afterwards."""
    start = time.perf_counter()
    vmm.restore(folder, lazy=lazy, timeout=TIMEOUT)
    touched = _touch(vmm, bench)
    seconds = time.perf_counter() - start
    _touch(vmm, bench, whole=True)
    return seconds, touched


def textbook(*, same_core: bool = False) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        cpu = bench.toucher_cpu if same_core else None
        socket = bench.socket()
        with _guest(bench) as (folder, vmm), TextbookServer(socket, folder / "memory.bin", cpu=cpu) as server:
            if cpu is not None:
                for task in Path(f"/proc/{vmm.pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), {cpu})
            bench.make_ready()
            before = thread_cpu_ns(server.pid)
            seconds, touched = _restore(vmm, folder, socket, bench)
            return Sample(seconds, touched, (thread_cpu_ns(server.pid) - before) / 1e9)

    return measure


def ours(*, replay: bool = True) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        socket = bench.socket()
        with _guest(bench) as (folder, vmm):
            known = folder / "working-set" if replay else None
            with OurServer(socket, folder / "memory.bin", working_set=known) as server:
                bench.make_ready()
                before = thread_cpu_ns(server.pid)
                seconds, touched = _restore(vmm, folder, socket, bench)
                cpu_seconds = (thread_cpu_ns(server.pid) - before) / 1e9
                found = server.settled_statistics()
                vmm.kill()
        return with_counters(Sample(seconds, touched, cpu_seconds), found)

    return measure


def without(way: Any) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        with _guest(bench) as (folder, vmm):
            bench.make_ready()
            return Sample(*_restore(vmm, folder, way, bench))

    return measure


def guest_cases() -> list[Case]:
    """10 % of the pages at random, by a guest under KVM. None where it cannot run."""
    if why_no_kvm():
        return []
    return [
        Case("guest/textbook", textbook(), "KVM guest, random, from the request on; nothing pinned"),
        Case("guest/textbook-same-core", textbook(same_core=True), "the same, both pinned to one core"),
        Case("guest/default", ours(replay=False), "ours, no working set"),
        Case("guest/working-set", ours(), "ours, the recorded working set alongside"),
        Case("guest/mapping", without("mapping"), "a private mapping of the warm file"),
        Case("guest/eager", without(False), "the file read first"),
    ]
