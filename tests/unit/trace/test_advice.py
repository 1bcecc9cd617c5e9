"""Advice follows from figures: each rule speaks when it should, and only then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.trace.made import info, records, trace
from vmthaw.trace import Trace, advise
from vmthaw.trace._info import Gap
from vmthaw.trace._schema import DEFERRED, FAILED, FAULT_AROUND, PREFETCH, REMOVED, ZERO

Row = dict[str, int]


def titles(found: Trace) -> list[str]:
    return [advice.title for advice in advise(found)]


def scattered(count: int = 100, **more: int) -> list[Row]:
    return [{"page": 600 * number, **more} for number in range(count)]


def with_gap(where: str) -> Trace:
    rows = scattered()
    return Trace(records(*rows), replace(info(), gaps=(Gap(3, 1, 17, where),)))


def timed(fetched_at: int, took: int) -> list[Row]:
    """Faults one after another, whose bytes were there `fetched_at` ns after each message."""
    return [
        {"page": 600 * number, "t_fault_ns": at, "t_fetched_ns": at + fetched_at, "t_installed_ns": at + took}
        for number, at in enumerate(range(1000, 1000 + 100 * 10_000, 10_000))
    ]


CASES: list[tuple[str, Trace, Trace]] = [
    ("17 records are missing", with_gap("ring"), trace(*scattered())),
    ("The recording was cut off", Trace(records(*scattered()), replace(info(), complete=False)), trace(*scattered())),
    ("1 faults failed", trace({"page": 1, "outcome": FAILED, "pages": 0}), trace({"page": 1})),
    ("No page was demanded", trace({"page": 1, "kind": PREFETCH}), trace({"page": 1})),
    (
        "Restore the next VM of this snapshot with a working set",
        trace(*scattered()),
        trace(*scattered(), {"page": 9, "kind": PREFETCH, "pages": 1000}),
    ),
    (
        "The working set does not fit this run well",
        trace(*scattered(), {"page": 9, "kind": PREFETCH, "pages": 300}),
        trace(*scattered(), {"page": 9, "kind": PREFETCH, "pages": 1000}),
    ),
    (
        "The working set does its work",
        trace(*scattered(), {"page": 9, "kind": PREFETCH, "pages": 1000}),
        trace(*scattered(), {"page": 9, "kind": PREFETCH, "pages": 300}),
    ),
    (
        "Fill more than the page that was asked for",
        trace(*({"page": number} for number in range(100))),
        trace(*({"page": number} for number in range(100)), {"page": 200, "kind": FAULT_AROUND}),
    ),
    ("Faults wait for their bytes", trace(*timed(900, 1000)), trace(*timed(100, 1000))),
    ("The bytes are there in time", trace(*timed(100, 1000)), trace(*timed(900, 1000))),
    (
        "Faults wait for a worker",
        trace(*({"page": 600 * n, "t_fault_ns": 1000, "t_installed_ns": 2000 + 1000 * n} for n in range(100))),
        trace(*scattered()),
    ),
    (
        "A few faults take very long",
        trace(
            *timed(10, 1000), *({"page": n, "t_fault_ns": 10**8, "t_installed_ns": 10**8 + 9_000_000} for n in (1, 2))
        ),
        trace(*timed(10, 1000)),
    ),
    (
        "No page was known to be zeros",
        trace({"page": 0, "pages": 600, "kind": FAULT_AROUND}, {"page": 700}),
        trace({"page": 0, "pages": 600, "kind": FAULT_AROUND}, {"page": 700, "page_class": ZERO}),
    ),
    ("Try pages of 2 MiB", trace(*({"page": n, "pages": 300} for n in range(0, 5120, 512))), trace(*scattered())),
    (
        "Pages of 2 MiB would not pay",
        trace(*scattered()),
        trace(*({"page": n, "pages": 300} for n in range(0, 5120, 512))),
    ),
    ("The guest takes back what it gave", trace(*scattered(page_class=REMOVED)), trace(*scattered(page_class=ZERO))),
    (
        "90 answers were put off",
        trace(*scattered(), *scattered(90, outcome=DEFERRED, pages=0)),
        trace(*scattered(), *scattered(2, outcome=DEFERRED, pages=0)),
    ),
]


@pytest.mark.parametrize(("title", "says_it", "does_not"), CASES, ids=[case[0] for case in CASES])
def test_advice_is_given_where_the_figures_ask_for_it_and_nowhere_else(
    title: str, says_it: Trace, does_not: Trace
) -> None:
    assert title in titles(says_it)
    assert title not in titles(does_not)


def test_problems_come_first_and_tell_the_ring_from_the_disk() -> None:
    ring, writer = advise(with_gap("ring"))[0], advise(with_gap("writer"))[0]
    assert ring.level == writer.level == "problem"
    assert "ring_records" in ring.how
    assert "max_pending" in writer.how
    assert "[problem] 17 records are missing" in str(ring)


def test_the_command_names_the_traces_file() -> None:
    from vmthaw.trace import example

    found = example().advice()
    assert any('Trace.open("first_restore.parquet")' in advice.how for advice in found)
