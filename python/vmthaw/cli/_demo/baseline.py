"""Restoring without userfaultfd, timed in a process of its own.

``python -m vmthaw.cli._demo.baseline KIND PATH PAGES FIRST IN_ORDER AT_RANDOM SEED``: ``eager`` reads the whole file
into anonymous memory first, ``mapping`` maps it privately. Then both touch what the other ways touch, a word a page,
and compare every byte. Writes one JSON object.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmthaw import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAGE_BYTES = 4096
_WORDS_PER_PAGE = _PAGE_BYTES // 8
_PIECE_BYTES = 1 << 20


def _restore(kind: str, fd: int, size: int) -> mmap.mmap:
    if kind == "mapping":
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = memoryview(memory)
    for offset in range(0, size, _PIECE_BYTES):
        os.preadv(fd, [view[offset : offset + _PIECE_BYTES]], offset)
    return memory


def _same(fd: int, words: NDArray[np.uint64], size: int) -> bool:
    for offset in range(0, size, _PIECE_BYTES):
        expected = np.frombuffer(os.pread(fd, _PIECE_BYTES, offset), dtype=np.uint64)
        first = offset // 8
        if not np.array_equal(words[first : first + len(expected)], expected):
            return False
    return os.pread(fd, 1, size) == b""


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def main() -> None:
    """Measure one of the two."""
    kind, path = sys.argv[1:3]
    pages, first_page, in_order, count, seed = (int(text) for text in sys.argv[3:])
    size = pages * _PAGE_BYTES
    scattered = np.array(_core.plan_touches("subset", pages, count=count, seed=seed), dtype=np.int64)
    working_set = np.concatenate((np.arange(first_page, first_page + in_order, dtype=np.int64), scattered))
    order = working_set * _WORDS_PER_PAGE
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    before = _resident()
    start = time.perf_counter()
    memory = _restore(kind, fd, size)
    restored = time.perf_counter()
    words: NDArray[np.uint64] = np.frombuffer(memory, dtype=np.uint64)
    int(words[order[0]])
    first = time.perf_counter()
    words[order].sum()
    settled = time.perf_counter()
    used = _resident() - before
    times = zip(("resume_ms", "first_answer_ms", "working_set_ms"), (restored, first, settled), strict=True)
    report: dict[str, object] = {name: 1000 * (moment - start) for name, moment in times}
    print(json.dumps({**report, "memory_bytes": max(0, used), "verified": _same(fd, words, size)}))


if __name__ == "__main__":
    main()
