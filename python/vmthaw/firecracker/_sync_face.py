"""`Firecracker`: one VM, for threads."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from vmthaw.errors import StateError, VmthawTimeoutError
from vmthaw.firecracker import _requests
from vmthaw.firecracker._api import ApiClient, ConnectionLostError
from vmthaw.firecracker._events import VmEvent
from vmthaw.firecracker._requests import ApiRequest, HugePages, LoadOptions, SnapshotKind
from vmthaw.firecracker._vm import Memory, VmBase
from vmthaw.pager import MemoryLayout, PagerConfig, PrewarmList

_END_S = 1.0
_TURN_S = 0.5


class Firecracker(VmBase):
    """One Firecracker process, and the page server of its memory.

    `binary` is a path or a name on PATH; with `jail` it runs under its jailer; `arguments` go to it as they are.
    What it writes (the guest's console too) is appended to `log_path`, or its last 64 KiB are kept for `log_tail`.
    `start_timeout`, `api_timeout` and `stop_grace` (between SIGTERM and SIGKILL) are seconds.

    A context manager: entering starts it, leaving ends it, its page server and its folder. It dies with this process,
    whatever ends that. Waits release the GIL and end with Ctrl-C; `close` may be called from any thread, at any time.

    Raises MissingExtraError without httpx; FileNotFoundError or PermissionError for the binaries; FirecrackerDiedError,
    with the last lines of its log, from whatever waits when the process ends; ApiRefusedError; VmthawTimeoutError.
    """

    _client: ApiClient | None = None

    def start(self) -> Self:
        """Starts the process and waits until its API answers. Idempotent. Leaves nothing behind when it fails."""
        if not self._begin():
            return self
        try:
            deadline = time.monotonic() + self._start_timeout
            self._spawn()
            assert self._process is not None
            pause = 0.001
            while (path := self._api_path()) is None:
                if time.monotonic() > deadline:
                    raise self._not_started()
                self._process.wait(pause)
                pause = min(2 * pause, 0.02)
            self._client = ApiClient(path)
            self._call(_requests.INSTANCE_INFO, max(0.1, deadline - time.monotonic()))
        except BaseException:
            self.close(grace=0)
            raise
        return self

    def _not_started(self) -> VmthawTimeoutError:
        tail = self.log_tail()
        more = f"; its last lines:\n{tail}" if tail else ""
        return VmthawTimeoutError(
            errno.ETIMEDOUT, f"{self!r}: no API socket within {self._start_timeout:g} s (start_timeout){more}"
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, request: ApiRequest, timeout: float | None = None) -> dict[str, Any]:
        process = self._check()
        if self._client is None:
            raise StateError(f"{self!r} has not been started")
        try:
            return self._client.request(request, self._api_timeout if timeout is None else timeout)
        except ConnectionLostError as error:
            process.wait(_END_S)
            raise self._lost(request, error) from error

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Any request of Firecracker's API (``"PATCH", "/drives/rootfs", {...}``): its JSON object, empty for 204.

        `timeout` in seconds, by default `api_timeout`. Raises ApiRefusedError, which has the status and the message.
        """
        return self._call(_requests.custom(method, path, body), timeout)

    def info(self) -> dict[str, Any]:
        """``id``, ``state`` (``Not started``, ``Running``, ``Paused``), ``vmm_version``, ``app_name``."""
        return self._call(_requests.INSTANCE_INFO)

    def load_snapshot(
        self,
        snapshot_path: str | os.PathLike[str],
        memory: Memory,
        *,
        resume: bool = True,
        track_dirty_pages: bool = False,
        network_overrides: Mapping[str, str] | None = None,
        vsock_override: str | None = None,
        clock_realtime: bool = False,
        huge_pages: HugePages | None = None,
        config: PagerConfig | None = None,
        layout: MemoryLayout | None = None,
        prewarm: PrewarmList | Iterable[int] = (),
        timeout: float | None = None,
    ) -> None:
        """Restores a VM, its memory served page by page, and returns once it is being served (and runs, with `resume`).

        `memory` is a page source, or a callable that gives one (see `PageServer`), for a server of its own; or a
        `PageServer`, which stays the caller's. In a jail the state file is copied in, the server's socket lies in it,
        belongs to its user and takes no other. `network_overrides` maps interfaces to host devices; the other options
        have the names of Firecracker's API and are not sent unless set, for older versions.

        After an error the VM is of no use: close it. Raises PageFailedError when the memory was refused.
        """
        limit = self._api_timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        options = LoadOptions(resume, track_dirty_pages, network_overrides, vsock_override, clock_realtime, huge_pages)
        request = self._begin_load(snapshot_path, memory, options, config, layout, prewarm)
        with self._ending_with_its_server():
            self._call(request, limit)
        assert self._server is not None
        self._server.ready(max(0.1, deadline - time.monotonic()))

    def pause(self) -> None:
        """Stops the vCPUs; works while one waits for a page."""
        self._call(_requests.vm_state("Paused"))

    def resume(self) -> None:
        """Lets the vCPUs run."""
        self._call(_requests.vm_state("Resumed"))

    def create_snapshot(
        self,
        snapshot_path: str | os.PathLike[str],
        memory_path: str | os.PathLike[str],
        kind: SnapshotKind = "full",
        *,
        timeout: float = 300.0,
    ) -> None:
        """Writes state and memory of the paused VM; existing files are replaced.

        A full snapshot reads every page through the page server. The memory file of a ``"diff"`` is sparse: holes are
        unchanged. In a jail both are written there and then copied out (holes kept); `timeout` (s) is Firecracker's.
        """
        (state, memory), take_out = self._output_paths(snapshot_path, memory_path)
        self._call(_requests.create_snapshot(state, memory, kind), timeout)
        take_out()

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the process's end: its exit code, negative for a signal.

        Raises VmthawTimeoutError, and PageFailedError when its own page server failed it.
        """
        code = self._check(running=False).wait(timeout)
        if code is None:
            raise VmthawTimeoutError(errno.ETIMEDOUT, f"{self!r} still runs after {timeout:g} s")
        return self._check_end(code)

    def watch(self, timeout: float | None = None) -> Iterator[VmEvent]:
        """Gives what happens, the last being ``exited``. With a server that was given, ``exited`` alone.

        Takes the server's events: use it or `PageServer.events`. Raises VmthawTimeoutError after `timeout` seconds.
        """
        process = self._check(running=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        while process.exit_code is None:
            yield from self._news()
            left = _TURN_S if deadline is None else min(_TURN_S, deadline - time.monotonic())
            if left <= 0:
                raise VmthawTimeoutError(errno.ETIMEDOUT, f"{self!r} still runs after {timeout:g} s")
            poller = select.poll()
            for fd in self._event_fds():
                poller.register(fd, select.POLLIN)
            poller.poll(left * 1000)
        yield from self._last_news()

    def close(self, *, grace: float | None = None) -> None:
        """Ends the process (SIGTERM, then SIGKILL after `grace` or `stop_grace` seconds), the page server, the folder.

        Idempotent, from any thread. A page server that was given goes on.
        """
        try:
            self._tear_down(self._stop_grace if grace is None else grace)
        finally:
            if self._client is not None:
                self._client.close()
