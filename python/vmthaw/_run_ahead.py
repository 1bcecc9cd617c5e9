"""Work on threads, a little ahead of whoever takes its results in order."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from vmthaw import _drainer, _lifecycle

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4
_GRACE_S = 0.5


@contextlib.contextmanager
def run_ahead(
    work: Callable[[T], R],
    items: Iterable[T | None],
    name: str,
    threads: int | None,
    give_up: Callable[[], object] = lambda: None,
) -> Generator[Iterator[R | None], None, None]:
    """`work(item)` for each item, in the items' order, on `threads` threads (None: one for each processor). None
    instead of an item is a result of None, for which no thread is asked.

    At most 4 items a thread are in hand, so results that nobody takes hold up the work. Raises what `work` raises, in
    its turn. At the end what has not begun is let go, and what has is waited for.

    Ctrl-C, here or in the ``with`` block, does not wait for what may never end: `give_up()` is called, which ends what
    it can of the work, and after half a second the work is left to itself. It must own what it uses, and find out from
    what `give_up` did that nobody wants it.
    """
    crew = _Crew(work, name, threads or len(os.sched_getaffinity(0)))
    try:
        try:
            yield crew.results(items)
        except Exception:
            crew.end(None)
            raise
        crew.end(None)
    except Exception:
        raise
    except BaseException:  # KeyboardInterrupt, also while the end was waited for
        give_up()
        crew.end(_GRACE_S)
        raise


class _Crew(Generic[T, R]):
    """Daemon threads, which the end of the process does not wait for: those of concurrent.futures would hold it up."""

    def __init__(self, work: Callable[[T], R], name: str, most: int) -> None:
        self._work = work
        self._name = name
        self._most = most
        self._tasks: queue.SimpleQueue[tuple[Future[R], T] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting: deque[Future[R] | None] = deque()

    def results(self, items: Iterable[T | None]) -> Iterator[R | None]:
        for item in items:
            if item is None:
                self._waiting.append(None)
            else:
                self._submit(item)
            if len(self._waiting) > _AHEAD * self._most:
                yield self._next()
        while self._waiting:
            yield self._next()

    def end(self, timeout_s: float | None) -> None:
        """Lets go of what has not begun, and waits for what has. Work that takes longer is left to itself."""
        for future in self._waiting:
            if future is not None:
                future.cancel()
        self._waiting.clear()
        self._tasks.put(None)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _lifecycle.register(self, _lifecycle.Stage.SOURCE)  # the threads hold it as long as they run

    def close_at_exit(self) -> None:
        """For `_lifecycle`: work whose source was closed just now ends before the interpreter does."""
        self.end(_GRACE_S)

    def _submit(self, item: T) -> None:
        """In an order that lets `end` know of everything, wherever Ctrl-C falls."""
        future: Future[R] = Future()
        self._waiting.append(future)
        self._tasks.put((future, item))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            with _drainer.blocked_signals():
                thread.start()

    def _next(self) -> R | None:
        future = self._waiting[0]
        result = None if future is None else future.result()
        self._waiting.popleft()  # only now: `end` lets go of all that is left
        return result

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, item = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._work(item))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is taken
                future.set_exception(error)
            del task, future, item  # not held while the next one is waited for
        self._tasks.put(None)  # for the next thread
