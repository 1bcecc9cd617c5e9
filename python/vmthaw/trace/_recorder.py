"""`TraceRecorder`: fault records of a server or a session into a file, while it serves."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmthaw import _lifecycle
from vmthaw._core import PagerSession, Region
from vmthaw._drainer import blocked_signals
from vmthaw.errors import StateError, TraceError, VmthawFileExistsError, VmthawValueError, os_error_class
from vmthaw.trace._collector import ServerTrace, collector
from vmthaw.trace._info import Gap, RegionInfo, SessionInfo, TraceInfo
from vmthaw.trace._reader import read_parts
from vmthaw.trace._schema import arrow, to_batch
from vmthaw.trace._stream import StreamWriter, replacing
from vmthaw.trace._write import write_parquet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vmthaw.server import PageServer

_FLUSH_S = 0.2
_BATCH_RECORDS = 65536
_log = logging.getLogger("vmthaw.trace")


def session_info(session: PagerSession) -> SessionInfo:
    """What a trace says of a session."""
    regions: list[Region] = session._first_regions()
    return SessionInfo(
        session.id,
        session.label,
        session.pid,
        tuple(
            RegionInfo(number, region.guest_address, region.source_offset, region.size, region.page_size)
            for number, region in enumerate(regions)
        ),
    )


class TraceRecorder:
    """Records the faults of a `PageServer` (of all its sessions, those to come included) or of one `PagerSession`.

    `path` ends in ``.parquet`` or ``.arrow``. While it records, batches go to an Arrow stream (for Parquet to
    ``PATH.recording.arrow``), at least every 0.2 s, which `Trace.open` reads up to the last whole batch whatever
    happens to this process. `stop` makes the Parquet of it: under a temporary name, to the disk, then renamed.

    It records what faults from `start` on; tracing is switched on for the target if need be (rings of `ring_records` a
    session) and off again at the end. `vcpus` maps thread ids of the VMM (the column tid, with
    UFFD_FEATURE_THREAD_ID) to vCPU numbers. An existing file is refused unless `overwrite`.

    No fault ever waits for the recorder. Records that nobody took in time, or that the disk was too slow for (more
    than `max_pending` waiting), are counted as dropped and said in the file. When writing fails, recording ends, an
    error is logged, `error` has it and `stop` raises it; serving goes on. A context manager; methods are safe from any
    thread; inert in a forked child.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        target: PageServer | PagerSession,
        *,
        vcpus: Mapping[int, int] | None = None,
        overwrite: bool = False,
        ring_records: int = 65536,
        max_pending: int = 1 << 20,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".parquet", ".arrow"):
            raise VmthawValueError(f"a trace's name must end in .parquet or .arrow, not {self.path.name!r}")
        if not isinstance(target, PagerSession) and not hasattr(target, "enable_trace"):
            raise VmthawValueError(f"a trace is recorded of a PageServer or a PagerSession, not {target!r}")
        arrow()  # a missing library is news now, not at the end
        self._target = target
        self._vcpus = dict(vcpus or {})
        self._overwrite = overwrite
        self._ring_records = ring_records
        self._max_pending = max_pending
        self._notes = dict(notes or {})
        self._pid = os.getpid()
        self._state_lock = threading.Lock()
        self._news = threading.Condition()
        self._pending: deque[tuple[PagerSession, NDArray[np.void], int]] = deque()
        self._pending_records = 0
        self._lost: dict[int, int] = {}  # by session: the disk was too slow
        self._known: set[int] = set()
        self._stopping = False
        self._started = False
        self._stopped = False
        self._switched_on = False
        self._server_trace: ServerTrace | None = None
        self._thread: threading.Thread | None = None
        self._writer: StreamWriter | None = None
        self.recorded = 0
        self.dropped = 0
        self.error: Exception | None = None

    def __repr__(self) -> str:
        return f"<TraceRecorder {self.path}: {self.recorded} records, {self.dropped} dropped>"

    @property
    def stream_path(self) -> Path:
        """The file that is written while recording."""
        if self.path.suffix == ".arrow":
            return self.path
        return self.path.with_name(self.path.name + ".recording.arrow")

    def start(self) -> Self:
        """Begins. Raises VmthawFileExistsError, another VmthawOSError when the file cannot be made, StateError."""
        with self._state_lock:
            if self._started:
                raise StateError(f"{self!r} has been started already; make a new one for another recording")
            self._refuse_to_overwrite()
            info = TraceInfo(
                started_at=time.time_ns(), started_ns=time.monotonic_ns(), complete=False, notes=self._notes
            )
            try:
                self._writer = StreamWriter(self.stream_path, info, overwrite=self._overwrite)
            except OSError as error:
                raise self._os_error(error, "cannot be made") from error
            self._started = True
            self._thread = threading.Thread(target=self._run, name="vmthaw-recorder", daemon=True)
            with blocked_signals():
                self._thread.start()
            self._attach()
            _lifecycle.register(self)
        return self

    def _refuse_to_overwrite(self) -> None:
        for path in {self.path, self.stream_path}:
            if path.exists() and not self._overwrite:
                remedy = "choose another name, or overwrite it (overwrite=True, --force on the command line)"
                raise VmthawFileExistsError(
                    errno.EEXIST,
                    f"{path} exists: {remedy}",
                )

    def _attach(self) -> None:
        if isinstance(self._target, PagerSession):
            self._switched_on = not self._target._tracing()
            self._target._enable_trace(self._ring_records)
            collector().add_sink(self, self._target)
            return
        self._server_trace = self._target._begin_recording(self._ring_records)
        collector().add_sink(self, self._server_trace)

    def _detach(self) -> None:
        collector().remove_sink(self)
        if isinstance(self._target, PagerSession):
            if self._switched_on:
                self._target._disable_trace()
        elif self._server_trace is not None:
            self._target._end_recording()
            self._server_trace = None

    def take(self, session: PagerSession, records: NDArray[np.void], dropped: int) -> None:
        """For the collector."""
        with self._news:
            if self.error is not None:
                return
            if self._pending_records + len(records) > self._max_pending:
                self._lost[session.id] = self._lost.get(session.id, 0) + len(records) + dropped
                return
            self._pending.append((session, records, dropped))
            self._pending_records += len(records)
            if self._pending_records >= _BATCH_RECORDS:
                self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._stopping:
                    self._news.wait(_FLUSH_S)
                stopping = self._stopping
                pending, self._pending = list(self._pending), deque()
                lost, self._lost = self._lost, {}
                self._pending_records = 0
            try:
                if pending or lost:
                    self._write(pending, lost)
            except Exception as error:  # whatever it is, serving goes on
                self._fail(error)
                return
            if stopping:
                return

    def _write(self, pending: list[tuple[PagerSession, NDArray[np.void], int]], lost: dict[int, int]) -> None:
        assert self._writer is not None
        import numpy as np

        for session, records, dropped in pending:
            sessions = []
            if session.id not in self._known:
                sessions.append(session_info(session))
                self._known.add(session.id)
            for first in range(0, max(1, len(records)), _BATCH_RECORDS):
                part = records[first : first + _BATCH_RECORDS]
                last = first + _BATCH_RECORDS >= len(records)
                after = self.recorded + len(part)
                gaps = [Gap(after, session.id, dropped, "ring")] if dropped and last else []
                self._writer.write(to_batch(part, self._writer.schema, self._vcpus), sessions, gaps)
                self.recorded = after
                sessions = []
            self.dropped += dropped
        if lost:
            gaps = [Gap(self.recorded, session, count, "writer") for session, count in lost.items()]
            nothing = np.empty(0, dtype=pending[0][1].dtype) if pending else None
            if nothing is None:
                from vmthaw.trace._schema import empty_records

                nothing = empty_records()
            self._writer.write(to_batch(nothing, self._writer.schema), [], gaps)
            self.dropped += sum(lost.values())

    def _fail(self, error: Exception) -> None:
        error = self._os_error(error, "ended") if isinstance(error, OSError) else error
        with self._news:
            self.error = error
            self._pending.clear()
        assert self._writer is not None
        self._writer.abandon()
        _log.error("%s", error)

    def _os_error(self, error: OSError, what: str) -> OSError:
        number = error.errno or errno.EIO
        text = f"recording to {self.stream_path} {what}: {os.strerror(number)}"
        if self.recorded:
            text += (
                f". Its {self.recorded} records can be opened with Trace.open({str(self.stream_path)!r}); make room or "
                "choose another disk, and start a new recording"
            )
        found: OSError = os_error_class(number)(number, text)
        return found

    def stop(self) -> Path:
        """Ends recording and makes the file; gives its path. Idempotent. May take a moment: it writes everything.

        Raises what made recording fail (`error`): VmthawOSError, TraceError. What was recorded until then is kept.
        """
        if os.getpid() != self._pid:
            return self.path
        with self._state_lock:
            if not self._started:
                raise StateError(f"{self!r} has not been started")
            if not self._stopped:
                self._stopped = True
                self._finish()
        if self.error is not None:
            raise self.error
        return self.path

    def _finish(self) -> None:
        _lifecycle.unregister(self)
        self._detach()
        with self._news:
            self._stopping = True
            self._news.notify()
        assert self._thread is not None
        assert self._writer is not None
        self._thread.join()
        if self.error is not None:
            return
        try:
            self._writer.close()
            if self.path.suffix == ".parquet":
                with read_parts(self.stream_path) as parts, replacing(self.path) as temporary:
                    write_parquet(temporary, parts)
                self.stream_path.unlink()
        except (OSError, TraceError) as error:
            self._fail(error)

    def close_at_exit(self) -> None:
        """For interpreter exit."""
        self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except Exception:
            if kind is None:  # else the first error is the one to tell; this one is logged
                raise
