"""Waiting for something to become true, without sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 10.0, interval: float = 0.002, what: str = "") -> T:
    """Poll `predicate` until it gives something truthy and return that.

    `timeout` and `interval` in seconds. Raises AssertionError with `what` (or the predicate's name) at the deadline.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not true within {timeout:g} s: {name} (last value: {value!r})")
        time.sleep(interval)
