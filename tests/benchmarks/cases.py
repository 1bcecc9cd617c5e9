"""What is measured: each case makes its processes, touches once, checks every page and gives a sample."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample, percentiles, touch, with_counters
from tests.benchmarks.captures import capture_cases
from tests.benchmarks.dax_cases import dax_cases
from tests.benchmarks.exit_cases import exit_cases
from tests.benchmarks.exit_guest import why_no_guest
from tests.benchmarks.freeze_cases import freeze_cases
from tests.benchmarks.fuse_cases import fuse_cases
from tests.benchmarks.guest_cases import guest_cases
from tests.benchmarks.layered_cases import layered_cases
from tests.benchmarks.memory_files import PAGE
from tests.benchmarks.pack_cases import pack_cases, unpack_cases
from tests.benchmarks.processes import JsonProcess, OurServer, thread_cpu_ns
from tests.benchmarks.restore_cases import restore_cases
from tests.benchmarks.run_cases import run_cases
from tests.benchmarks.s3_cases import s3_cases
from tests.benchmarks.snapshot_cases import snapshot_cases
from tests.benchmarks.source_cases import source_cases
from tests.benchmarks.source_fault_cases import source_fault_cases
from tests.benchmarks.trace_cases import trace_cases
from tests.benchmarks.window_cases import window_cases
from vmthaw.testing import FakeVmm, FakeVmmHost, TextbookServer

_FAULTS_BESIDE_A_FAILURE = 1000
_TRIES = 3


def textbook(
    pattern: str, *, toucher: str = "free", handler: str = "free", cold: bool = False
) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        cpus = {"free": None, "toucher": bench.toucher_cpu, "other": bench.other_cpu}
        socket, memory = bench.socket(), bench.memory(cold)
        with TextbookServer(socket, memory, cpu=cpus[handler]) as server, FakeVmm(memory) as vmm:
            vmm.handover(socket)
            bench.make_ready(cold)
            before = thread_cpu_ns(server.pid)
            report = touch(vmm, bench.plan(pattern), cpus[toucher])
            cpu = (thread_cpu_ns(server.pid) - before) / 1e9
            vmm.verify(timeout=TIMEOUT).check()
        return Sample(report.duration_ns / 1e9, report.touches, cpu, *percentiles(report.latencies_ns))

    return measure


def ours(
    pattern: str, *, toucher: str = "free", handler: str = "free", cold: bool = False, **options: Any
) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        cpus = {"free": None, "toucher": bench.toucher_cpu, "other": bench.other_cpu}
        socket, memory = bench.socket(), bench.memory(cold)
        with OurServer(socket, memory, cpu=cpus[handler], **options) as server, FakeVmm(memory) as vmm:
            vmm.handover(socket)
            server.wait_for_sessions(1)
            bench.make_ready(cold)
            before = thread_cpu_ns(server.pid)
            report = touch(vmm, bench.plan(pattern), cpus[toucher])
            cpu = (thread_cpu_ns(server.pid) - before) / 1e9
            found = server.settled_statistics()
            # Also what was filled around the touched pages (and, through the same server, all the rest).
            vmm.verify(only_touched=options.get("fill_mode") == "page", timeout=TIMEOUT).check()
        sample = Sample(report.duration_ns / 1e9, report.touches, cpu, *percentiles(report.latencies_ns))
        return with_counters(sample, found)

    return measure


def many(vms: int, *, pinned: bool = False, **options: Any) -> Callable[[Bench], Sample]:
    """`vms` VMs in one process share the pages of one; each touches its part at random, in a thread of its own.

    Messages tell the thread: workers follow VMs to their processors, and these all live in one process.
    """

    def measure(bench: Bench) -> Sample:
        socket, pages = bench.socket(), bench.pages // vms
        cpu = bench.toucher_cpu if pinned else None
        with (
            OurServer(socket, bench.memory(cold=False), cpu=cpu, **options) as server,
            FakeVmmHost(vms, bench.memory(cold=False), size=pages * PAGE, features=["thread_id"]) as host,
        ):
            host.handover_all(socket)
            server.wait_for_sessions(vms)
            bench.make_ready()
            before = thread_cpu_ns(server.pid)
            start = time.perf_counter()
            reports = host.touch_all("random", seed=1, cpus=[] if cpu is None else [cpu], verify=False, timeout=TIMEOUT)
            seconds = time.perf_counter() - start
            cpu_seconds = (thread_cpu_ns(server.pid) - before) / 1e9
            found = server.settled_statistics()
            for report, vmm in zip(reports, host.vms, strict=True):
                report.check()
                vmm.verify(timeout=TIMEOUT).check()
        return with_counters(Sample(seconds, vms * pages, cpu_seconds), found)

    return measure


def mapping(pattern: str, mode: str, *, cold: bool = False) -> Callable[[Bench], Sample]:
    """Memory without userfaultfd. What comes before the touches (populating, reading) is in the time."""

    def measure(bench: Bench) -> Sample:
        memory, pages = bench.memory(cold), bench.page_list(pattern)
        with JsonProcess("tests.benchmarks.mapping_child", {"mode": mode, "path": str(memory), "cpu": None}) as child:
            child.send(json.dumps(pages))
            child.line()
            bench.make_ready(cold)
            child.send()
            found = json.loads(child.line(TIMEOUT))
        if found["mismatches"]:
            raise RuntimeError(f"{found['mismatches']} pages of the {mode} case hold the wrong bytes")
        return Sample(found["duration_ns"] / 1e9, len(pages))

    return measure


def beside_a_failing_page(failing: bool, *, fast: bool = False) -> Callable[[Bench], Sample]:
    """1000 faults answered by a Python source, while another thread waits for a page whose reads fail until then.

    Retries come as by default, 50 to 500 ms apart, but do not end; ``fast``: 1 to 5 ms apart."""

    def measure(bench: Bench) -> Sample:
        socket, count = bench.socket(), min(_FAULTS_BESIDE_A_FAILURE, bench.pages - 1)
        source = {"failing": 0, "others": count if failing else 0}
        retry = {"retries": 100_000, **({"retry_min": 0.001, "retry_max": 0.005} if fast else {})}
        with (
            OurServer(socket, bench.memory(cold=False), fill_mode="page", python_source=source, retry=retry) as server,
            FakeVmm(bench.memory(cold=False)) as vmm,
        ):
            vmm.handover(socket)
            server.wait_for_sessions(1)
            bench.make_ready()
            others = np.random.default_rng(1).permutation(np.arange(1, bench.pages))[:count].tolist()
            # Slices of equal length, one a thread: the second waits for page 0 and then touches it again and again.
            report = vmm.touch([*others, *[0] * count], threads=2, verify=False, timeout=TIMEOUT).check()
            found = server.settled_statistics()
            vmm.verify(timeout=TIMEOUT).check()
        if failing and not found["source_failures"]:
            raise RuntimeError("the failing page did not fail once: the case measures nothing")
        latencies = report.latencies_ns[:count]
        seconds = float(latencies.sum()) / 1e9
        return Sample(seconds, count, None, *percentiles(latencies), faults=found["faults"])

    return measure


def all_cases() -> list[Case]:
    """In the order of the table. On a single processor "other core" is the same one."""
    cases = []
    for pattern in ("sequential", "random"):
        cases += [
            Case(f"{pattern}/textbook", textbook(pattern), "poll, read one, copy one; nothing pinned"),
            Case(f"{pattern}/textbook-same-core", textbook(pattern, toucher="toucher", handler="toucher"),
                 "both pinned to one core"),
            Case(f"{pattern}/textbook-other-core", textbook(pattern, toucher="toucher", handler="other"),
                 "pinned to different cores"),
            Case(f"{pattern}/textbook-cold", textbook(pattern, cold=True), "nothing pinned, file not cached"),
            Case(f"{pattern}/page", ours(pattern, fill_mode="page"), "ours, one page at a time"),
            Case(f"{pattern}/page-same-core", ours(pattern, fill_mode="page", toucher="toucher", handler="toucher"),
                 "ours, one page, both pinned to one core"),
            Case(f"{pattern}/around-16", ours(pattern, fill_mode="block", fill_bytes=64 << 10),
                 "ours, blocks of 16 pages"),
            Case(f"{pattern}/blocks-2MiB", ours(pattern, fill_mode="block", fill_bytes=2 << 20),
                 "ours, blocks of 512 pages"),
            Case(f"{pattern}/default", ours(pattern), "ours, the default plan"),
            Case(f"{pattern}/default-cold", ours(pattern, cold=True), "ours, the default plan, file not cached"),
            Case(f"{pattern}/mapping-cold", mapping(pattern, "mapping", cold=True), "private mapping, file not cached"),
            Case(f"{pattern}/mapping-warm", mapping(pattern, "mapping"), "private mapping"),
            Case(f"{pattern}/mapping-populate", mapping(pattern, "populate"), "private mapping, MADV_POPULATE_READ"),
            Case(f"{pattern}/eager-read", mapping(pattern, "eager"), "the whole file read before the first touch"),
            Case(f"{pattern}/resident", mapping(pattern, "resident"), "memory that is there: the ideal"),
        ]  # fmt: skip
    cases += [
        Case("many/page-1", many(1, pinned=True, fill_mode="page"), "1 VM and its worker pinned to one core"),
        Case("many/page-16", many(16, fill_mode="page"), "16 VMs, one page at a time"),
        Case("many/page-64", many(64, fill_mode="page"), "64 VMs, one page at a time"),
        Case("many/default-16", many(16), "16 VMs, the default plan"),
        Case("many/default-64", many(64), "64 VMs, the default plan"),
        Case("failing/usual", beside_a_failing_page(False), "Python source, 1000 faults"),
        Case("failing/one-page-fails", beside_a_failing_page(True), "the same while one page's reads fail"),
        Case("failing/retried-at-once", beside_a_failing_page(True, fast=True), "the same, retried 1 to 5 ms apart"),
    ]
    cases += restore_cases() + guest_cases() + trace_cases(ours) + exit_cases() + dax_cases() + fuse_cases()
    cases += source_cases() + source_fault_cases() + layered_cases()
    cases += window_cases() + s3_cases()
    cases += pack_cases() + unpack_cases()
    return cases if why_no_guest() else cases + run_cases() + capture_cases() + freeze_cases() + snapshot_cases()


def run_case(case: Case, bench: Bench) -> Sample:
    """Once, with the warm file warm before and after if it is used; else again. RuntimeError after three tries."""
    for _ in range(_TRIES):
        bench.files.warm_up()
        bench.uses_warm = False
        sample = case.measure(bench)
        for left in bench.files.path.glob("*.sock"):
            left.unlink(missing_ok=True)
        if not bench.uses_warm or bench.files.stayed_warm():
            return sample
    raise RuntimeError(f"{bench.files.warm} did not stay in the page cache: too little memory for a benchmark here")
