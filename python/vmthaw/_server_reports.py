"""What a `PageServer` tells about itself. Any thread; the GIL is released while the core's lock is taken."""

from __future__ import annotations

import os

from vmthaw import _core
from vmthaw._core import PagerSession, PagerStats
from vmthaw.errors import ForkedError
from vmthaw.server_values import Failure, ServerTotals


class ServerReports:
    """The part of `PageServer` that only looks."""

    _core: _core.PageServer
    _pid: int

    @property
    def sessions(self) -> list[PagerSession]:
        """The sessions that have not ended."""
        self._check_process()
        return list(self._core.sessions)

    @property
    def ended_sessions(self) -> list[PagerSession]:
        """The last 64 sessions that have ended, oldest first."""
        self._check_process()
        return list(self._core.ended_sessions)

    @property
    def stats(self) -> PagerStats:
        """The sum over all sessions that ever were."""
        return self.totals.stats

    @property
    def totals(self) -> ServerTotals:
        """Sums since the start, which never decrease: for counters of a monitoring system."""
        self._check_process()
        stats, refused, failed = self._core.totals()
        return ServerTotals(stats, self._core.session_count, refused, failed)

    @property
    def failures(self) -> list[Failure]:
        """Refused hand-overs and failed sessions, oldest first; the last 256."""
        self._check_process()
        return [Failure(*row) for row in self._core.failures()]

    def metrics(self) -> str:
        """The server's metrics in Prometheus' text format; see `vmthaw.metrics.render` for several servers."""
        from vmthaw.metrics import render
        from vmthaw.server import PageServer

        assert isinstance(self, PageServer)
        return render(self)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(f"{self!r} was made before fork(); it is inert in the child: make a new one here")
