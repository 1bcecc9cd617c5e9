"""Traces of faults, vCPU exits and DAX events: record them, open them, look at them.

    with PageServer(socket, source) as server, TraceRecorder("boot.parquet", server):
        ...
    trace = Trace.open("boot.parquet")
    print(trace.summary())

The libraries that this needs are the extra ``vmthaw[analysis]``; they are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmthaw.errors import TraceError
    from vmthaw.trace._advice import Advice, advise
    from vmthaw.trace._compare import Comparison, compare
    from vmthaw.trace._dax_schema import DAX_COLUMNS, dax_table, read_dax_records, write_dax_records
    from vmthaw.trace._dax_summary import DaxKindSummary, DaxSummary
    from vmthaw.trace._example import example
    from vmthaw.trace._exit_schema import EXIT_COLUMNS
    from vmthaw.trace._exit_summary import ExitSummary, ReasonSummary
    from vmthaw.trace._info import Gap, RegionInfo, SessionInfo, TraceInfo
    from vmthaw.trace._recorder import TraceRecorder
    from vmthaw.trace._schema import COLUMNS, KINDS, OUTCOMES, PAGE_CLASSES, SCHEMA_VERSION, SOURCES
    from vmthaw.trace._summary import LatencySummary, TraceSummary
    from vmthaw.trace._trace import Trace
    from vmthaw.trace.report import Preface, write_report

_HOMES = {
    "COLUMNS": "_schema",
    "DAX_COLUMNS": "_dax_schema",
    "EXIT_COLUMNS": "_exit_schema",
    "KINDS": "_schema",
    "OUTCOMES": "_schema",
    "PAGE_CLASSES": "_schema",
    "SCHEMA_VERSION": "_schema",
    "SOURCES": "_schema",
    "Advice": "_advice",
    "Comparison": "_compare",
    "DaxKindSummary": "_dax_summary",
    "DaxSummary": "_dax_summary",
    "ExitSummary": "_exit_summary",
    "Gap": "_info",
    "LatencySummary": "_summary",
    "Preface": "report",
    "ReasonSummary": "_exit_summary",
    "RegionInfo": "_info",
    "SessionInfo": "_info",
    "Trace": "_trace",
    "TraceInfo": "_info",
    "TraceRecorder": "_recorder",
    "TraceSummary": "_summary",
    "advise": "_advice",
    "compare": "_compare",
    "dax_table": "_dax_schema",
    "example": "_example",
    "read_dax_records": "_dax_schema",
    "write_dax_records": "_dax_schema",
    "write_report": "report",
}

__all__ = [
    "COLUMNS",
    "DAX_COLUMNS",
    "EXIT_COLUMNS",
    "KINDS",
    "OUTCOMES",
    "PAGE_CLASSES",
    "SCHEMA_VERSION",
    "SOURCES",
    "Advice",
    "Comparison",
    "DaxKindSummary",
    "DaxSummary",
    "ExitSummary",
    "Gap",
    "LatencySummary",
    "Preface",
    "ReasonSummary",
    "RegionInfo",
    "SessionInfo",
    "Trace",
    "TraceError",
    "TraceInfo",
    "TraceRecorder",
    "TraceSummary",
    "advise",
    "compare",
    "dax_table",
    "example",
    "read_dax_records",
    "write_dax_records",
    "write_report",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "TraceError":
        from vmthaw.errors import TraceError

        return TraceError
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
