"""Memory without userfaultfd: ``python -m tests.benchmarks.mapping_child JSON``. Says "ready", waits for a line, does
what is timed, compares every touched page with the file and prints JSON."""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
_PIECE = 2 << 20
_MADV_POPULATE_READ = 22


def _read_all(fd: int, memory: mmap.mmap, size: int) -> None:
    view = memoryview(memory)
    for start in range(0, size, _PIECE):
        os.preadv(fd, [view[start : start + _PIECE]], start)
    view.release()


def mismatches(fd: int, memory: NDArray[np.uint8], pages: list[int]) -> int:
    wrong = 0
    for page in pages:
        expected = np.frombuffer(os.pread(fd, PAGE, page * PAGE), dtype=np.uint8)
        wrong += not np.array_equal(memory[page * PAGE : page * PAGE + PAGE], expected)
    return wrong


def run(mode: str, path: str, pages: list[int], cpu: int | None) -> dict[str, Any]:
    """``mode``: mapping, populate, eager or resident."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(fd).st_size
    offsets = np.array(pages, dtype=np.intp) * PAGE
    if mode in ("mapping", "populate"):
        memory = mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    else:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # as a restored VM's memory: UFFDIO_COPY makes no huge pages either
    view = np.frombuffer(memory, dtype=np.uint8)
    if mode == "resident":
        _read_all(fd, memory, size)
    result = np.zeros(len(pages), dtype=np.uint8)
    print("ready", flush=True)
    sys.stdin.readline()
    start_cpu = time.process_time_ns()
    start = time.perf_counter_ns()
    if mode == "populate":
        memory.madvise(_MADV_POPULATE_READ)
    elif mode == "eager":
        _read_all(fd, memory, size)
    ready = time.perf_counter_ns()
    view.take(offsets, out=result, mode="clip")
    end = time.perf_counter_ns()
    cpu_ns = time.process_time_ns() - start_cpu
    return {
        "duration_ns": end - start,
        "before_touch_ns": ready - start,
        "cpu_ns": cpu_ns,
        "mismatches": mismatches(fd, view, pages),
    }


def main() -> None:
    arguments = json.loads(sys.argv[1])
    pages = json.loads(sys.stdin.readline())
    print(json.dumps(run(arguments["mode"], arguments["path"], pages, arguments["cpu"])), flush=True)


if __name__ == "__main__":
    main()
