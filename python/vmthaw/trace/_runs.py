"""Sets of addresses as runs: (n, 2) arrays of int64, [start, end) in bytes, sorted, apart from each other.

A record of a million pages costs as much as one of one page, whoever wrote it.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Runs: TypeAlias = NDArray[np.int64]


def merged(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Runs:
    """The union of [start, end) intervals; those that touch become one."""
    wanted = ends > starts
    starts, ends = starts[wanted], ends[wanted]
    if not len(starts):
        return np.empty((0, 2), dtype=np.int64)
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    first = np.flatnonzero(np.concatenate(([True], starts[1:] > reach[:-1])))
    last = np.concatenate((first[1:] - 1, [len(starts) - 1]))
    return np.stack((starts[first], reach[last]), axis=1)


def of_records(records: NDArray[np.void]) -> Runs:
    """The guest-physical runs that records cover; one without pages (it was present) counts as its one page."""
    starts = records["guest_address"].astype(np.int64)
    size = np.int64(1) << records["page_size_log2"].astype(np.int64)
    return merged(starts, starts + np.maximum(records["pages"].astype(np.int64), 1) * size)


def union(a: Runs, b: Runs) -> Runs:
    """What is in either."""
    return merged(np.concatenate((a[:, 0], b[:, 0])), np.concatenate((a[:, 1], b[:, 1])))


def intersection(a: Runs, b: Runs) -> Runs:
    """What is in both."""
    if not len(a) or not len(b):
        return np.empty((0, 2), dtype=np.int64)
    # Each run of `a` meets the runs of `b` from `low` to `high`.
    low = np.searchsorted(b[:, 1], a[:, 0], side="right")
    high = np.searchsorted(b[:, 0], a[:, 1], side="left")
    count = np.maximum(high - low, 0)
    of_a = np.repeat(np.arange(len(a)), count)
    of_b = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    return np.stack((np.maximum(a[of_a, 0], b[of_b, 0]), np.minimum(a[of_a, 1], b[of_b, 1])), axis=1)


def difference(a: Runs, b: Runs) -> Runs:
    """What is in `a` and not in `b`."""
    if not len(a):
        return a
    edges = np.concatenate((a[:1, 0], b.ravel(), a[-1:, 1]))
    edges = np.clip(edges, a[0, 0], a[-1, 1])
    return intersection(a, merged(edges[0::2], edges[1::2]))


def size_bytes(runs: Runs) -> int:
    """All of them together."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def blocks(runs: Runs, block: int) -> int:
    """How many aligned blocks of `block` bytes they touch."""
    touched = merged(runs[:, 0] // block, -(-runs[:, 1] // block))
    return size_bytes(touched)


def covered(runs: Runs, starts: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    """How many bytes of each block (from `starts`, each of `block` bytes) the runs hold."""
    before = np.concatenate(([0], np.cumsum(runs[:, 1] - runs[:, 0])))

    def below(addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        at = np.searchsorted(runs[:, 0], addresses, side="right")  # runs that begin at or below
        if not len(runs):
            return np.zeros(len(addresses), dtype=np.int64)
        last = np.maximum(at - 1, 0)
        part = np.clip(addresses - runs[last, 0], 0, runs[last, 1] - runs[last, 0])
        return np.where(at > 0, before[last] + part, 0)

    return below(starts + block) - below(starts)
