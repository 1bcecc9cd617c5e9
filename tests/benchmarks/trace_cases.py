"""What tracing costs: the fault path's part alone, in C++, and a server with and without."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.bench import Bench, Case, Sample
from vmthaw import _core

_RECORDS = 1 << 20


def loop(threads: int, *, traced: bool) -> Callable[[Bench], Sample]:
    """`touched` are the records of each thread, so "us/page" is what one of them costs one thread."""

    def measure(_: Bench) -> Sample:
        return Sample(_core.trace_loop(threads, _RECORDS, traced) / 1e9, _RECORDS)

    return measure


def trace_cases(ours: Callable[..., Callable[[Bench], Sample]]) -> list[Case]:
    """`ours` makes a case of our server, touched at random."""
    return [
        Case("trace/loop-1-off", loop(1, traced=False), "1 thread, tracing off: a look and the clock"),
        Case("trace/loop-1", loop(1, traced=True), "1 thread records"),
        Case("trace/loop-2-off", loop(2, traced=False), "2 threads, tracing off"),
        Case("trace/loop-2", loop(2, traced=True), "2 threads record into one ring"),
        Case("trace/server-off", ours("random", fill_mode="page"), "ours, one page at a time, tracing off"),
        Case("trace/server", ours("random", fill_mode="page", trace_records=65536),
             "the same, every fault recorded and taken"),
    ]  # fmt: skip
