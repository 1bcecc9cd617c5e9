"""What a `TraceRecorder` records: where faults, exits and DAX events come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmthaw._core import PagerSession
from vmthaw._dax_feed import DaxFeed
from vmthaw._exit_feed import ExitFeed
from vmthaw._machine_run import MachineRun
from vmthaw.dax import DaxSession
from vmthaw.errors import VmthawValueError
from vmthaw.run_loop import RunLoop
from vmthaw.trace._info import RegionInfo, SessionInfo

if TYPE_CHECKING:
    from vmthaw.server import PageServer


@dataclass(frozen=True)
class Targets:
    """`exits` is None and `dax` empty where they are not recorded."""

    faults: PageServer | PagerSession | None
    exits: ExitFeed | None
    dax: tuple[DaxFeed, ...]


def targets_of(target: object, exits: object | None, dax: object | None) -> Targets:
    """What the recorder's arguments mean. VmthawValueError."""
    faults: PageServer | PagerSession | None = None
    sessions = _sessions_of(dax)
    if isinstance(target, DaxSession):
        sessions.insert(0, target)
    elif isinstance(target, (MachineRun, RunLoop)):
        exits = target if exits is None else exits
        lazy = target._lazy if isinstance(target, MachineRun) else None
        faults = None if lazy is None else lazy.server
    elif isinstance(target, PagerSession) or hasattr(target, "enable_trace"):
        faults = target  # type: ignore[assignment]
    else:
        raise VmthawValueError(
            "a trace is recorded of a PageServer, a PagerSession, a Machine, a RunLoop or a DaxSession, "
            f"not of {target!r}"
        )
    feeds = dict.fromkeys(session._dax_feed for session in sessions)  # one that is named twice is one
    return Targets(faults, None if exits is None else _exit_feed_of(exits), tuple(feeds))


def _exit_feed_of(exits: object) -> ExitFeed:
    if not isinstance(exits, (MachineRun, RunLoop)):
        raise VmthawValueError(f"exits are recorded of a Machine or a RunLoop, not of {exits!r}")
    feed = exits._exit_feed
    if not feed.capacity:
        raise VmthawValueError(
            f"{exits!r} keeps no records of its exits; make it with exit_records=65536 (what its vCPUs can do in 50 ms "
            "should fit)"
        )
    return feed


def _sessions_of(dax: object | None) -> list[DaxSession]:
    if dax is None:
        return []
    found = []
    for session in dax if isinstance(dax, Iterable) else [dax]:
        if not isinstance(session, DaxSession):
            raise VmthawValueError(f"DAX events are recorded of a DaxSession, or several, not of {session!r}")
        found.append(session)
    return found


def dax_info(feed: DaxFeed) -> SessionInfo:
    """What a trace says of a DAX session: its window is its memory, in granules."""
    window = RegionInfo(0, feed.guest_base, 0, feed.size, feed.granule)
    return SessionInfo(feed.number, f"DAX window at {feed.guest_base:#x}", regions=(window,))
