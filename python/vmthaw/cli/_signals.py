"""Signals that end a command, kept for a loop that looks at them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signals_that_came() -> Iterator[list[str]]:
    """The names of those that came since, in order. Main thread only; the handlers are put back at the end."""
    came: list[str] = []
    old = {
        number: signal.signal(number, lambda number, _: came.append(signal.Signals(number).name)) for number in ENDING
    }
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
