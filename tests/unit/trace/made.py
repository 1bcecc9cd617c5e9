"""Traces made by hand, so that every figure can be worked out on paper."""

from __future__ import annotations

from vmthaw import _core
from vmthaw.trace import Trace, TraceInfo
from vmthaw.trace._info import RegionInfo, SessionInfo
from vmthaw.trace._schema import Records, empty_records

PAGE = 4096


def records(*rows: dict[str, int]) -> Records:
    """A record for each row of columns; `page` stands for guest_address and offset, times count from 1000."""
    import numpy as np

    found = np.zeros(len(rows), dtype=_core.fault_record_dtype())
    found["page_size_log2"], found["pages"], found["session"], found["source"] = 12, 1, 1, 2
    found["t_fault_ns"] = 1000 + np.arange(len(rows)) * 1000
    for number, given in enumerate(rows):
        row = dict(given)
        if "page" in row:
            row["guest_address"] = row["offset"] = row.pop("page") * PAGE
        for name, value in row.items():
            found[number][name] = value
        if "t_installed_ns" not in row:
            found[number]["t_installed_ns"] = found[number]["t_fault_ns"] + 100
    return found


def info(pages: int = 1024) -> TraceInfo:
    region = RegionInfo(0, 0, 0, pages * PAGE, PAGE)
    return TraceInfo(started_at=10**18, started_ns=900, sessions=(SessionInfo(1, "vm", 42, (region,)),))


def trace(*rows: dict[str, int], pages: int = 1024) -> Trace:
    return Trace(records(*rows) if rows else empty_records(), info(pages))
