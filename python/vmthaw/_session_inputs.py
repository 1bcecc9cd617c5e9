"""What every hand-over is given: its source, and the working set that goes with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vmthaw import _core
from vmthaw._core import PageSource
from vmthaw.errors import VmthawValueError
from vmthaw.pager import PrewarmList
from vmthaw.server_values import HandoverInfo

if TYPE_CHECKING:  # numpy is imported when it is used
    import numpy as np
    from numpy.typing import NDArray

    from vmthaw.working_set import WorkingSet

SourceFactory = Callable[[HandoverInfo], PageSource]
WorkingSetFactory = Callable[[HandoverInfo], "WorkingSet | None"]

_log = logging.getLogger("vmthaw.server")


def guest_addresses(prewarm: PrewarmList | Iterable[int]) -> list[int]:
    """What the core is told to pre-warm."""
    return list(prewarm.guest_addresses() if isinstance(prewarm, PrewarmList) else prewarm)


def runs_of(working_set: WorkingSet | None) -> NDArray[np.uint64] | None:
    """What the core is told to install; None when there is nothing."""
    if working_set is None:
        return None
    from vmthaw.working_set import WorkingSet

    if not isinstance(working_set, WorkingSet):
        raise VmthawValueError(f"working_set must be a WorkingSet, not {type(working_set).__name__}")
    return working_set.runs() if len(working_set) else None


class SessionInputs:
    """The arguments `source` and `working_set` of a server: each one for all sessions, or a callable.

    Callables run on the drainer's thread, one hand-over after the other.
    """

    def __init__(self, source: PageSource | SourceFactory, working_set: WorkingSet | WorkingSetFactory | None) -> None:
        self._source = source
        self._working_set = working_set
        self._handovers = 0
        # With a callable among them the core asks for every session.
        self.asks = callable(source) or callable(working_set)

    @property
    def fixed_source(self) -> PageSource | None:
        return None if self.asks or not isinstance(self._source, PageSource) else self._source

    @property
    def fixed_runs(self) -> NDArray[np.uint64] | None:
        return None if callable(self._working_set) else runs_of(self._working_set)

    def provide(self, core: _core.PageServer, session: int, server: str) -> None:
        """Answers the core's question. A working set that cannot be had is no reason to do without the VM."""
        info = HandoverInfo(self._handovers)
        self._handovers += 1
        try:
            source = self._source if isinstance(self._source, PageSource) else self._source(info)
            if not isinstance(source, PageSource):
                raise TypeError(f"the source callable gave {type(source).__name__}, not a PageSource")
        except Exception as error:
            _log.exception("the source callable of %s raised", server)
            core.refuse_source(session, f"{type(error).__name__}: {error}")
            return
        runs = None
        if callable(self._working_set):
            try:
                runs = runs_of(self._working_set(info))
            except Exception:
                _log.exception("the working_set callable of %s raised; the VM is served without one", server)
        with contextlib.suppress(VmthawValueError):  # refused meanwhile: the server was stopped
            core.provide_source(session, source, runs)
