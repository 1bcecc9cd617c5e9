"""What a server did, for the working set and for the pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmthaw.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmthaw.server import PageServer
    from vmthaw.trace import TraceRecorder

_MOST_RECORDS = 1 << 20


class Recording:
    """The fault records of one restore: in memory, and in a trace file below `output` where the libraries are there."""

    def __init__(self, output: Path | None, stem: str, title: str) -> None:
        self.path = output / f"{stem}.parquet" if output is not None else None
        self._title = title
        self.records: NDArray[Any] | None = None
        self.missing: MissingExtraError | None = None
        self._server: PageServer | None = None
        self._recorder: TraceRecorder | None = None

    @contextlib.contextmanager
    def of(self, server: PageServer) -> Iterator[None]:
        """Records what `server` does, until `stop` or the end of the block."""
        self._server = server
        server.enable_trace(live=_MOST_RECORDS)
        if self.path is not None:
            from vmthaw.trace import TraceRecorder

            try:
                self._recorder = TraceRecorder(self.path, server, overwrite=True, notes={"title": self._title}).start()
            except MissingExtraError as error:
                self.missing = error
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """What comes later does not count. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        self.records = server.trace()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.stop()
