"""`PythonSource`: a source whose bytes a callable gives, and the threads that call it."""

from __future__ import annotations

import errno
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from vmthaw import _core, _drainer, _lifecycle
from vmthaw._core import ExtentKind
from vmthaw.errors import StateError, VmthawValueError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PythonSource"]

ReadCallable: TypeAlias = "Callable[[int, int], Buffer]"

_log = logging.getLogger("vmthaw.source")
_WAIT_S = 3600.0
_JOIN_S = 2.0
_DISTINCT_MESSAGES = 256


class _Workers:
    """The threads of one `PythonSource`. They know the queue and the callable, not the source: a source that nobody
    holds any more closes the queue, which ends them. They hold this object, so that it is found at interpreter exit."""

    def __init__(self, queue: _core.RequestQueue, read: ReadCallable, name: str) -> None:
        self._queue = queue
        self._read = read
        self._name = name
        self._messages: set[str] = set()
        self.threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Starts `count` threads. Raises VmthawOSError when one cannot be started; none is left behind then."""
        _lifecycle.register(self, _lifecycle.Stage.SOURCE)
        try:
            with _drainer.blocked_signals():
                for number in range(count):
                    thread = threading.Thread(target=self._run, name=f"vmthaw-source-{number}", daemon=True)
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
        self.join(_JOIN_S)

    def __repr__(self) -> str:
        return f"<threads of PythonSource {self._name}>"

    def _run(self) -> None:
        while True:
            request = self._queue.next_request(_WAIT_S)
            if request is not None:
                self._answer(*request)
            elif self._queue.closed:
                return

    def _answer(self, request_id: int, offset: int, size: int) -> None:
        """Calls the callable once. Raises nothing: the thread serves the next request whatever happens."""
        where = f"{size} bytes at offset {offset:#x} of python:{self._name}"
        try:
            data = self._read(offset, size)
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not leave a guest waiting
            number = error.errno if isinstance(error, OSError) else None
            self._queue.fail(request_id, number or errno.EIO)
            self._report(f"reading {where} raised {type(error).__name__}", error)
            return
        try:
            given = memoryview(data).nbytes
            self._queue.complete(request_id, data)
        except BaseException as error:  # noqa: BLE001 - whatever came back was no buffer
            self._queue.fail(request_id, errno.EIO)
            self._report(f"reading {where} gave {type(data).__name__}, not contiguous bytes", error)
            return
        if given != size:
            self._report(f"reading {where} gave {given} bytes", None)

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


class PythonSource(_core.PythonSource):
    """A source whose bytes a Python callable gives: ``read(offset: int, size: int) -> bytes-like``, both in bytes.

    The callable runs on `threads` daemon threads (and so on several at once when there is more than one), never on a
    thread that handles faults. It must give exactly `size` bytes: fewer are a `ShortReadError` of that read. What it
    raises becomes a `SourceIoError` (an OSError keeps its errno, anything else is EIO) and is logged by
    ``vmthaw.source``, once per distinct message. A read that is not answered within `timeout` seconds fails with
    ETIMEDOUT; at most `max_queued` reads wait to be taken.

    It must not touch guest memory that this process serves: the page it waits for would be its own to give.

    `extents` (rows of offset, size and kind, for instance what `extents()` of another source gives) tell data from
    zeros; zeros are never asked for. Without it everything is data. `name` is for messages.

    Raises VmthawValueError for arguments that cannot be right. In a forked child the source is inert.
    """

    def __init__(
        self,
        callable: ReadCallable,  # noqa: A002 - the name says what it is
        size: int,
        extents: Iterable[Any] | None = None,
        threads: int = 1,
        name: str | None = None,
        *,
        timeout: float = 30.0,
        max_queued: int = 64,
    ) -> None:
        if not _is_callable(callable):
            raise VmthawValueError(f"the source's callable is a {type(callable).__name__}, which cannot be called")
        if not 1 <= threads <= 1024:
            raise VmthawValueError(f"threads is {threads}; it must be from 1 to 1024")
        if name is None:
            name = str(getattr(callable, "__qualname__", type(callable).__name__))
        rows = None if extents is None else [_row(extent) for extent in extents]
        super().__init__(size, rows, name, timeout, max_queued)
        self._workers = _Workers(self.requests, callable, name)
        self._workers.start(threads)

    def read(self, offset: int, size: int) -> bytes:
        """As `PageSource.read`. Raises StateError on the source's own threads, which would wait for themselves."""
        if threading.current_thread() in self._workers.threads:
            raise StateError(f"{self.description} was read by its own callable, which would wait for itself")
        return super().read(offset, size)

    def close(self) -> None:
        """Ends waiting reads, then waits up to 2 s for the threads; a callable that is stuck is left alone, and named
        in the log. Idempotent; may be called by the callable itself."""
        super().close()
        if self.inherited:
            return
        _lifecycle.unregister(self._workers)
        if not self._workers.join(_JOIN_S):
            _log.warning("%s was closed while its callable runs; its thread ends when that returns", self.description)


def _is_callable(thing: object) -> bool:
    return callable(thing)


def _row(extent: Any) -> tuple[int, int, int]:
    try:
        offset, size, kind = extent
        number = ExtentKind[kind] if isinstance(kind, str) else ExtentKind(int(kind))
        return int(offset), int(size), int(number)
    except (TypeError, ValueError, KeyError) as error:
        raise VmthawValueError(
            f"{extent!r} is no extent: give (offset, size, kind) with the kind data or zero"
        ) from error
