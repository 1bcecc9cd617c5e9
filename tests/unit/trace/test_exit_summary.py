"""The figures of a few exits, worked out by hand, and where they are shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.trace.made import exits, exits_info, info, records
from vmthaw.trace import ExitSummary, Trace
from vmthaw.trace._columns import Records
from vmthaw.trace._info import Gap
from vmthaw.trace.report import report_html


def trace_of(given: Records, *gaps: Gap, complete: bool = True) -> Trace:
    about = replace(exits_info(), gaps=gaps, complete=complete)
    return Trace(records({"page": 1}), info(), exits=given, exits_info=about)


def figures(found: Trace) -> ExitSummary:
    exits_of_it = found.summary().exits
    assert exits_of_it is not None
    return exits_of_it


NONE = {"address": 0, "length": 0, "flags": 0}


@pytest.fixture
def found() -> Trace:
    """Each has 600 ns in the guest; in the host 100, 100, 300, 100."""
    return trace_of(
        exits(
            {"flags": 3},
            {"vcpu": 1},
            {**NONE, "reason": 5, "vcpu": 1, "t_decided_ns": 3900},
            {**NONE, "reason": 0xFFFFFFFF, "error": 14},
        ),
        Gap(4, 1, 5, "ring"),
        Gap(4, 1, 2, "writer"),
    )


def test_exits_are_counted_by_reason_and_time(found: Trace) -> None:
    of_it = figures(found)
    assert (of_it.count, of_it.vcpus, of_it.handled, of_it.dropped) == (4, 2, 1, 7)
    assert {name: one.count for name, one in of_it.by_reason.items()} == {"IO": 2, "HLT": 1, "error": 1}
    assert next(iter(of_it.by_reason)) == "IO"
    assert (of_it.guest_ns, of_it.host_ns) == (2400, 600)
    assert (of_it.guest_share, of_it.host_share) == (0.8, 0.2)
    assert of_it.host_p50_ns == 100
    assert of_it.host_p99_ns == pytest.approx(300 - 0.03 * 200)
    assert of_it.by_reason["HLT"].host_ns == of_it.by_reason["HLT"].host_p50_ns == 300
    assert of_it.by_reason["IO"].guest_ns == 1200
    assert of_it.duration_ns == 4700 - 1000
    json.dumps(found.summary().to_dict())


def test_they_are_shown_in_text_and_in_a_notebook(found: Trace) -> None:
    rows = list(found.summary().rows())
    assert rows[-5:] == [
        ("exits", "4 on 2 vCPUs, 1 asked of functions"),
        ("exits by reason", "2 IO, 1 HLT, 1 error"),
        ("vCPUs were", "80% in the guest, 20% in the host, of 3 us"),
        ("host's part of an exit", "p50 100 ns, p99 294 ns"),
        ("exits dropped", "7"),
    ]
    assert all(text in str(found.summary()) for _, text in rows)
    page = found._repr_html_()
    assert "<tr><th>exits by reason</th><td>2 IO, 1 HLT, 1 error</td></tr>" in page
    assert "80% in the guest" in page


def test_a_report_has_a_table_of_reasons_and_of_what_is_missing(found: Trace) -> None:
    page = report_html(found)
    assert "<h3>vCPU exits by reason</h3>" in page
    assert '<td>HLT</td><td class="n">1</td><td class="n">600 ns</td><td class="n">300 ns</td>' in page
    assert "<h3>Missing exits</h3>" in page
    assert "7 exits are missing" in page
    assert "exits" not in report_html(Trace(records({"page": 1}), info()))


def test_a_trace_whose_guest_never_exited_says_so() -> None:
    found = trace_of(exits(), complete=False)
    of_it = figures(found)
    assert (of_it.count, of_it.vcpus, of_it.guest_share, of_it.host_share, of_it.duration_ns) == (0, 0, 0.0, 0.0, 0)
    rows = list(found.summary().rows())
    assert rows[-2:] == [("exits", "0"), ("exits dropped", "0; the recording was cut off")]
    assert "The recording was cut off" in report_html(found)


def test_absurd_times_do_not_overflow() -> None:
    most = (1 << 62) - 1
    given = exits(*[{"t_enter_ns": 0, "t_exit_ns": most, "t_decided_ns": most}] * 8)
    assert figures(trace_of(given)).guest_ns == 8 * most


def test_rare_reasons_are_counted_together() -> None:
    given = exits(*({**NONE, "reason": number} for number in (7, 7, 8, 9, 10, 11, 12, 13, 14)))
    assert "1 NMI" not in str(figures(trace_of(given)).by_reason)
    text = str(trace_of(given).summary())
    assert "2 IRQ_WINDOW_OPEN, 1 SHUTDOWN, 1 FAIL_ENTRY, 1 INTR, 1 SET_TPR, 1 TPR_ACCESS, 2 others" in text
