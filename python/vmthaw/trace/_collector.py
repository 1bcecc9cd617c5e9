"""The one consumer of the core's trace rings: takes the records of all that is traced and hands them to all who want.

One thread for the whole process, "vmthaw-tracer", which runs only while somebody wants records. It looks every 20 to
50 ms, so a ring should hold what a VM can do in 50 ms; what did not fit is counted by the core and told as dropped.
Nobody is held up: the worker that answered a fault writes 64 bytes into the ring and goes on, as a vCPU does after an
exit.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vmthaw import _core
from vmthaw._dax_feed import DaxFeed
from vmthaw._drainer import blocked_signals
from vmthaw._exit_feed import ExitFeed
from vmthaw.trace._rings import DaxRing, RecordRing, RunRing, SessionRing

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vmthaw._core import PagerSession
    from vmthaw.trace._columns import Records

_SHORTEST_S, _LONGEST_S = 0.02, 0.05
_TAKEN_AT_ONCE = 65536

_log = logging.getLogger("vmthaw.trace")


class Sink(Protocol):
    """Who wants records. Called with the collector's lock held: must neither block nor raise."""

    def take(self, ring: RecordRing, records: Records, dropped: int) -> None:
        """Records of one ring in its order, and how many were lost behind them."""


class LiveRecords:
    """The newest records, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: deque[Records] = deque()
        self._count = 0

    def take(self, ring: RecordRing, records: Records, dropped: int) -> None:
        """As a sink."""
        if len(records):
            self._parts.append(records)
            self._count += len(records)
            while self._parts and self._count - len(self._parts[0]) >= self.limit:
                self._count -= len(self._parts.popleft())

    def records(self, limit: int) -> Records:
        """A copy of the newest, oldest first."""
        limit = min(limit, self.limit)
        if limit <= 0 or not self._parts:
            return np.empty(0, dtype=_core.fault_record_dtype())
        kept = np.empty(self._count, dtype=_core.fault_record_dtype())  # concatenate() would pack it
        np.concatenate(self._parts, out=kept)
        return kept[-limit:]


class _Tap:
    def __init__(self, ring: RecordRing, dropped: int = 0) -> None:
        self.ring = ring
        self.sinks: list[Sink] = []
        self.dropped = dropped  # that were told, or are nobody's concern
        self.idle_looks = 0

    @property
    def done(self) -> bool:
        return self.idle_looks >= self.ring.idle_looks

    def drain(self) -> int:
        ended = self.ring.ended()  # asked before the last look
        taken = 0
        while True:
            records = self.ring.take(_TAKEN_AT_ONCE)
            dropped = self.ring.dropped()
            lost, self.dropped = dropped - self.dropped, dropped
            taken += len(records)
            if len(records) or lost:
                for sink in self.sinks:
                    sink.take(self.ring, records, lost)
            if len(records) < _TAKEN_AT_ONCE:
                break
        self.idle_looks = self.idle_looks + 1 if ended and not taken else 0
        return taken


class ServerTrace:
    """What belongs to one server: its live records, and the sinks that get the records of all its sessions."""

    def __init__(self, core: _core.PageServer, live: int) -> None:
        self.core = core
        self.live = LiveRecords(live)
        self.sinks: list[Sink] = [self.live]
        self.recorders = 0
        self._seen: set[int] = set()
        _core.fault_record_dtype()  # what the first one costs is paid here, not while a VM starts

    def find_sessions(self, tap_of: Callable[[PagerSession], _Tap]) -> None:
        """Gives the taps of new sessions this server's sinks."""
        sessions = [*self.core.ended_sessions, *self.core.sessions]
        for session in sessions:
            if session.id not in self._seen:
                tap = tap_of(session)
                tap.sinks.extend(sink for sink in self.sinks if sink not in tap.sinks)
        self._seen = {session.id for session in sessions}

    def owns(self, session_id: int) -> bool:
        """Whether a session is one of this server's."""
        return session_id in self._seen


