"""The figures of small traces, worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.unit.trace.made import PAGE, records, trace
from vmthaw.trace import Trace, compare
from vmthaw.trace import _runs as runs
from vmthaw.trace._schema import DEFERRED, FAILED, FAULT_AROUND, PREFETCH, PRESENT, PREWARM, REMOVE, REMOVED, ZERO


def pages(*numbers: int) -> Trace:
    return trace(*({"page": number} for number in numbers))


def test_pages_are_counted_by_kind_and_class() -> None:
    found = trace(
        {"page": 0},
        {"page": 1, "kind": FAULT_AROUND, "pages": 7},
        {"page": 8, "kind": PREFETCH, "pages": 4, "page_class": ZERO},
        {"page": 12, "kind": PREWARM},
        {"page": 20, "page_class": REMOVED},
        {"page": 30, "kind": REMOVE, "pages": 5, "page_class": REMOVED},
    ).summary()
    assert found.pages_by_kind == {"demand": 2, "fault-around": 7, "prefetch": 4, "pre-warm": 1}
    assert found.pages_by_class == {"data": 9, "zero": 4, "removed": 1}
    assert (found.pages, found.removed_pages, found.faults) == (14, 5, 2)
    assert found.zero_share == 5 / 14
    assert found.touched_bytes == 2 * PAGE
    assert found.installed_bytes == 14 * PAGE
    assert found.memory_bytes == 1024 * PAGE


def test_what_was_put_off_failed_or_present_is_no_page_installed() -> None:
    found = trace(
        {"page": 1, "outcome": DEFERRED, "pages": 0},
        {"page": 1},
        {"page": 2, "outcome": PRESENT, "pages": 0},
        {"page": 3, "outcome": FAILED, "pages": 0, "t_installed_ns": 0},
    ).summary()
    assert (found.faults, found.failed, found.already_present, found.deferred) == (3, 1, 1, 1)
    assert found.pages == 1
    assert found.touched_bytes == 2 * PAGE
    assert found.latency["demand"].count == 2


def test_a_run_ends_where_the_next_page_was_not_asked_for() -> None:
    found = pages(5, 7, 6, 100, 9).summary().runs
    assert (found.count, found.longest_pages, found.mean_pages, found.median_pages) == (3, 3, 5 / 3, 1)


def test_the_next_page_is_one_further_up_and_nothing_else() -> None:
    assert pages(1, 2, 3, 3, 2, 9).summary().next_page_probability == 2 / 5
    assert pages(1).summary().next_page_probability == 0


def test_vms_are_told_apart() -> None:
    found = trace({"page": 1, "session": 1}, {"page": 2, "session": 2}, {"page": 2, "session": 1}).summary()
    assert found.vms == 2
    assert found.next_page_probability == 1 / 1
    assert found.touched_bytes == 3 * PAGE
    assert found.runs.count == 2


def test_blocks_are_aligned_and_their_fill_is_what_was_asked_for() -> None:
    found = pages(0, 511, 512, 1023).summary()
    assert found.blocks == 2
    assert found.block_fill == 4 / 1024


def test_time_is_split_into_queue_fetch_and_install() -> None:
    found = trace(
        # Two messages of one batch, one worker: the second waits for the first.
        {"page": 1, "t_fault_ns": 1000, "t_fetched_ns": 1300, "t_installed_ns": 2000},
        {"page": 9, "t_fault_ns": 1000, "t_fetched_ns": 2500, "t_installed_ns": 2600},
        # Another worker, zeros: no fetch.
        {"page": 5, "t_fault_ns": 1500, "t_installed_ns": 1600, "handler": 1, "page_class": ZERO},
    ).summary()
    parts = found.breakdown
    assert (parts.queue_ns, parts.fetch_ns, parts.install_ns) == (1000, 300 + 500, 700 + 100 + 100)
    assert found.waited_ns == 1000 + 1600 + 100
    assert found.duration_ns == 1600


def test_percentiles_are_those_of_numpy() -> None:
    spread = trace(*({"page": i, "t_fault_ns": 10_000, "t_installed_ns": 10_000 + i} for i in range(1, 101)))
    latency = spread.summary().latency["demand"]
    assert (latency.count, latency.p50_ns, latency.max_ns) == (100, 50.5, 100)
    assert latency.p99_ns == pytest.approx(99.01)


def test_nothing_is_a_summary_too() -> None:
    found = trace().summary()
    assert (found.faults, found.pages, found.duration_ns, found.blocks, found.zero_share) == (0, 0, 0, 0, 0)
    assert "faults" in str(found)


def test_a_summary_is_text_html_and_json() -> None:
    found = pages(1, 2, 4).summary()
    assert "3 demand" in str(found)
    assert "<td>" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict()))["faults"] == 3


def test_two_traces_share_what_both_touched() -> None:
    found = compare(pages(0, 1, 2, 3, 10), pages(2, 3, 4, 10))
    assert (found.touched_a, found.touched_b, found.common) == (5 * PAGE, 4 * PAGE, 3 * PAGE)
    assert found.jaccard == 3 / 6
    assert (found.common_runs, found.longest_common_run) == (2, 2 * PAGE)
    assert compare(pages(1), pages(1)).jaccard == 1
    assert compare(pages(1), pages(2)).jaccard == 0


def test_what_both_installed_unasked_is_neither_waste_nor_use() -> None:
    a = trace({"page": 0}, {"page": 1, "kind": FAULT_AROUND, "pages": 4})
    b = trace({"page": 1}, {"page": 3, "kind": PREFETCH, "pages": 4})
    found = compare(a, b, names=("cold", "warm"))
    assert (found.wasted_a, found.doubtful_a) == (PAGE, 2 * PAGE)  # 2; 3 and 4
    assert (found.wasted_b, found.doubtful_b) == (2 * PAGE, 2 * PAGE)  # 5 and 6; 3 and 4
    assert found.installed_jaccard == 3 / 7
    assert (found.faults_a, found.waited_a_ns, found.p99_b_ns) == (1, 100, 100)
    assert "not known of 8 KiB" in str(found)
    assert "1 (cold), 1 (warm)" in str(found)


def test_what_neither_asked_for_was_wasted() -> None:
    with_prefetch = trace({"page": 0}, {"page": 1, "kind": FAULT_AROUND, "pages": 7}, {"page": 4})
    found = compare(with_prefetch, pages(0, 1, 2, 50))
    assert found.unasked_a == 7 * PAGE
    assert found.wasted_a == 4 * PAGE  # 3, 5, 6 and 7: 1 and 2 were asked for there, 4 here
    assert found.wasted_b == found.unasked_b == 0
    assert "57.1%" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["wasted_share_a"] == 4 / 7


def random_runs(random: np.random.Generator) -> tuple[runs.Runs, set[int]]:
    starts = random.integers(0, 200, 20)
    ends = starts + random.integers(0, 6, 20)
    return runs.merged(starts, ends), {page for a, b in zip(starts, ends, strict=True) for page in range(a, b)}


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_sets(seed: int) -> None:
    random = np.random.default_rng(seed)
    (a, set_a), (b, set_b) = random_runs(random), random_runs(random)

    def members(found: runs.Runs) -> set[int]:
        return {page for low, high in found for page in range(low, high)}

    assert members(a) == set_a
    assert members(runs.union(a, b)) == set_a | set_b
    assert members(runs.intersection(a, b)) == set_a & set_b
    assert runs.size_bytes(runs.intersection(a, b)) == len(set_a & set_b)
    assert runs.blocks(a, 8) == len({page // 8 for page in set_a})
    assert (a[1:, 0] > a[:-1, 1]).all(), "runs that touch are one"


def test_a_record_of_very_many_pages_costs_no_more_than_another() -> None:
    found = trace({"page": 0, "kind": PREFETCH, "pages": (1 << 30) - 1}).summary()
    assert found.pages == (1 << 30) - 1
    assert found.installed_bytes == found.pages * PAGE
    assert len(records({"page": 1})) == 1
