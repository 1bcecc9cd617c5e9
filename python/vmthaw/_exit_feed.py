"""The way of exit records from run loops to who records them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vmthaw.errors import StateError

if TYPE_CHECKING:
    from vmthaw._core import RunLoopCore

Run = tuple[int, "RunLoopCore"]
"""A run, and its number among those of its machine, from 1."""


class ExitFeed:
    """The runs, one after another, of a machine or a run loop: recorders learn here of each that begins, so that none
    is missed, however short it is. `capacity` is that of each run's ring. Any thread; holds its lock for moments only.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lock = threading.Lock()
        self._recorders = 0
        self._runs = 0
        self._newest: Run | None = None
        self._begun: list[Run] = []  # that recorders have not heard of

    def begin(self, run: RunLoopCore) -> None:
        """Before the vCPUs of a run begin."""
        with self._lock:
            self._runs += 1
            self._newest = (self._runs, run)
            if self._recorders:
                self._begun.append(self._newest)

    def begin_recording(self) -> Run | None:
        """One recorder more. Gives the first the run that began last; later ones follow by `take_begun`."""
        with self._lock:
            self._recorders += 1
            return self._newest if self._recorders == 1 else None

    def end_recording(self) -> None:
        """One recorder less."""
        with self._lock:
            self._recorders -= 1
            if not self._recorders:
                self._begun.clear()

    def take_begun(self) -> list[Run]:
        """The runs that began since the last call, or since recording began."""
        with self._lock:
            begun, self._begun = self._begun, []
            return begun

    def check_free(self) -> None:
        """StateError while the records go into a trace: who took some would take them away from it."""
        if self._recorders:
            raise StateError("a TraceRecorder takes the exit records; look at them with Trace.open(...).exit_records")
