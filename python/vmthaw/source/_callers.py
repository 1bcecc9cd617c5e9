"""The threads that call a `PythonSource`'s callable, and the event loop that awaits it where it is a coroutine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from vmthaw import _core, _drainer, _lifecycle
from vmthaw.source._answers import Answers, Request

JOIN_S = 2.0
_WAIT_S = 3600.0


class Callers:
    """Threads that take requests and call. They know the queue and the callable, not the source: a source that nobody
    holds any more closes the queue, which ends them. They hold this object, so that it is found at interpreter exit."""

    def __init__(self, queue: _core.RequestQueue, read: Callable[..., Any], answers: Answers, batch: int) -> None:
        self._queue = queue
        self._read = read
        self._answers = answers
        self._batch = batch
        self.threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Starts `count` threads. Raises VmthawOSError when one cannot be started; none is left behind then."""
        self._start([self._run] * count)

    def _start(self, bodies: Sequence[Callable[[], None]]) -> None:
        _lifecycle.register(self, _lifecycle.Stage.SOURCE)
        try:
            with _drainer.blocked_signals():
                for number, body in enumerate(bodies):
                    thread = threading.Thread(target=body, name=f"vmthaw-source-{number}", daemon=True)
                    thread.start()
                    self.threads.append(thread)
        except BaseException:
            self.close_at_exit()
            raise

    def join(self, timeout_s: float) -> bool:
        """Waits for the threads, but not for the calling one. False when the callable holds one up."""
        deadline = time.monotonic() + timeout_s
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(t.is_alive() for t in self.threads if t is not threading.current_thread())

    def close_at_exit(self) -> None:
        """Ends everything, for `_lifecycle`. Waits at most 2 s for the callable."""
        _lifecycle.unregister(self)
        self._queue.close()
        self.join(JOIN_S)

    def __repr__(self) -> str:
        return f"<threads of {self._answers.name}>"

    def _requests(self) -> list[Request]:
        """Those that wait, as soon as there is one; none only when the source is closed."""
        while not self._queue.closed:
            if found := self._queue.next_requests(_WAIT_S, self._batch):
                return found
        return []

    def _run(self) -> None:
        while requests := self._requests():
            try:
                given = self._read(*self._answers.arguments(requests))
            except BaseException as error:  # noqa: BLE001 - SystemExit too must not leave a guest waiting
                self._answers.fail(requests, error)
            else:
                self._answers.settle(requests, given)


class CoroutineCallers(Callers):
    """One thread takes requests, another runs an event loop with a task for each. A call that takes longer than
    `timeout` seconds is cancelled: its reader has given up."""

    def __init__(
        self,
        queue: _core.RequestQueue,
        read: Callable[..., Any],
        answers: Answers,
        batch: int,
        timeout: float,
    ) -> None:
        super().__init__(queue, read, answers, batch)
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, count: int) -> None:
        """Starts the two threads; `count` coroutines run at once. Errors as of `Callers.start`."""
        self._loop = loop = asyncio.new_event_loop()
        room = asyncio.Semaphore(count)
        try:
            self._start([lambda: self._take(loop, room), lambda: self._run_loop(loop)])
        except BaseException:
            if len(self.threads) < 2:  # nobody else closes it
                loop.close()
            raise

    def _take(self, loop: asyncio.AbstractEventLoop, room: asyncio.Semaphore) -> None:
        while requests := self._requests():
            loop.call_soon_threadsafe(self._spawn, loop, room, requests)
        loop.call_soon_threadsafe(loop.stop)

    def _spawn(self, loop: asyncio.AbstractEventLoop, room: asyncio.Semaphore, requests: list[Request]) -> None:
        task = loop.create_task(self._answer(room, requests))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, room: asyncio.Semaphore, requests: list[Request]) -> None:
        try:
            async with room, asyncio.timeout(self._timeout):
                given = await self._read(*self._answers.arguments(requests))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not leave a guest waiting
            self._answers.fail(requests, error)
        else:
            self._answers.settle(requests, given)

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            left = list(self._tasks)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
