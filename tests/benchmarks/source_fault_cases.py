"""What a fault costs by the source behind it, warm: page by page through a pager, in turns with `FileSource`.

The two VMs, their touchers and the worker share one processor, so that a turn is what the fault path does and nothing
that the scheduler adds; sources that need threads of their own (a socket, Python) have the other processors as well.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample, percentiles
from tests.benchmarks.layered_cases import generations
from tests.benchmarks.memory_files import PAGE
from vmthaw import (
    CachedSource,
    CompressedSource,
    FileSource,
    LayeredSource,
    PageExporter,
    PagerConfig,
    PageServer,
    PageSource,
    PythonSource,
    SocketSource,
    compress_file,
)
from vmthaw._snapshot_pack import pack
from vmthaw.pager import FillMode, Placement
from vmthaw.source import PackedSource
from vmthaw.testing import FakeVmm

_MOST_PAGES = 16384
_SOME_PAGES = 8192
_FEW_PAGES = 2048
"""For sources whose faults wait for other threads."""
_TURN = 512
"""Faults in a turn."""
_CACHE_BYTES = 2 * _MOST_PAGES * PAGE
_CHUNK_BYTES = 64 << 10

Opened = Callable[[Bench, int, ExitStack], PageSource]
"""Opens a source of the first so many bytes of the warm file; what it needs besides goes when the stack does."""


def _head(bench: Bench, size: int) -> Path:
    """The first `size` bytes of the warm memory file, as a file: a source of all would be another to read."""
    path = bench.files.path / f"head-{size}"
    if not path.exists():
        with bench.memory(cold=False).open("rb") as source, path.open("wb", buffering=0) as target:
            for _ in range(size // PAGE):  # 4 KiB at a time, as the memory file itself
                target.write(source.read(PAGE))
    return path


def _file(bench: Bench, size: int, stack: ExitStack) -> PageSource:
    return stack.enter_context(FileSource(_head(bench, size)))


def _layers(count: int) -> Opened:
    def opened(bench: Bench, size: int, stack: ExitStack) -> PageSource:
        return stack.enter_context(LayeredSource(*generations(bench, size // PAGE, count)))

    return opened


def _compressed(codec: str) -> Opened:
    def opened(bench: Bench, size: int, stack: ExitStack) -> PageSource:
        path = bench.files.path / f"{codec}-{size}"
        if not path.exists():
            compress_file(_file(bench, size, stack), path, codec, chunk=_CHUNK_BYTES)
        return stack.enter_context(CompressedSource(path, cache_bytes=_CACHE_BYTES))

    return opened


def _packed(bench: Bench, size: int, stack: ExitStack) -> PageSource:
    directory = bench.files.path / f"packed-{size}"
    if not directory.exists():
        pack(_file(bench, size, stack), directory, "one", chunk_bytes=_CHUNK_BYTES)
    return stack.enter_context(PackedSource(directory, "one", cache_bytes=_CACHE_BYTES))


def _cached(bench: Bench, size: int, stack: ExitStack) -> PageSource:
    return stack.enter_context(CachedSource(_file(bench, size, stack), memory=_CACHE_BYTES))


def _socket(bench: Bench, size: int, stack: ExitStack) -> PageSource:
    exporter = stack.enter_context(PageExporter(_file(bench, size, stack), bench.socket()))
    return stack.enter_context(SocketSource(exporter.address, size))


def _python(bench: Bench, size: int, stack: ExitStack) -> PageSource:
    file = os.open(_head(bench, size), os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, file)
    return stack.enter_context(PythonSource(lambda offset, count: os.pread(file, count, offset), size))


@contextmanager
def _vm(bench: Bench, source: PageSource, memory: Path, config: PagerConfig) -> Iterator[FakeVmm]:
    socket = bench.socket()
    with PageServer(socket, source, config=config), FakeVmm(memory) as vmm:
        vmm.handover(socket)
        yield vmm


def fault(opened: Opened, pages: int = _MOST_PAGES) -> Callable[[Bench], Sample]:
    """Each page once, in the same random order for both, `_TURN` pages a turn; `seconds` are the median touch times
    their number. One VM each comes before, so that what a source learns of its pages it has learned."""

    def measure(bench: Bench) -> Sample:
        count = min(bench.pages, pages) // _TURN * _TURN
        order = list(range(count))
        random.Random(1).shuffle(order)
        config = PagerConfig(fill_mode=FillMode.page, placement=Placement.pinned, cpu=bench.toucher_cpu)
        memory = _head(bench, count * PAGE)
        with ExitStack() as stack:
            sources = opened(bench, count * PAGE, stack), _file(bench, count * PAGE, stack)
            for source in sources:
                source.read(0, source.size)
            for _ in range(2):
                with _vm(bench, sources[0], memory, config) as ours, _vm(bench, sources[1], memory, config) as theirs:
                    bench.make_ready()
                    mine, others = _latencies_ns((ours, theirs), order, bench.toucher_cpu)
                    ours.verify(timeout=TIMEOUT).check()
        p50, p95, p99 = percentiles(mine)
        baseline, *_ = percentiles(others)
        return Sample(p50 * count / 1e6, count, None, p50, p95, p99, baseline_seconds=baseline * count / 1e6)

    return measure


def _latencies_ns(vmms: tuple[FakeVmm, FakeVmm], order: list[int], cpu: int) -> list[NDArray[np.uint64]]:
    """Of each touch, for both VMs."""
    found: tuple[list[NDArray[np.uint64]], list[NDArray[np.uint64]]] = ([], [])
    for number, start in enumerate(range(0, len(order), _TURN)):
        for which in (0, 1) if number % 2 else (1, 0):
            report = vmms[which].touch(order[start : start + _TURN], cpus=[cpu], verify=False, timeout=TIMEOUT)
            found[which].append(report.check().latencies_ns)
    return [np.concatenate(some) for some in found]


def source_fault_cases() -> list[Case]:
    """All have their ratio to `FileSource`; the first one's says how far two equal ones are apart."""
    return [
        Case("source/fault-file", fault(_file), "a fault on FileSource, in turns with another; so all that follow"),
        Case("source/fault-layered-1", fault(_layers(1)), "LayeredSource, 1 generation"),
        Case("source/fault-layered-8", fault(_layers(8)), "8 generations"),
        Case("source/fault-layered-64", fault(_layers(64)), "64 generations"),
        Case("source/fault-zstd", fault(_compressed("zstd"), _SOME_PAGES), "CompressedSource, zstd, its chunks held"),
        Case("source/fault-lz4", fault(_compressed("lz4"), _SOME_PAGES), "the same, LZ4"),
        Case("source/fault-packed", fault(_packed, _SOME_PAGES), "PackedSource, its chunks held"),
        Case("source/fault-cached", fault(_cached, _SOME_PAGES), "CachedSource over FileSource, all in its memory"),
        Case("source/fault-unix", fault(_socket, _FEW_PAGES), "SocketSource, a UNIX socket and an exporter here"),
        Case("source/fault-python", fault(_python, _FEW_PAGES), "PythonSource, os.pread"),
    ]
