"""Waits for what obstore was asked, at interpreter exit too."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Awaitable
from typing import Any, TypeVar

from vmthaw import _lifecycle

T = TypeVar("T")

_LET_GO_S = 0.5
_LOOK_S = 0.0002


class _Asked:
    """What obstore's threads hold. They need the interpreter once more after an answer has come, or after the request
    was cancelled; if it had ended by then, they would abort the process or print that they panicked."""

    def __init__(self) -> None:
        self.futures: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()

    def close_at_exit(self) -> None:
        """Waits until they let go; that takes less than a millisecond where nothing is wrong."""
        deadline = time.monotonic() + _LET_GO_S
        while len(self.futures) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)


_asked = _Asked()
os.register_at_fork(after_in_child=_asked.futures.clear)


async def answer_to(asked: Awaitable[T]) -> T:
    """What obstore's coroutine gives or raises."""
    waiting: asyncio.Future[T] = asyncio.ensure_future(asked)
    del asked
    _asked.futures.add(waiting)
    try:
        return await waiting
    finally:
        del waiting  # an exception's traceback must not keep it


def wait_at_exit() -> None:
    """Has the interpreter's end wait for what was asked, in this process."""
    _lifecycle.register(_asked, _lifecycle.Stage.FOREIGN)
