"""`TraceRecorder`: records of faults, exits and DAX events into files, while the VM runs."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmthaw import _lifecycle
from vmthaw._core import PagerSession
from vmthaw._dax_feed import DaxFeed
from vmthaw._drainer import blocked_signals
from vmthaw.errors import StateError, TraceError, VmthawFileExistsError, VmthawValueError, os_error_class
from vmthaw.trace._channel import Channel, FaultChannel
from vmthaw.trace._collector import ServerTrace, collector
from vmthaw.trace._columns import arrow
from vmthaw.trace._dax_schema import DAX
from vmthaw.trace._exit_schema import EXITS
from vmthaw.trace._files import beside
from vmthaw.trace._info import TraceInfo
from vmthaw.trace._targets import dax_info, targets_of

if TYPE_CHECKING:
    from vmthaw.dax import DaxSession
    from vmthaw.machine import Machine
    from vmthaw.run_loop import RunLoop
    from vmthaw.server import PageServer

_FLUSH_S = 0.2
_log = logging.getLogger("vmthaw.trace")


class TraceRecorder:
    """Records the faults of a `PageServer` (of all its sessions, those to come included) or of one `PagerSession`, and
    the vCPU exits of a machine, and the events of DAX sessions.

    `exits` is the `Machine` or `RunLoop` whose exits are recorded too: every run while this records, also of vCPUs that
    begin later. A `target` that is a `Machine` or a `RunLoop` itself stands for its exits, and for the faults of the
    lazily restored memory that this process serves it. It must have been made with ``exit_records=``. `dax` is the
    `DaxSession`, or several, whose set-ups, removes, evictions and resets are recorded too, failed ones included; a
    `target` that is one stands for its events.

    `path` ends in ``.parquet`` or ``.arrow``. While it records, batches go to an Arrow stream (for Parquet to
    ``PATH.recording.arrow``), at least every 0.2 s, which `Trace.open` reads up to the last whole batch whatever
    happens to this process. `stop` makes the Parquet of it: under a temporary name, to the disk, then renamed. Exits
    and DAX events lie beside the faults, in ``boot.exits.parquet`` and ``boot.dax.parquet`` of ``boot.parquet``, where
    `Trace.open` finds them; move all.

    It records what happens from `start` on: exits and DAX events that wait in a ring are let go. Tracing is switched on
    for the target and DAX sessions if need be (rings of `ring_records` each) and off again at the end. `vcpus` maps
    thread ids of the VMM (the column tid, with UFFD_FEATURE_THREAD_ID) to vCPU numbers. Existing files are refused
    unless `overwrite`.

    No fault, vCPU or DAX request ever waits for the recorder. Records that nobody took in time, or that the disk was
    too slow for (more than `max_pending` of a table waiting), are counted as dropped and said in the file. When writing
    fails, recording ends, an error is logged, `error` has it and `stop` raises it; the VM runs on. A context manager;
    methods are safe from any thread; inert in a forked child.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        target: PageServer | PagerSession | Machine | RunLoop | DaxSession,
        *,
        exits: Machine | RunLoop | None = None,
        dax: DaxSession | Iterable[DaxSession] | None = None,
        vcpus: Mapping[int, int] | None = None,
        overwrite: bool = False,
        ring_records: int = 65536,
        max_pending: int = 1 << 20,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".parquet", ".arrow"):
            raise VmthawValueError(f"a trace's name must end in .parquet or .arrow, not {self.path.name!r}")
        self._targets = targets_of(target, exits, dax)
        arrow()  # a missing library is news now, not at the end
        self._overwrite = overwrite
        self._ring_records = ring_records
        self._notes = dict(notes or {})
        self._pid = os.getpid()
        self._state_lock = threading.Lock()
        self._news = threading.Condition()
        self._faults = FaultChannel(self.path, max_pending, self._news, vcpus or {})
        self._exits: Channel | None = None
        if self._targets.exits is not None:
            self._exits = Channel(EXITS, beside(self.path, EXITS.name), max_pending, self._news)
        self._dax: Channel | None = None
        if self._targets.dax:
            self._dax = Channel(DAX, beside(self.path, DAX.name), max_pending, self._news)
        self._dax_begun: list[DaxFeed] = []
        self._stopping = False
        self._started = False
        self._stopped = False
        self._switched_on = False
        self._server_trace: ServerTrace | None = None
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None

    @property
    def _channels(self) -> list[Channel]:
        return [channel for channel in (self._faults, self._exits, self._dax) if channel is not None]

    @property
    def recorded(self) -> int:
        """Faults' records in the file."""
        return self._faults.recorded

    @property
    def dropped(self) -> int:
        """Faults' records that are missing there."""
        return self._faults.dropped

    @property
    def exits_recorded(self) -> int:
        """Exits in the file beside it; 0 when none are recorded."""
        return 0 if self._exits is None else self._exits.recorded

    @property
    def exits_dropped(self) -> int:
        """Exits that are missing there."""
        return 0 if self._exits is None else self._exits.dropped

    @property
    def dax_recorded(self) -> int:
        """DAX events in the file beside it; 0 when none are recorded."""
        return 0 if self._dax is None else self._dax.recorded

    @property
    def dax_dropped(self) -> int:
        """DAX events that are missing there."""
        return 0 if self._dax is None else self._dax.dropped

    def __repr__(self) -> str:
        exits = "" if self._exits is None else f", {self.exits_recorded} exits, {self.exits_dropped} dropped"
        dax = "" if self._dax is None else f", {self.dax_recorded} DAX events, {self.dax_dropped} dropped"
        return f"<TraceRecorder {self.path}: {self.recorded} records, {self.dropped} dropped{exits}{dax}>"

    @property
    def stream_path(self) -> Path:
        """The file that is written while recording."""
        return self._faults.stream_path

    def start(self) -> Self:
        """Begins. Raises VmthawFileExistsError, another VmthawOSError when a file cannot be made, StateError."""
        with self._state_lock:
            if self._started:
                raise StateError(f"{self!r} has been started already; make a new one for another recording")
            self._refuse_to_overwrite()
            self._make_streams()
            self._started = True
            self._thread = threading.Thread(target=self._run, name="vmthaw-recorder", daemon=True)
            with blocked_signals():
                self._thread.start()
            try:
                self._attach()
            except BaseException:
                self._stopped = True
                self._detach()
                self._end_thread()
                for channel in self._channels:
                    channel.discard()
                raise
            _lifecycle.register(self)
        return self

    def _make_streams(self) -> None:
        recording = uuid.uuid4().hex
        started_at, started_ns = time.time_ns(), time.monotonic_ns()
        # The faults' file comes last, here and at the end: whoever finds it finds the others.
        for channel in reversed(self._channels):
            info = TraceInfo(
                started_at=started_at,
                started_ns=started_ns,
                schema_version=channel.table.version,
                complete=False,
                notes=self._notes,
                table=channel.table.name,
                tables=tuple(each.table.name for each in self._channels[1:] if channel is self._faults),
                recording=recording,
                sessions=tuple(map(dax_info, self._targets.dax)) if channel is self._dax else (),
            )
            try:
                channel.open(info, overwrite=self._overwrite)
            except OSError as error:
                for each in self._channels:
                    each.discard()
                raise self._os_error(error, channel, "cannot be made") from error

    def _refuse_to_overwrite(self) -> None:
        for path in {path for channel in self._channels for path in (channel.path, channel.stream_path)}:
            if path.exists() and not self._overwrite:
                remedy = "choose another name, or overwrite it (overwrite=True, --force on the command line)"
                raise VmthawFileExistsError(
                    errno.EEXIST,
                    f"{path} exists: {remedy}",
                )

    def _attach(self) -> None:
        if self._exits is not None and self._targets.exits is not None:
            collector().add_sink(self._exits, self._targets.exits)
        for feed in self._targets.dax:
            assert self._dax is not None
            feed.begin_recording(self._ring_records)
            self._dax_begun.append(feed)
            collector().add_sink(self._dax, feed)
        target = self._targets.faults
        if isinstance(target, PagerSession):
            self._switched_on = not target._tracing()
            target._enable_trace(self._ring_records)
            collector().add_sink(self._faults, target)
        elif target is not None:
            self._server_trace = target._begin_recording(self._ring_records)
            collector().add_sink(self._faults, self._server_trace)

    def _detach(self) -> None:
        for channel in self._channels:
            collector().remove_sink(channel)
        for feed in self._dax_begun:
            feed.end_recording()
        self._dax_begun.clear()
        target = self._targets.faults
        if isinstance(target, PagerSession):
            if self._switched_on:
                target._disable_trace()
        elif target is not None and self._server_trace is not None:
            target._end_recording()
            self._server_trace = None

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._stopping:
                    self._news.wait(_FLUSH_S)
                stopping = self._stopping
                work = [(channel, *channel.swap()) for channel in self._channels]
            for channel, pending, lost in work:
                try:
                    channel.write(pending, lost)
                except Exception as error:  # whatever it is, the VM runs on
                    self._fail(error, channel)
                    return
            if stopping:
                return

    def _fail(self, error: Exception, channel: Channel) -> None:
        error = self._os_error(error, channel, "ended") if isinstance(error, OSError) else error
        with self._news:
            self.error = error
        for each in self._channels:
            each.abandon()
        _log.error("%s", error)

    def _os_error(self, error: OSError, channel: Channel, what: str) -> OSError:
        number = error.errno or errno.EIO
        text = f"recording to {channel.stream_path} {what}: {os.strerror(number)}"
        if any(each.recorded for each in self._channels):
            exits = f" and {self.exits_recorded} exits" if self.exits_recorded else ""
            dax = f" and {self.dax_recorded} DAX events" if self.dax_recorded else ""
            text += (
                f". Its {self.recorded} records{exits}{dax} can be opened with Trace.open({str(self.stream_path)!r}); "
                "make room or choose another disk, and start a new recording"
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
        self._end_thread()
        if self.error is not None:
            return
        channel: Channel = self._faults
        try:
            for channel in self._channels:
                channel.close()
            if self.path.suffix == ".parquet":
                with contextlib.ExitStack() as files:
                    for channel in self._channels:
                        files.enter_context(channel.parquet())
                for channel in self._channels:
                    channel.stream_path.unlink()
        except (OSError, TraceError) as error:
            self._fail(error, channel)

    def _end_thread(self) -> None:
        """It writes what the collector gave until now."""
        with self._news:
            self._stopping = True
            self._news.notify()
        assert self._thread is not None
        self._thread.join()

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
