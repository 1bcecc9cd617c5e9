"""`PageServer`: listens for VMMs and gives every one of them its memory, page by page."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmthaw import _core, _lifecycle
from vmthaw._async_waiters import AsyncWaiters
from vmthaw._core import MemoryLayout, PagerConfig, PageSource, Region, SessionEventKind
from vmthaw._ending import StopMode, Taker, end_sessions, refuse_incomplete
from vmthaw._limits import raise_descriptor_limit
from vmthaw._server_trace import TracedServer
from vmthaw._session_inputs import SessionInputs, SourceFactory, WorkingSetFactory, guest_addresses, runs_of
from vmthaw.errors import PageFailedError, StateError, VmthawTimeoutError, VmthawValueError
from vmthaw.pager import PrewarmList
from vmthaw.server_values import DetachedSession, Failure, HandoverInfo, ServerTotals, SessionEvent

if TYPE_CHECKING:
    from vmthaw.working_set import WorkingSet

__all__ = [
    "DetachedSession",
    "Failure",
    "HandoverInfo",
    "PageServer",
    "ServerTotals",
    "SessionEvent",
    "SourceFactory",
    "raise_descriptor_limit",
]


class PageServer(TracedServer):
    """Serves the memory of every VM that hands its userfaultfd over on `socket_path`.

    `source` is one `PageSource` for all, or a callable that is asked once per hand-over (on the drainer's thread) and
    gives a `PageSource`. `socket_fd` is a listening socket given by systemd instead of a path. `owner_uid`/`owner_gid`
    own the socket file (mode 0600), `required_uid` must be the peer's. A connection that has not sent its whole message
    within `handover_timeout` seconds is closed. `prewarm` lists guest addresses whose pages are installed before the
    first fault is read. `working_set` is what a former restore touched: its pages are installed in large pieces as
    ``config.working_set_mode`` says, beside the guest from the hand-over on (giving way to its faults), or before its
    first fault is read. One for all, or a callable asked once per hand-over, which may give None. Pages of it that
    cannot be had are left to their faults.

    A context manager: leaving it drains every VM for at most `config.drain_timeout` seconds, then applies the failure
    policy to what is missing. Everything is safe from any thread; waits release the GIL, end with Ctrl-C and take a
    time-out in seconds. Threads are shared by all servers of the process and never take the GIL.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        source: PageSource | SourceFactory | None = None,
        *,
        config: PagerConfig | None = None,
        layout: MemoryLayout | None = None,
        socket_fd: int | None = None,
        owner_uid: int | None = None,
        owner_gid: int | None = None,
        required_uid: int | None = None,
        handover_timeout: float = 5.0,
        prewarm: PrewarmList | Iterable[int] = (),
        working_set: WorkingSet | WorkingSetFactory | None = None,
    ) -> None:
        if source is None:
            raise VmthawValueError(
                "a PageServer needs a source: a PageSource, or a callable that gives one per session"
            )
        if socket_path is None and socket_fd is None:
            raise VmthawValueError("a PageServer needs socket_path or socket_fd; for a descriptor use PageServer.adopt")
        addresses = guest_addresses(prewarm)
        raise_descriptor_limit()
        config = config or PagerConfig()
        inputs = SessionInputs(source, working_set)
        core = _core.PageServer(
            socket_path=os.fspath(socket_path) if socket_path is not None else None,
            socket_fd=socket_fd,
            source=inputs.fixed_source,
            config=config,
            layout=layout or MemoryLayout.host(),
            owner_uid=owner_uid,
            owner_gid=owner_gid,
            required_uid=required_uid,
            handover_timeout=handover_timeout,
            prewarm=addresses,
            working_set=inputs.fixed_runs,
        )
        self._prewarms = bool(addresses)
        self._init(core, config, inputs, os.fspath(socket_path) if socket_path is not None else f"fd {socket_fd}")

    def _init(self, core: _core.PageServer, config: PagerConfig, inputs: SessionInputs, name: str) -> None:
        self._core = core
        self._config = config
        self._inputs = inputs
        self._socket_path = name
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._waiters = AsyncWaiters()
        self._events: list[SessionEvent] = []
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @classmethod
    def adopt(
        cls,
        fd: int,
        regions: Iterable[Region],
        source: PageSource,
        *,
        pidfd: int | None = None,
        config: PagerConfig | None = None,
        label: str = "adopted",
        page_states: Iterable[bytes] = (),
        prewarm: PrewarmList | Iterable[int] = (),
        working_set: WorkingSet | None = None,
    ) -> Self:
        """A started server without a socket, for one userfaultfd that came another way.

        `fd` and `pidfd` are duplicated and stay the caller's. Without `pidfd` the failure policy defaults to poison.
        `page_states` (of a `DetachedSession`, one for each region) says what the former server knew: without it every
        page is taken for absent, and a page that the VM has given back would get the source's bytes again.
        Raises RegionError, VmthawValueError, VmthawOSError.
        """
        config = config or PagerConfig()
        core = _core.PageServer(
            socket_path=None, socket_fd=None, source=source, config=config, prewarm=guest_addresses(prewarm),
            working_set=runs_of(working_set),
        )  # fmt: skip
        server = cls.__new__(cls)
        server._prewarms = False
        server._init(core, config, SessionInputs(source, working_set), "adopted")
        server.start()
        try:
            server._core.adopt(
                fd=fd, regions=list(regions), source=source, pidfd=pidfd, label=label, page_states=list(page_states)
            )
        except BaseException:
            server.stop()
            raise
        return server

    def __repr__(self) -> str:
        return f"<PageServer {self._socket_path}>"

    @property
    def socket_path(self) -> str:
        """Where VMMs connect to."""
        return self._socket_path

    def start(self) -> Self:
        """Starts listening: once it returns, a VMM may connect. Idempotent. Raises StateError after `stop`."""
        self._check_process()
        with self._lock:
            if self._closed:
                raise StateError(f"{self!r} has been stopped; make a new one")
            if self._started:
                return self
            _lifecycle.ensure_drainer()
            self._core.start()
            _lifecycle.watch(self._core.event_fd(), self._on_events)
            _lifecycle.register(self)
            self._started = True
            if self._config.trace_records:
                self.enable_trace(self._config.trace_records)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("drain")

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop, "drain")

    def ready(self, timeout: float | None = None) -> None:
        """Waits until a VM is being served. Ends too when the server stops.

        A hand-over that is refused does not end it: the next VM may be right. Raises VmthawTimeoutError, which names
        the last failure, and PageFailedError when a pre-warmed page failed, or the server stopped without a VM.
        """
        self._wait(self._core.wait_ready, timeout, "no VM handed its memory over")
        if self._core.session_count == 0 or self._prewarms:
            self._raise_failure(sessions_only=self._core.session_count > 0)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until a VM came and all have ended, or until the server was stopped.

        Raises VmthawTimeoutError, and PageFailedError when a session failed.
        """
        self._wait(self._core.wait_ended, timeout, "VMs are still being served")
        self._raise_failure(sessions_only=True)

    async def ready_async(self, timeout: float | None = None) -> None:
        """`ready` for asyncio; needs no thread: it watches the server's descriptor."""
        await self._wait_async(lambda: self._core.wait_ready(0), timeout, "no VM handed its memory over")

    async def wait_async(self, timeout: float | None = None) -> None:
        """`wait` for asyncio; needs no thread."""
        await self._wait_async(lambda: self._core.wait_ended(0), timeout, "VMs are still being served")
        self._raise_failure(sessions_only=True)

    def stop(
        self,
        sessions: StopMode | None = None,
        *,
        timeout: float | None = None,
        taker: Taker | None = None,
    ) -> None:
        """Stops listening and serving. At any time, also twice and before a VMM came.

        Closing a userfaultfd whose VM still misses pages would give it zeros, so `sessions` says what becomes of it:
        ``"drain"`` fills all that is missing (for `timeout` seconds, by default `config.drain_timeout`, then the
        failure policy), ``"kill"`` kills the VMs by pidfd, ``"detach"`` gives each to `taker`. None refuses with
        IncompleteSessionsError, which names them, while there are any; the server then goes on.
        """
        if os.getpid() != self._pid:
            return
        if sessions not in (None, "drain", "kill", "detach"):
            raise VmthawValueError(f"sessions must be 'drain', 'kill', 'detach' or None, not {sessions!r}")
        if sessions == "detach" and taker is None:
            raise VmthawValueError("stop(sessions='detach') needs a taker that serves the VMs on")
        with self._lock:
            if self._closed:
                return
        if sessions is None:
            refuse_incomplete(repr(self), self._core.sessions, self._core.waiting())
        self._core.stop_listening()
        limit = self._config.drain_timeout if timeout is None else timeout
        end_sessions(repr(self), self._core.sessions, sessions or "drain", limit, taker)
        # The news of a session's end follow the end itself.
        self._core.wait_ended(1.0)
        self._close()

    def _close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._core.close()
        self._end_trace()
        _lifecycle.unwatch(self._core.event_fd())
        self._on_events()
        _lifecycle.unregister(self)

    def close_at_exit(self) -> None:
        """For interpreter exit: drains for at most `config.drain_timeout`, then the failure policy."""
        self.stop("drain")

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._event_fd)

    def fileno(self) -> int:
        """A descriptor that is readable while `events` has something: for asyncio, select or epoll."""
        return self._event_fd

    def events(self) -> list[SessionEvent]:
        """Takes the session events since the last call: connected, first_fault, failed, closed. Never blocks."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        with self._lock:
            events, self._events = self._events, []
        return events

    def _on_events(self) -> None:
        news: list[SessionEvent] = []
        for t_ns, session, kind in self._core.take_events():
            if kind is SessionEventKind.needs_source:
                if not self._closed:  # close() has refused whoever waited
                    self._inputs.provide(self._core, session, repr(self))
            else:
                news.append(SessionEvent(t_ns, session, kind))
        if news:
            with self._lock:
                self._events.extend(news)
                del self._events[:-4096]
            os.eventfd_write(self._event_fd, 1)
        self._waiters.wake()

    def _wait(self, wait: Callable[[float | None], bool], timeout: float | None, what: str) -> None:
        self._check_process()
        if not self._started:
            raise StateError(f"{self!r} has not been started")
        if not wait(timeout):
            raise self._timed_out(what, timeout)

    async def _wait_async(self, done: Callable[[], bool], timeout: float | None, what: str) -> None:
        self._check_process()
        if not await self._waiters.wait(done, timeout):
            raise self._timed_out(what, timeout)

    def _timed_out(self, what: str, timeout: float | None) -> VmthawTimeoutError:
        last = self.failures[-1:]
        more = f"; last failure: {last[0].text}" if last else ""
        return VmthawTimeoutError(errno.ETIMEDOUT, f"{self!r}: {what} within {timeout} s{more}")

    def _raise_failure(self, *, sessions_only: bool = False) -> None:
        failures = [failure for failure in self.failures if failure.session or not sessions_only]
        if failures:
            raise PageFailedError("; ".join(dict.fromkeys(failure.text for failure in failures[-4:])))
