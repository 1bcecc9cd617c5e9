"""Coroutines that wait for news from the drainer's thread, without a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class AsyncWaiters:
    """Wakes coroutines of any number of event loops. `wake` is for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until `done()`, which is asked at the start and after every `wake`. False after `timeout` seconds."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                while not done():
                    await waiter[1].wait()
                    waiter[1].clear()
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiters.remove(waiter)
        return True

    def wake(self) -> None:
        """Has every waiting coroutine look again."""
        with self._lock:
            for loop, event in self._waiters:
                with contextlib.suppress(RuntimeError):  # a loop that was closed while we waited in it
                    loop.call_soon_threadsafe(event.set)
