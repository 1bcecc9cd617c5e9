"""What becomes of the sessions of a server that stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from vmthaw._core import EndReason, PagerSession
from vmthaw.errors import IncompleteSessionsError
from vmthaw.server_values import DetachedSession

StopMode = Literal["drain", "kill", "detach"]
Taker = Callable[[DetachedSession], object]

# Beyond the time-out of draining: the time that the failure policy needs.
_POLICY_S = 10.0
_log = logging.getLogger("vmthaw.server")


def refuse_incomplete(server: str, sessions: list[PagerSession], waiting: list[str]) -> None:
    """Raises IncompleteSessionsError that names the VMs that still miss pages, or wait for their source, if any."""
    names = ", ".join([*(session.label for session in sessions if session.missing_pages() > 0), *waiting])
    if names:
        error = IncompleteSessionsError(
            f"{server} still serves {names}: stopping now would leave them without pages; "
            "say stop(sessions='drain'), 'kill' or 'detach'"
        )
        error.sessions = names
        raise error


def end_sessions(
    server: str, sessions: list[PagerSession], mode: StopMode, timeout: float, taker: Taker | None
) -> None:
    """Drains, kills or hands over, then waits for the ends. Warns of every VM that was not drained."""
    for session in sessions:
        if mode == "kill":
            session.kill()
        elif mode == "drain":
            session.drain(timeout)
        elif taker is not None:
            fd, regions, states = session._detach()
            taker(DetachedSession(session.label, fd, regions, states))
    deadline = time.monotonic() + timeout + _POLICY_S
    for session in sessions:
        if not session.wait(max(0.0, deadline - time.monotonic())):
            _log.warning("%s: %s did not end in time and is served on until the process ends", server, session.label)
        elif session.end_reason in (EndReason.failed, EndReason.killed) and mode == "drain":
            _log.warning("%s: %s was not drained: %s", server, session.label, "; ".join(session.failures[-1:]))
