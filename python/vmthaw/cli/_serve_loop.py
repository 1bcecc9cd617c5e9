"""The loop behind `vmthaw serve`: events out, signals in, and an end by the stated rule."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from vmthaw import PageServer, SessionEvent
from vmthaw.cli._errors import Exit, sentence_of
from vmthaw.cli._output import Output
from vmthaw.cli._systemd import notify
from vmthaw.cli._values import format_size
from vmthaw.errors import VmthawError
from vmthaw.pager import EndReason, FailurePolicy, PagerSession, PagerStats, SessionEventKind, SessionState

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REFRESH_S = 0.25


def stats_fields(stats: PagerStats) -> dict[str, int]:
    """Counters for machines; p50 and p99 are those of a fault, from read to installed, in ns."""
    names = ("faults", "installed", "zero", "prewarmed", "prefetched", "redundant", "removed", "retried", "failed",
             "source_bytes")  # fmt: skip
    fields: dict[str, int] = {name: int(getattr(stats, name)) for name in names}
    return {**fields, "p50_ns": stats.latency_ns(0.5), "p99_ns": stats.latency_ns(0.99)}


def stats_text(stats: PagerStats) -> str:
    """The same for people."""
    text = f"{stats.faults} faults, {stats.installed} pages ({stats.zero} zero), {format_size(stats.source_bytes)} read"
    if stats.faults:
        text += f", p50 {stats.latency_ns(0.5) / 1000:.0f} us, p99 {stats.latency_ns(0.99) / 1000:.0f} us"
    return text + (f", {stats.failed} failed" if stats.failed else "")


@dataclass
class LoopOptions:
    """How `vmthaw serve` was asked to behave. Times in seconds."""

    once: bool
    on_exit: Literal["drain", "kill"]
    drain_timeout: float
    stats_interval: float


class ServeLoop:
    """Serves until a signal, or with ``once`` until the VMs that came are gone. Runs on the main thread."""

    def __init__(self, server: PageServer, output: Output, options: LoopOptions) -> None:
        self._server = server
        self._output = output
        self._options = options
        self._signals: list[int] = []
        self._handled = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._known: dict[int, PagerSession] = {}
        self._ended = PagerStats()
        self._served = 0
        self._failed_sessions: set[int] = set()
        self._refused = 0
        self._last_failure_ns = -1
        self._stopper: threading.Thread | None = None
        self._stop_error: BaseException | None = None
        self._killed = False

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Our signal handlers, from before the first VM can come until the last has gone."""
        old = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            if self._stopper is None or not self._stopper.is_alive():  # it writes to it last of all
                os.close(self._wake)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def run(self) -> Exit:
        """Until the end; gives the exit code."""
        poller = select.poll()
        poller.register(self._server.fileno(), select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        next_stats = time.monotonic() + self._options.stats_interval
        while True:
            self._obey_signals()
            self._take_events()
            self._say_failures()
            if self._output.live:
                self._output.refresh(self._status_line())
            if self._stopper is not None:
                if not self._stopper.is_alive():
                    break
            elif self._options.once and self._served and not self._known:
                self._begin_end("the VM is gone")
            now = time.monotonic()
            if self._options.stats_interval > 0 and now >= next_stats:
                next_stats = now + self._options.stats_interval
                self._output.status(self._status_line(), self._status_fields())
            poller.poll(1000 * (0.02 if self._stopper else _REFRESH_S))
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        self._take_events()
        self._say_failures()
        return self._result()

    # -- what happens --------------------------------------------------------------------------------------------

    def _take_events(self) -> None:
        events = self._server.events()
        # Looked at after the events were taken: a session whose event there is can be found then.
        found = {session.id: session for session in [*self._server.ended_sessions, *self._server.sessions]}
        for event in events:
            session = self._known.get(event.session) or found.get(event.session)
            if session is not None:
                self._say(event, session)

    @staticmethod
    def _names_of(session: PagerSession) -> dict[str, Any]:
        return {"vm": session.label, "session": session.id, "pid": session.pid}

    def _say(self, event: SessionEvent, session: PagerSession) -> None:
        vm = self._names_of(session)
        if event.kind is SessionEventKind.connected:
            self._served += 1
            self._known[session.id] = session
            regions = session.regions
            size = sum(region.size for region in regions)
            text = f"{session.label}: handed over {format_size(size)} in {len(regions)} region(s)"
            self._output.event("connected", text, **vm, size_bytes=size, regions=len(regions))
        elif event.kind is SessionEventKind.first_fault:
            self._output.event("first_fault", f"{session.label}: first fault", **vm)
        elif event.kind is SessionEventKind.failed:
            self._failed_sessions.add(session.id)
            reason = "; ".join(session.failures[-1:]) or "no reason given"
            self._output.event("failed", f"{session.label}: failed: {reason}", **vm, level="error", reason=reason)
        elif event.kind is SessionEventKind.closed:
            self._say_closed(session, vm)

    def _say_closed(self, session: PagerSession, vm: dict[str, Any]) -> None:
        self._known.pop(session.id, None)
        stats = session.stats
        self._ended = self._ended + stats
        reason = session.end_reason
        if reason is EndReason.failed or (reason is EndReason.killed and not self._kill_was_asked_for()):
            self._failed_sessions.add(session.id)
        text = f"{session.label}: {reason.name.replace('_', ' ')}; {stats_text(stats)}"
        self._output.event("closed", text, **vm, end_reason=reason.name, stats=stats_fields(stats))

    def _kill_was_asked_for(self) -> bool:
        return self._stopper is not None and self._options.on_exit == "kill"

    def _say_failures(self) -> None:
        for failure in self._server.failures:
            if failure.t_ns <= self._last_failure_ns:
                continue
            self._last_failure_ns = failure.t_ns
            if failure.session == 0:
                self._refused += 1
                text = f"a hand-over was refused: {failure.text}"
                self._output.event("refused", text, level="error", reason=failure.text, field=failure.field)

    @property
    def _failures(self) -> int:
        return len(self._failed_sessions) + self._refused

    def _totals(self) -> PagerStats:
        total = self._ended
        for session in self._known.values():
            total = total + session.stats
        return total

    def _status_line(self) -> str:
        state = "stopping: " if self._stopper else ""
        return f"{state}{len(self._known)} VM(s) now, {self._served} in all; {stats_text(self._totals())}"

    def _status_fields(self) -> dict[str, Any]:
        return {
            "vms": len(self._known), "vms_in_all": self._served, "failures": self._failures,
            "stats": stats_fields(self._totals()),
        }  # fmt: skip

    # -- the end -------------------------------------------------------------------------------------------------

    def _obey_signals(self) -> None:
        if self._handled == len(self._signals):
            return
        name = signal.Signals(self._signals[-1]).name
        self._handled = len(self._signals)
        if self._stopper is None:
            self._begin_end(name)
        elif not self._killed:
            self._end_at_once(name)

    def _begin_end(self, why: str) -> None:
        notify("STOPPING=1")
        live = list(self._server.sessions)
        names = ", ".join(session.label for session in live)
        mode = self._options.on_exit
        text = f"stopping ({why})"
        if live and mode == "drain":
            text += (
                f": {names} gets its missing pages, for at most {self._options.drain_timeout:g} s, then the failure "
                "policy; the same signal again ends it at once"
            )
        elif live:
            text += f": {names} is killed, as --on-exit kill asks for"
        level = "warning" if live else "info"
        self._output.event("stopping", text, level=level, reason=why, vms=[session.label for session in live])
        self._stopper = threading.Thread(target=self._stop, name="vmthaw-stop", daemon=True)
        self._stopper.start()

    def _stop(self) -> None:
        try:
            self._server.stop(self._options.on_exit, timeout=self._options.drain_timeout)
        except BaseException as error:  # noqa: BLE001 - it is raised again by the main thread
            self._stop_error = error
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _end_at_once(self, name: str) -> None:
        self._killed = True
        left = []
        for session in list(self._server.sessions):
            if session.failure_policy is FailurePolicy.hang:
                left.append(session)
                continue
            text = f"{name} again: {session.label} is killed, because it still misses pages"
            self._output.event("killed", text, level="warning", vm=session.label, session=session.id)
            try:
                session.kill()
            except VmthawError as error:
                self._output.event("kill_failed", sentence_of(error), level="error", vm=session.label)
                left.append(session)
        if left:
            self._leave(name, left)

    def _leave(self, name: str, left: list[PagerSession]) -> NoReturn:
        labels = [session.label for session in left]
        text = (
            f"{name} again: leaving {', '.join(labels)} without the missing pages: whoever touches one sleeps as long "
            "as the VMM keeps its own userfaultfd"
        )
        self._output.event("left", text, level="error", vms=labels)
        self._output.close()
        # An orderly end would drain; who asks twice wants none.
        os._exit(Exit.FAILED)

    def _result(self) -> Exit:
        if self._stop_error is not None:
            raise self._stop_error
        for session in list(self._known.values()):
            if session.state is SessionState.closed:
                self._say_closed(session, self._names_of(session))  # its event is still on its way
            else:
                self._failed_sessions.add(session.id)  # it did not end in time: the library has warned
        text = f"served {self._served} VM(s): {stats_text(self._totals())}"
        if self._failures:
            text += f"; {self._failures} failure(s), see above"
        self._output.event("stopped", text, **self._status_fields())
        return Exit.FAILED if self._failures else Exit.OK
