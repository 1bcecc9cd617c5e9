"""The way of a DAX session's events to who records them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmthaw.errors import StateError, VmthawValueError

if TYPE_CHECKING:
    from vmthaw._core import DaxEvents

_MOST_RECORDS = 1 << 26


@dataclass(eq=False)
class DaxFeed:
    """The events of the session with number `number`, whose window is `size` bytes from `guest_base` on, and whether
    anybody wants them: the session's owner, recorders, or both. Holds no session, so that the end of one is not put
    off. Any thread.
    """

    events: DaxEvents
    number: int
    guest_base: int
    size: int
    granule: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _recorders: int = 0
    _kept: bool = False  # for the session's owner

    def keep(self, records: int) -> None:
        """From now on, for the owner. VmthawValueError."""
        _check_records(records)
        with self._lock:
            self.events.enable(records)
            self._kept = True

    def keep_no_longer(self) -> None:
        """Recorders go on."""
        with self._lock:
            self._kept = False
            self._switch_off()

    def begin_recording(self, records: int) -> None:
        """One recorder more. VmthawValueError."""
        _check_records(records)
        with self._lock:
            self.events.enable(records)
            self._recorders += 1

    def end_recording(self) -> None:
        """One recorder less."""
        with self._lock:
            self._recorders -= 1
            self._switch_off()

    def _switch_off(self) -> None:
        if not self._kept and not self._recorders:
            self.events.disable()

    def check_free(self) -> None:
        """StateError while the events go into a trace: who took some would take them away from it."""
        if self._recorders:
            raise StateError("a TraceRecorder takes the DAX events; look at them with Trace.open(...).dax_records")


def _check_records(records: int) -> None:
    if not 1 <= records <= _MOST_RECORDS:
        raise VmthawValueError(f"a ring of DAX events must have from 1 to {_MOST_RECORDS} records, not {records}")
