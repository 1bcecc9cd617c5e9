"""What a `PythonSource`'s callable gave or raised, as answers to the reads that wait for it."""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Sequence
from typing import Any, TypeAlias

from vmthaw import _core

Request: TypeAlias = "tuple[int, int, int]"
"""Id, offset and size in bytes."""

_log = logging.getLogger("vmthaw.source")
_DISTINCT_MESSAGES = 256
_MOST_SAID = 1000


class Answers:
    """Answers each request once, whatever comes. Nothing is raised: the threads serve the next one. Any thread."""

    def __init__(self, queue: _core.RequestQueue, name: str, *, batches: bool) -> None:
        self._queue = queue
        self.name = f"python:{name}"
        self._batches = batches
        self._messages: set[str] = set()

    def arguments(self, requests: Sequence[Request]) -> tuple[Any, ...]:
        """What the callable is called with."""
        if self._batches:
            return ([(offset, size) for _, offset, size in requests],)
        return requests[0][1:]

    def settle(self, requests: Sequence[Request], given: Any) -> None:
        """With what the callable gave: one buffer, or of a batch one for each (an exception fails its own read)."""
        if not self._batches:
            self._settle_one(requests[0], given)
            return
        try:
            parts = list(given)
        except BaseException as error:  # noqa: BLE001 - an iterable of theirs runs their code
            self.fail(requests, error)
            return
        for request, part in zip(requests, parts, strict=False):
            if isinstance(part, BaseException):
                self.fail([request], part)
            else:
                self._settle_one(request, part)
        if len(parts) != len(requests):
            for number, _, _ in requests[len(parts) :]:
                self._queue.fail(number, errno.EIO)
            self._report(f"a batch of {len(requests)} reads of {self.name} gave {len(parts)} answers", None)

    def fail(self, requests: Sequence[Request], error: BaseException) -> None:
        """With what it raised: the errno of an OSError, ETIMEDOUT of a bare TimeoutError, else EIO."""
        number = error.errno if isinstance(error, OSError) else None
        if number is None and isinstance(error, TimeoutError):
            number = errno.ETIMEDOUT
        why = _said(error)
        for request, _, _ in requests:
            self._queue.fail(request, number or errno.EIO, why)
        where = self._place(requests[0])
        if len(requests) > 1:
            where = f"{len(requests)} ranges, the first of them {where}"
        self._report(f"reading {where} raised {type(error).__name__}", error)

    def _settle_one(self, request: Request, data: Any) -> None:
        number, _, size = request
        try:
            given = memoryview(data).nbytes
            self._queue.complete(number, data)
        except BaseException as error:  # noqa: BLE001 - whatever came back was no buffer
            self._queue.fail(number, errno.EIO)
            self._report(f"reading {self._place(request)} gave {type(data).__name__}, not contiguous bytes", error)
            return
        if given != size:
            self._report(f"reading {self._place(request)} gave {given} bytes", None)

    def _place(self, request: Request) -> str:
        return f"{request[2]} bytes at offset {request[1]:#x} of {self.name}"

    def _report(self, what: str, error: BaseException | None) -> None:
        """Logs once per distinct message of the exception, so that a source that fails for good does not flood."""
        try:
            key = what if error is None else f"{type(error).__name__}: {error}"
            if key in self._messages or len(self._messages) >= _DISTINCT_MESSAGES:
                return
            self._messages.add(key)
            _log.error("%s", what, exc_info=error)
        except BaseException:  # noqa: BLE001 - a handler (or __str__) that raises must not end the thread
            if logging.raiseExceptions:
                traceback.print_exc()


def _said(error: BaseException) -> str:
    """One line for the errors of those that read; the log has the rest."""
    try:
        text = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        return str(text).partition("\n")[0][:_MOST_SAID]
    except BaseException:  # noqa: BLE001 - a __str__ of theirs runs their code
        return type(error).__name__
