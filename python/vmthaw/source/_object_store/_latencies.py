"""How long requests took lately."""

from __future__ import annotations

from bisect import insort
from collections import deque


class Latencies:
    """The last `capacity` of them, in seconds, and their 95th percentile. For one thread."""

    def __init__(self, capacity: int = 256, least: int = 16) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._capacity = capacity
        self._least = least

    def add(self, seconds: float) -> None:
        """One more; the oldest beyond the capacity goes."""
        self._recent.append(seconds)
        insort(self._sorted, seconds)
        if len(self._recent) > self._capacity:
            self._sorted.remove(self._recent.popleft())

    @property
    def p95(self) -> float | None:
        """None until there are enough to tell."""
        count = len(self._sorted)
        return self._sorted[min(count - 1, count * 95 // 100)] if count >= self._least else None
