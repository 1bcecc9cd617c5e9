"""The figures of a few DAX events, worked out by hand, and where they are shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.trace.made import dax_events, dax_info, info, records
from vmthaw.trace import DaxSummary, Trace
from vmthaw.trace._columns import Records
from vmthaw.trace._info import Gap
from vmthaw.trace.report import report_html


def trace_of(given: Records, *gaps: Gap, complete: bool = True) -> Trace:
    about = replace(dax_info(), gaps=gaps, complete=complete)
    return Trace(records({"page": 1}), info(), dax=given, dax_info=about)


def figures(found: Trace) -> DaxSummary:
    of_it = found.summary().dax
    assert of_it is not None
    return of_it


@pytest.fixture
def found() -> Trace:
    return trace_of(
        dax_events(
            {},
            {"kind": 1, "prot": 3, "t_done_ns": 2300},
            {"session": 2},
            {"error": 2, "t_done_ns": 4900},
            {"kind": 3},
            {"kind": 2, "length": 4096},
            {"kind": 4, "length": 1 << 30},
        ),
        Gap(7, 1, 5, "ring"),
        Gap(7, 1, 2, "writer"),
    )


def test_events_are_counted_by_kind_and_time(found: Trace) -> None:
    of_it = figures(found)
    assert (of_it.count, of_it.sessions, of_it.failed, of_it.dropped, of_it.complete) == (7, 2, 1, 7, True)
    assert {name: one.count for name, one in of_it.by_kind.items()} == {
        "set_up": 3, "replace": 1, "remove": 1, "evict": 1, "reset": 1,
    }  # fmt: skip
    set_up = of_it.by_kind["set_up"]
    assert (set_up.failed, set_up.size_bytes) == (1, 4 << 20), "what failed mapped nothing"
    assert set_up.p50_ns == 100
    assert of_it.by_kind["remove"].size_bytes == 4096
    assert of_it.set_up_p50_ns == 100
    assert of_it.set_up_p99_ns == pytest.approx(300 - 0.02 * 200), "what failed is none"
    assert of_it.duration_ns == 7100 - 1000
    json.dumps(found.summary().to_dict())


def test_they_are_shown_in_text_and_in_a_notebook(found: Trace) -> None:
    rows = list(found.summary().rows())
    assert rows[-4:] == [
        ("DAX events", "7 of 2 sessions, 1 failed"),
        ("DAX events by kind", "3 set_up, 1 replace, 1 remove, 1 evict, 1 reset"),
        ("set up in all", "6 MiB; one took p50 100 ns, p99 296 ns"),
        ("DAX events dropped", "7"),
    ]
    assert all(text in str(found.summary()) for _, text in rows)
    assert "<tr><th>DAX events dropped</th><td>7</td></tr>" in found._repr_html_()


def test_a_report_has_a_table_of_kinds_and_of_what_is_missing(found: Trace) -> None:
    page = report_html(found)
    assert "<h3>DAX events by kind</h3>" in page
    assert '<td>set_up</td><td class="n">3</td><td class="n">1</td><td class="n">4 MiB</td>' in page
    assert "<h3>Missing DAX events</h3>" in page
    assert "7 DAX events are missing" in page
    assert "DAX" not in report_html(Trace(records({"page": 1}), info()))


def test_a_session_that_nobody_asked_anything_says_so() -> None:
    found = trace_of(dax_events(), complete=False)
    of_it = figures(found)
    assert (of_it.count, of_it.sessions, of_it.duration_ns, of_it.set_up_p99_ns, of_it.by_kind) == (0, 1, 0, 0.0, {})
    rows = list(found.summary().rows())
    assert rows[-2:] == [("DAX events", "0"), ("DAX events dropped", "0; the recording was cut off")]
    assert "The recording was cut off" in report_html(found)


def test_absurd_figures_do_not_overflow() -> None:
    most = (1 << 64) - 1
    given = dax_events(*[{"length": most, "t_start_ns": 0, "t_done_ns": (1 << 62) - 1}] * 8)
    assert figures(trace_of(given)).by_kind["set_up"].size_bytes == 8 * most
    assert "DAX events" in str(trace_of(given).summary())
