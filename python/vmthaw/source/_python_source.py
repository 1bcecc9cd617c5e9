"""`PythonSource`: a source whose bytes a callable gives, and the threads that call it."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from vmthaw import _core, _lifecycle
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.source._answers import Answers
from vmthaw.source._callers import JOIN_S, Callers, CoroutineCallers
from vmthaw.source._extent_rows import extent_rows

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PythonSource"]

ReadCallable: TypeAlias = "Callable[[int, int], Buffer | Awaitable[Buffer]]"
BatchCallable: TypeAlias = (
    "Callable[[list[tuple[int, int]]], Sequence[Buffer | Exception] | Awaitable[Sequence[Buffer | Exception]]]"
)

_MOST_IN_A_BATCH = 4096
_log = logging.getLogger("vmthaw.source")


class PythonSource(_core.PythonSource):
    """A source whose bytes a Python callable gives: ``read(offset: int, size: int) -> bytes-like``, both in bytes.

    The callable runs on `threads` daemon threads (and so on several at once when there is more than one), never on a
    thread that handles faults. It must give exactly `size` bytes: fewer are a `ShortReadError` of that read. What it
    raises becomes a `SourceIoError` (an OSError keeps its errno, anything else is EIO) and is logged by
    ``vmthaw.source``, once per distinct message. A read that is not answered within `timeout` seconds fails with
    ETIMEDOUT; at most `max_queued` reads wait to be taken.

    A coroutine function is awaited instead, on one thread with an event loop, `threads` calls at once; one that takes
    longer than `timeout` is cancelled. With a `batch` above 1 the callable gets what waits, up to so many reads, in one
    call: ``read([(offset, size), ...])``, and gives a buffer (or an exception, for that read alone) for each, in order.

    It must not touch guest memory that this process serves: the page it waits for would be its own to give.

    `extents` (rows of offset, size and kind, for instance what `extents()` of another source gives) tell data from
    zeros. They cover the memory, in order; their bounds may lie at any byte. Pages of zeros are never asked for; one
    that is data in part counts as data: the callable is asked for all of it, its zeros included. Without `extents`
    everything is data. Behind the last of the `size` bytes are zeros to the end of its page, which are not asked for
    either. `name` is for messages.

    Raises VmthawValueError for arguments that cannot be right. In a forked child the source is inert.
    """

    def __init__(
        self,
        callable: ReadCallable | BatchCallable,  # noqa: A002 - the name says what it is
        size: int,
        extents: Iterable[Any] | None = None,
        threads: int = 1,
        name: str | None = None,
        *,
        timeout: float = 30.0,
        max_queued: int = 64,
        batch: int = 1,
    ) -> None:
        if not _is_callable(callable):
            raise VmthawValueError(f"the source's callable is a {type(callable).__name__}, which cannot be called")
        if not 1 <= threads <= 1024:
            raise VmthawValueError(f"threads is {threads}; it must be from 1 to 1024")
        if not 1 <= batch <= _MOST_IN_A_BATCH:
            raise VmthawValueError(f"batch is {batch}; it must be from 1 to {_MOST_IN_A_BATCH}")
        if name is None:
            name = str(getattr(callable, "__qualname__", type(callable).__name__))
        super().__init__(size, extent_rows(extents), name, timeout, max_queued)
        answers = Answers(self.requests, name, batches=batch > 1)
        self._callers = (
            CoroutineCallers(self.requests, callable, answers, batch, timeout)
            if _is_coroutine(callable)
            else Callers(self.requests, callable, answers, batch)
        )
        self._callers.start(threads)

    def read(self, offset: int, size: int) -> bytes:
        """As `PageSource.read`. Raises StateError on the source's own threads, which would wait for themselves."""
        if threading.current_thread() in self._callers.threads:
            raise StateError(f"{self.description} was read by its own callable, which would wait for itself")
        return super().read(offset, size)

    def close(self) -> None:
        """Ends waiting reads, then waits up to 2 s for the threads; a callable that is stuck is left alone, and named
        in the log. Idempotent; may be called by the callable itself."""
        super().close()
        if self.inherited:
            return
        _lifecycle.unregister(self._callers)
        if not self._callers.join(JOIN_S):
            _log.warning("%s was closed while its callable runs; its thread ends when that returns", self.description)


def _is_callable(thing: object) -> bool:
    return callable(thing)


def _is_coroutine(thing: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(thing) or inspect.iscoroutinefunction(type(thing).__call__)
