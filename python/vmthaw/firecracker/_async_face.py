"""`AsyncFirecracker`: the same as `Firecracker`, for asyncio."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from vmthaw.errors import StateError, VmthawTimeoutError
from vmthaw.firecracker import _requests
from vmthaw.firecracker._api import AsyncApiClient, ConnectionLostError
from vmthaw.firecracker._events import VmEvent
from vmthaw.firecracker._requests import ApiRequest, HugePages, LoadOptions, SnapshotKind
from vmthaw.firecracker._vm import Memory, VmBase
from vmthaw.pager import MemoryLayout, PagerConfig, PrewarmList

_END_S = 1.0
_TURN_S = 0.5
_T = TypeVar("_T")


async def _to_its_end(function: Callable[[], _T]) -> _T:
    """Runs it in a thread. A cancellation is passed on, but only after it has ended: half a start would leak a VM."""
    task = asyncio.ensure_future(asyncio.to_thread(function))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001 - it is the task's own, and raised below
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain
        raise cancelled
    return task.result()


async def _readable(fds: Iterable[int], timeout: float) -> None:
    """Until one is readable, or `timeout` seconds are over. By duplicates: a loop takes a descriptor only once."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    copies = [os.dup(fd) for fd in fds]
    try:
        for copy in copies:
            loop.add_reader(copy, event.set)
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            pass
    finally:
        for copy in copies:
            loop.remove_reader(copy)
            os.close(copy)


class AsyncFirecracker(VmBase):
    """`Firecracker` for asyncio: the same arguments, properties and errors; what waits there is a coroutine here.

    An asynchronous context manager. A cancelled task leaves nothing behind: leaving it ends the VM first and passes the
    cancellation on afterwards, within `stop_grace` and a little. One VM belongs to one event loop.
    """

    _client: AsyncApiClient | None = None

    async def start(self) -> Self:
        """See `Firecracker.start`."""
        if not self._begin():
            return self
        try:
            deadline = time.monotonic() + self._start_timeout
            await _to_its_end(self._spawn)
            process = self._check(running=False)
            pause = 0.001
            while (path := self._api_path()) is None:
                if time.monotonic() > deadline:
                    tail = self.log_tail()
                    more = f"; its last lines:\n{tail}" if tail else ""
                    raise VmthawTimeoutError(
                        errno.ETIMEDOUT,
                        f"{self!r}: no API socket within {self._start_timeout:g} s (start_timeout){more}",
                    )
                await _readable([process.pidfd], pause)
                pause = min(2 * pause, 0.02)
            self._client = AsyncApiClient(path)
            await self._call(_requests.INSTANCE_INFO, max(0.1, deadline - time.monotonic()))
        except BaseException:
            await self.close(grace=0)
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, request: ApiRequest, timeout: float | None = None) -> dict[str, Any]:
        process = self._check()
        if self._client is None:
            raise StateError(f"{self!r} has not been started")
        try:
            return await self._client.request(request, self._api_timeout if timeout is None else timeout)
        except ConnectionLostError as error:
            await _readable([process.pidfd], _END_S)
            raise self._lost(request, error) from error

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """See `Firecracker.request`."""
        return await self._call(_requests.custom(method, path, body), timeout)

    async def info(self) -> dict[str, Any]:
        """See `Firecracker.info`."""
        return await self._call(_requests.INSTANCE_INFO)

    async def load_snapshot(
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
        """See `Firecracker.load_snapshot`."""
        limit = self._api_timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        options = LoadOptions(resume, track_dirty_pages, network_overrides, vsock_override, clock_realtime, huge_pages)
        request = await _to_its_end(lambda: self._begin_load(snapshot_path, memory, options, config, layout, prewarm))
        with self._ending_with_its_server():
            await self._call(request, limit)
        assert self._server is not None
        await self._server.ready_async(max(0.1, deadline - time.monotonic()))

    async def pause(self) -> None:
        """See `Firecracker.pause`."""
        await self._call(_requests.vm_state("Paused"))

    async def resume(self) -> None:
        """See `Firecracker.resume`."""
        await self._call(_requests.vm_state("Resumed"))

    async def create_snapshot(
        self,
        snapshot_path: str | os.PathLike[str],
        memory_path: str | os.PathLike[str],
        kind: SnapshotKind = "full",
        *,
        timeout: float = 300.0,
    ) -> None:
        """See `Firecracker.create_snapshot`."""
        (state, memory), take_out = self._output_paths(snapshot_path, memory_path)
        await self._call(_requests.create_snapshot(state, memory, kind), timeout)
        await _to_its_end(take_out)

    async def wait(self, timeout: float | None = None) -> int:
        """See `Firecracker.wait`."""
        process = self._check(running=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := process.exit_code) is None:
            left = 60.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise VmthawTimeoutError(errno.ETIMEDOUT, f"{self!r} still runs after {timeout:g} s")
            await _readable([process.pidfd], left)
        return self._check_end(code)

    async def watch(self, timeout: float | None = None) -> AsyncIterator[VmEvent]:
        """See `Firecracker.watch`."""
        process = self._check(running=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        while process.exit_code is None:
            for event in self._news():
                yield event
            left = _TURN_S if deadline is None else min(_TURN_S, deadline - time.monotonic())
            if left <= 0:
                raise VmthawTimeoutError(errno.ETIMEDOUT, f"{self!r} still runs after {timeout:g} s")
            await _readable(self._event_fds(), left)
        for event in await _to_its_end(self._last_news):
            yield event

    async def close(self, *, grace: float | None = None) -> None:
        """See `Firecracker.close`. Not cut short by a cancellation, which is passed on afterwards."""
        try:
            await _to_its_end(lambda: self._tear_down(self._stop_grace if grace is None else grace))
        finally:
            if self._client is not None:
                await self._client.close()
