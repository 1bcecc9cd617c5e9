"""What both faces of a Firecracker VM share: everything but the waiting."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from vmthaw import _lifecycle
from vmthaw._session_inputs import SourceFactory
from vmthaw.errors import ForkedError, PageFailedError, StateError, VmthawError, VmthawValueError
from vmthaw.firecracker import _api
from vmthaw.firecracker._errors import describe_exit
from vmthaw.firecracker._events import VmEvent, VmEventKind, of_session
from vmthaw.firecracker._jail import Jail, check_id
from vmthaw.firecracker._log_tail import LogTail
from vmthaw.firecracker._place import JailPlace, Place, check_file
from vmthaw.firecracker._process import VmmProcess, find_binary
from vmthaw.firecracker._requests import ApiRequest, LoadOptions
from vmthaw.pager import MemoryLayout, PagerConfig, PagerSession, PrewarmList
from vmthaw.server import PageServer
from vmthaw.source import PageSource

Memory = PageSource | SourceFactory | PageServer
_OURS = ("--api-sock", "--id", "--no-api")
_NEWS_S = 2.0
_TRIES, _TRY_S = 10, 0.005
_LOOK_S = 0.02  # how often the page server is asked for failures while a snapshot is being loaded


class VmBase:
    """State and everything that does not wait. See `Firecracker`."""

    def __init__(
        self,
        binary: str | os.PathLike[str] = "firecracker",
        *,
        jail: Jail | None = None,
        vm_id: str | None = None,
        arguments: Sequence[str] = (),
        log_path: str | os.PathLike[str] | None = None,
        start_timeout: float = 10.0,
        api_timeout: float = 30.0,
        stop_grace: float = 2.0,
    ) -> None:
        _api.check_extra()
        for argument in arguments:
            if argument.partition("=")[0] in _OURS:
                raise VmthawValueError(f"{argument} is set by vmthaw: leave it out of arguments")
        self._vm_id = check_id(vm_id if vm_id is not None else f"vmthaw-{secrets.token_hex(8)}")
        self._binary = find_binary(binary, "the Firecracker binary")
        self._jailer = find_binary(jail.jailer, "the jailer's binary") if jail is not None else None
        self._jail = jail
        self._arguments = list(arguments)
        self._log_path = log_path
        self._start_timeout, self._api_timeout, self._stop_grace = start_timeout, api_timeout, stop_grace
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._begun = False
        self._closed = False
        self._process: VmmProcess | None = None
        self._place: Place | None = None
        self._log: LogTail | None = None
        self._server: PageServer | None = None
        self._owns_server = False
        self._outputs = 0
        self._told_of_session = False
        self._told_of_its_end = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._vm_id}>"

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def vm_id(self) -> str:
        """The VM's id, also in the jail's path."""
        return self._vm_id

    @property
    def pid(self) -> int:
        """Firecracker's process id; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """None while it runs (and before); negative: the signal that ended it."""
        return self._process.exit_code if self._process is not None else None

    @property
    def root(self) -> Path:
        """What Firecracker sees as ``/``, seen from here: the place for disks in a jail; ``/`` without one."""
        if self._place is None:
            raise StateError(f"{self!r} has not been started")
        return self._place.root

    @property
    def server(self) -> PageServer | None:
        """The page server of its memory, once a snapshot is being loaded."""
        return self._server

    @property
    def session(self) -> PagerSession | None:
        """The session that serves this VM, once it has handed its memory over."""
        if self._server is None:
            return None
        found = [*self._server.sessions, *self._server.ended_sessions]
        mine = [session for session in found if session.pid == self.pid]
        return next(iter(mine or (found if self._owns_server else [])), None)

    def log_tail(self) -> str:
        """The last 20 lines that the process (and the guest's console) wrote. Never blocks."""
        return self._log.tail() if self._log is not None else ""

    # -- steps of the start ----------------------------------------------------------------------------------------

    def _check(self, *, running: bool = True) -> VmmProcess:
        if os.getpid() != self._owner_pid:
            raise ForkedError(f"{self!r} was started before fork(); it is inert in the child: start a new one here")
        if self._closed:
            raise StateError(f"{self!r} has been closed; make a new one")
        if self._process is None:
            raise StateError(f"{self!r} has not been started: call start(), or use it in a with statement")
        if running and (died := self._process.died("before the request", self._why())) is not None:
            raise died
        return self._process

    def _begin(self) -> bool:
        """True when it is the caller's to start."""
        with self._lock:
            if self._closed:
                raise StateError(f"{self!r} has been closed; make a new one")
            begun, self._begun = self._begun, True
        return not begun

    def _spawn(self) -> None:
        """Folder, log, process. What was made before an error is released by `_tear_down`."""
        _lifecycle.register(self)
        jail = self._jail
        self._place = Place() if jail is None else JailPlace(jail, self._binary, self._vm_id)
        own = ["--api-sock", self._place.api_argument, *self._arguments]
        if jail is not None and self._jailer is not None:
            command = jail.command(self._jailer, self._binary, self._vm_id, own)
        else:
            command = [self._binary, "--id", self._vm_id, *own]
        _lifecycle.ensure_drainer()
        self._log = LogTail(self._log_path)
        self._process = VmmProcess("Firecracker", self._log)
        self._process.start(command, self._place.cwd, self._place.orphan_folder)

    def _api_path(self) -> str | None:
        """The API socket once somebody listens there. Raises FirecrackerDiedError."""
        assert self._place is not None
        assert self._process is not None
        path = self._place.api_socket()
        if path is not None and _api.answers(path):
            return path
        if (died := self._process.died("while it started", self._why())) is not None:
            raise died
        return None

    # -- steps of a load -------------------------------------------------------------------------------------------

    def _begin_load(
        self,
        snapshot_path: str | os.PathLike[str],
        memory: Memory,
        options: LoadOptions,
        config: PagerConfig | None,
        layout: MemoryLayout | None,
        prewarm: PrewarmList | Iterable[int],
    ) -> ApiRequest:
        self._check()
        place = self._place
        assert place is not None
        if self._server is not None:
            raise StateError(f"{self!r} has loaded a snapshot already: one process restores one VM")
        check_file(Path(snapshot_path), "the VM's state")
        if isinstance(memory, PageServer):
            if config is not None or layout is not None or prewarm != ():
                raise VmthawValueError("config, layout and prewarm belong to the PageServer that was given")
            backend = place.inside(memory.socket_path)
            server = memory
        else:
            ours, backend = place.pages_socket()
            jail = self._jail
            server = PageServer(
                ours, memory, config=config, layout=layout, prewarm=prewarm,
                owner_uid=jail.uid if jail else None, owner_gid=jail.gid if jail else None,
                required_uid=jail.uid if jail else None,
            )  # fmt: skip
            self._owns_server = True
        self._server = server
        server.start()
        return options.request(place.bring_in(Path(snapshot_path)), backend)

    @contextlib.contextmanager
    def _ending_with_its_server(self) -> Iterator[None]:
        """Firecracker waits without a limit for memory that was refused: it is killed then, and the load fails."""
        server, process = self._server, self._process
        assert server is not None
        assert process is not None
        over = threading.Event()
        known = len(server.failures)

        def look() -> None:
            while not over.wait(_LOOK_S):
                try:
                    if len(server.failures) > known:
                        process.end(0)
                        return
                except VmthawError:
                    return  # the server was closed, or the process cannot be killed: the request's time-out remains

        thread = threading.Thread(target=look, name="vmthaw-load", daemon=True) if self._owns_server else None
        if thread is not None:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread is not None:
                thread.join()

    def _why(self) -> str:
        """What the page server knows about an end."""
        if self._server is None or not self._owns_server:
            return ""
        failures = self._server.failures
        return f"; the page server says: {failures[-1].text}" if failures else ""

    def _lost(self, request: ApiRequest, error: VmthawError) -> VmthawError:
        """The error of a connection that was lost, after a moment in which the process may have ended."""
        process = self._process
        assert process is not None
        if process.died("") is None:
            return error
        for _ in range(_TRIES):  # a page server kills before it says why
            if process.exit_code != -signal.SIGKILL or self._why():
                break
            time.sleep(_TRY_S)
        died = process.died(f"during {request}", self._why()) or error
        if self._why() and request.path == "/snapshot/load":
            failure = PageFailedError(f"{self!r} could not be given its memory{self._why()}")
            failure.__cause__ = died
            return failure
        return died

    def _check_end(self, code: int) -> int:
        if self._owns_server and self._server is not None:
            failures = [failure.text for failure in self._server.failures if failure.session]
            if failures:
                raise PageFailedError(f"{self!r} {describe_exit(code)}: {'; '.join(dict.fromkeys(failures[-4:]))}")
        return code

    def _output_paths(self, *paths: str | os.PathLike[str]) -> tuple[list[str], Callable[[], None]]:
        """Where Firecracker is to write, and what brings that to where it was asked for."""
        self._check()
        place = self._place
        assert place is not None
        targets = [(Path(path), number) for number, path in enumerate(paths, self._outputs)]
        self._outputs += len(targets)

        def take_out() -> None:
            for path, number in targets:
                place.take_out(path, number)

        return [place.output(path, number) for path, number in targets], take_out

    # -- events ------------------------------------------------------------------------------------------------------

    def _news(self) -> list[VmEvent]:
        server = self._server
        if server is None or not self._owns_server:
            return []
        found = {session.id: session.label for session in [*server.ended_sessions, *server.sessions]}
        events = []
        for event in server.events():
            text = f"{found.get(event.session, 'a VM')}: {event.kind.name.replace('_', ' ')}"
            if (news := of_session(event.t_ns, event.kind, text)) is not None:
                events.append(news)
                self._told_of_session = True
                self._told_of_its_end = self._told_of_its_end or news.kind is VmEventKind.closed
        return events

    def _event_fds(self) -> list[int]:
        """What becomes readable when there is news. Raises StateError once closed."""
        process = self._check(running=False)
        own = [self._server.fileno()] if self._server is not None and self._owns_server else []
        return [process.pidfd, *own]

    def _last_news(self) -> list[VmEvent]:
        """After the process has ended: what is left, and the end. The news of a session's end follow the end itself."""
        events = self._news()
        deadline = time.monotonic() + _NEWS_S
        while self._told_of_session and not self._told_of_its_end and time.monotonic() < deadline:
            time.sleep(_LOOK_S / 10)
            events += self._news()
        code = self.exit_code
        end = f"Firecracker (pid {self.pid}) {describe_exit(code if code is not None else 0)}"
        return [*events, VmEvent(time.monotonic_ns(), VmEventKind.exited, end)]

    # -- the end -----------------------------------------------------------------------------------------------------

    def _tear_down(self, grace: float) -> None:
        """Every step, whatever the others raise. Idempotent; nothing in a forked child."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.ExitStack() as steps:  # last first
            steps.callback(_lifecycle.unregister, self)
            if self._place is not None:
                steps.callback(self._place.remove)
            if self._process is not None:
                steps.callback(self._process.release)
            elif self._log is not None:
                steps.callback(self._log.close)
            if self._server is not None and self._owns_server:
                steps.callback(self._server.stop, "kill", timeout=0)
            if self._process is not None:
                steps.callback(self._process.end, grace)

    def close_at_exit(self) -> None:
        """For interpreter exit: at once."""
        self._tear_down(0)
