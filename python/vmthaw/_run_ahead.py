"""Work on threads, a little ahead of whoever takes its results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4


def run_ahead(
    work: Callable[[T], R], items: Iterable[T | None], name: str, threads: int | None
) -> Generator[R | None, None, None]:
    """`work(item)` for each item, in the items' order, on `threads` threads (None: one for each processor). None
    instead of an item is a result of None, for which no thread is asked.

    At most 4 items a thread are in hand, so results that nobody takes hold up the work. Raises what `work` raises, in
    its turn; then, or when the generator is closed, what has not begun is let go and what has is waited for: close it
    (contextlib.closing) before what the work uses goes.
    """
    threads = threads or len(os.sched_getaffinity(0))
    waiting: deque[Future[R] | None] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            for item in items:
                waiting.append(None if item is None else pool.submit(work, item))
                if len(waiting) > _AHEAD * threads:
                    yield _result(waiting)
            while waiting:
                yield _result(waiting)
        finally:
            for future in waiting:
                if future is not None:
                    future.cancel()


def _result(waiting: deque[Future[R] | None]) -> R | None:
    future = waiting.popleft()
    return None if future is None else future.result()
