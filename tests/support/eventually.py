"""Waiting for something to become true, without sleeping for luck."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# Under software emulation everything takes longer: tests/vm/run_tests sets it.
PATIENCE = float(os.environ.get("VMTHAW_TEST_PATIENCE", "1"))


def eventually(predicate: Callable[[], T], timeout: float = 10.0, interval: float = 0.002, what: str = "") -> T:
    """Poll `predicate` until it gives something truthy and return that.

    `timeout` (times VMTHAW_TEST_PATIENCE) and `interval` in seconds. Raises AssertionError with `what` (or the
    predicate's name) at the deadline.
    """
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not true within {timeout:g} s: {name} (last value: {value!r})")
        time.sleep(interval)