class Collector:
    """See the module. Methods are safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._taps: dict[Hashable, _Tap] = {}  # by the ring's key
        self._lost_before: dict[Hashable, int] = {}  # by session, when its last sink left
        self._servers: weakref.WeakSet[ServerTrace] = weakref.WeakSet()
        self._feeds: dict[ExitFeed, list[Sink]] = {}

    def add_server(self, server: ServerTrace) -> None:
        """From now on the records of its sessions are taken."""
        with self._lock:
            self._servers.add(server)
            self._ensure_thread()

    def remove_server(self, server: ServerTrace) -> None:
        """After a last look."""
        with self._lock:
            self.collect()
            self._servers.discard(server)

    def add_sink(self, sink: Sink, target: ServerTrace | PagerSession | ExitFeed | DaxFeed) -> None:
        """From now on `sink` gets the records of a session, of all sessions of a server, of all runs of a feed, or of a
        DAX session."""
        with self._lock:
            self.collect()  # what lies in the rings is older than the sink
            if isinstance(target, ServerTrace):
                target.sinks.append(sink)
                for tap in self._taps.values():
                    if isinstance(tap.ring, SessionRing) and target.owns(tap.ring.session.id):
                        tap.sinks.append(sink)
            elif isinstance(target, ExitFeed):
                self._add_to_feed(sink, target)
            else:
                tap = self._dax_tap_of(target) if isinstance(target, DaxFeed) else self._tap_of(target)
                tap.drain()
                tap.sinks.append(sink)
            self._ensure_thread()

    def _add_to_feed(self, sink: Sink, feed: ExitFeed) -> None:
        self._feeds.setdefault(feed, []).append(sink)
        for tap in self._taps.values():
            if isinstance(tap.ring, RunRing) and tap.ring.feed is feed:
                tap.sinks.append(sink)
        run = feed.begin_recording()
        if run is not None and not (ring := RunRing(feed, *run)).ended():
            tap = self._taps[ring.key] = _Tap(ring)
            tap.drain()  # older than the sink
            tap.sinks.append(sink)

    def remove_sink(self, sink: Sink) -> None:
        """After a last look."""
        with self._lock:
            self.collect()
            for server in list(self._servers):
                if sink in server.sinks:
                    server.sinks.remove(sink)
            for feed, sinks in list(self._feeds.items()):
                if sink in sinks:
                    sinks.remove(sink)
                    feed.end_recording()
                if not sinks:
                    del self._feeds[feed]
            for key, tap in list(self._taps.items()):
                if sink in tap.sinks:
                    tap.sinks.remove(sink)
                if not tap.sinks:
                    del self._taps[key]
                    if isinstance(tap.ring, SessionRing):
                        self._lost_before[key] = tap.dropped

    def collect(self) -> int:
        """Takes all that lies in the rings, now; gives the number of records."""
        with self._lock:
            for server in list(self._servers):
                server.find_sessions(self._tap_of)
            for feed, sinks in self._feeds.items():
                for run in feed.take_begun():
                    ring = RunRing(feed, *run)
                    tap = self._taps[ring.key] = _Tap(ring)
                    tap.sinks.extend(sinks)
            taken = 0
            for key, tap in list(self._taps.items()):
                taken += tap.drain()
                if tap.done:
                    del self._taps[key]
            return taken

    def _tap_of(self, session: PagerSession) -> _Tap:
        tap = self._taps.get(session.id)
        if tap is None:
            # What a new session has lost already is missing too, unless it was lost while nobody wanted records.
            tap = self._taps[session.id] = _Tap(SessionRing(session), self._lost_before.pop(session.id, 0))
        return tap

    def _dax_tap_of(self, feed: DaxFeed) -> _Tap:
        ring = DaxRing(feed)
        return self._taps.setdefault(ring.key, _Tap(ring))

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="vmthaw-tracer", daemon=True)
            with blocked_signals():
                self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        wait_s = _SHORTEST_S
        while True:
            self._wake.wait(wait_s)
            self._wake.clear()
            taken = 0
            try:
                taken = self.collect()
            except Exception:
                _log.exception("the collector of trace records goes on after an error")
            with self._lock:
                if not self._taps and not self._servers and not self._feeds:
                    self._thread = None
                    return
            wait_s = _SHORTEST_S if taken else min(2 * wait_s, _LONGEST_S)


_collector = Collector()


def collector() -> Collector:
    """The process's."""
    return _collector


def _after_fork_in_child() -> None:
    global _collector
    _collector = Collector()  # the parent's may be locked, and its thread is not here


os.register_at_fork(after_in_child=_after_fork_in_child)
