"""Tracing as a part of `PageServer`: the newest fault records, live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmthaw._server_reports import ServerReports
from vmthaw.errors import StateError, VmthawValueError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vmthaw.trace._collector import ServerTrace

LIVE_RECORDS = 65536


class TracedServer(ServerReports):
    """What every `PageServer` can do about its trace. While tracing is off it costs a fault one load."""

    _server_trace: ServerTrace | None = None
    _tracing = False  # by enable_trace() or the configuration

    def enable_trace(self, records: int = LIVE_RECORDS, *, live: int | None = None) -> None:
        """Records the faults of every session from now on; `trace` gives the newest `live` of them (65536).

        `records` is the capacity of each session's ring (72 bytes each, made once): what a VM can fault in 50 ms should
        fit. `PagerConfig(trace_records=...)` does the same from the start, a `TraceRecorder` while it records.
        Idempotent, any thread. Raises VmthawValueError.
        """
        from vmthaw.trace._collector import ServerTrace, collector

        self._check_process()
        if live is not None and live < 1:
            raise VmthawValueError(f"live must be at least 1 record, got {live}")
        self._core.enable_trace(records)
        if self._server_trace is None:
            self._server_trace = ServerTrace(self._core, live or LIVE_RECORDS)
        elif live is not None:
            self._server_trace.live.limit = live
        self._tracing = True
        collector().add_server(self._server_trace)

    def disable_trace(self) -> None:
        """Ends recording for every session, and for recorders that are attached. What `trace` gave, it still gives."""
        self._check_process()
        self._tracing = False
        self._core.disable_trace()

    def trace(self, limit: int | None = None) -> NDArray[np.void]:
        """The newest fault records (all that are kept, or `limit`), oldest first: a structured numpy array, a copy.

        Holds up no fault and takes nothing away from recorders. Times are CLOCK_MONOTONIC in ns, addresses and offsets
        bytes; 0 is what did not happen. Any thread; waits only for others who take records. Raises StateError while
        tracing has never been on.
        """
        from vmthaw.trace._collector import collector

        self._check_process()
        if self._server_trace is None:
            raise StateError(
                f"{self!r} records no faults: call enable_trace(), attach a TraceRecorder, or make the server with "
                "config=PagerConfig(trace_records=65536)"
            )
        with collector()._lock:
            collector().collect()
            return self._server_trace.live.records(self._server_trace.live.limit if limit is None else limit)

    def _begin_recording(self, records: int) -> ServerTrace:
        """For TraceRecorder: tracing is on until the last recorder has gone, and stays on where it was on before."""
        if self._server_trace is None or not self._tracing:
            kept = self._tracing
            self.enable_trace(records)
            self._tracing = kept
        assert self._server_trace is not None
        self._server_trace.recorders += 1
        return self._server_trace

    def _end_recording(self) -> None:
        assert self._server_trace is not None
        self._server_trace.recorders -= 1
        if self._server_trace.recorders == 0 and not self._tracing:
            self._core.disable_trace()

    def _end_trace(self) -> None:
        if self._server_trace is not None:
            from vmthaw.trace._collector import collector

            collector().remove_server(self._server_trace)
