"""What a `PageServer` tells and gives: events, failures, hand-overs, detached sessions. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from vmthaw._core import PagerStats, Region, SessionEventKind


@dataclass(frozen=True)
class HandoverInfo:
    """What a per-session source callable is told: ``number`` of the hand-over in this server, from 0."""

    number: int


@dataclass(frozen=True)
class SessionEvent:
    """Something that happened to a session. ``t_ns`` is CLOCK_MONOTONIC."""

    t_ns: int
    session: int
    kind: SessionEventKind


@dataclass(frozen=True)
class Failure:
    """A hand-over that was refused (``session`` 0) or a session that failed. ``field`` names what was wrong."""

    t_ns: int
    session: int
    text: str
    field: str


@dataclass(frozen=True)
class ServerTotals:
    """Sums over the life of a server: ``stats`` of all its sessions, and how many ``sessions`` came, hand-overs were
    ``refused`` and sessions ``failed``."""

    stats: PagerStats
    sessions: int
    refused: int
    failed: int


@dataclass(frozen=True)
class DetachedSession:
    """What a taker gets: ``fd`` (the userfaultfd, the taker's to close), the regions as mapped now, and for each region
    its page states, a byte a page (0 absent, 2 present, 3 removed: zeros, 5 failed)."""

    label: str
    fd: int
    regions: list[Region]
    page_states: list[bytes]
