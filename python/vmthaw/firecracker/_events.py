"""What `watch` tells."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vmthaw.pager import SessionEventKind


class VmEventKind(enum.Enum):
    """The first four are the page server's, see `SessionEventKind`; ``exited``: the process has ended."""

    connected = "connected"
    first_fault = "first_fault"
    failed = "failed"
    closed = "closed"
    exited = "exited"


@dataclass(frozen=True)
class VmEvent:
    """Something that happened to a VM. `t_ns` is CLOCK_MONOTONIC; `text` is a sentence for people."""

    t_ns: int
    kind: VmEventKind
    text: str


def of_session(t_ns: int, kind: SessionEventKind, text: str) -> VmEvent | None:
    """None for what is of no interest outside."""
    try:
        return VmEvent(t_ns, VmEventKind(kind.name), text)
    except ValueError:
        return None
