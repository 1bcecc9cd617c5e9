"""Regions, layouts, configuration and statistics of the pager, and `Pager`, which serves pages by guest address.

These are the core's own types; `PageServer` (vmthaw.server) makes the sessions.
"""

from __future__ import annotations

from vmthaw._core import (
    EndReason,
    FailurePolicy,
    FillMode,
    MemoryLayout,
    Pager,
    PagerConfig,
    PagerSession,
    PagerStats,
    Placement,
    Region,
    SessionEventKind,
    SessionState,
    check_regions,
)

__all__ = [
    "EndReason",
    "FailurePolicy",
    "FillMode",
    "MemoryLayout",
    "Pager",
    "PagerConfig",
    "PagerSession",
    "PagerStats",
    "Placement",
    "Region",
    "SessionEventKind",
    "SessionState",
    "check_regions",
]
