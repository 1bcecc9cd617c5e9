"""Sets of runs do what sets of numbers do."""

from __future__ import annotations

import numpy as np
import pytest

from vmthaw.trace import _runs as runs


def as_set(found: runs.Runs) -> set[int]:
    return {number for start, end in found for number in range(start, end)}


def some(seed: int, count: int) -> runs.Runs:
    random = np.random.default_rng(seed)
    starts = random.integers(0, 200, count)
    return runs.merged(starts, starts + random.integers(0, 12, count))


@pytest.mark.parametrize("seed", range(30))
def test_runs_are_sets(seed: int) -> None:
    a, b = some(seed, seed % 12), some(seed + 100, seed % 7)
    x, y = as_set(a), as_set(b)
    assert as_set(runs.union(a, b)) == x | y
    assert as_set(runs.intersection(a, b)) == x & y
    assert as_set(runs.difference(a, b)) == x - y
    assert runs.size_bytes(a) == len(x)
    starts = np.array([0, 16, 48, 160], dtype=np.int64)
    held = [len(x & set(range(start, start + 16))) for start in starts]
    assert runs.covered(a, starts, 16).tolist() == held
    for found in (runs.union(a, b), runs.intersection(a, b), runs.difference(a, b)):
        assert (found[1:, 0] >= found[:-1, 1]).all(), "in order, and apart from each other"
