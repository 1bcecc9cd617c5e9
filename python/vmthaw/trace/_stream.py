"""An Arrow IPC stream on disk that is whole up to its last batch at every moment."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Self

from vmthaw.trace._columns import arrow
from vmthaw.trace._info import KEY, UPDATE_KEY, Gap, SessionInfo, TraceInfo, update_to_json
from vmthaw.trace._table import Table


class _WholeWrites:
    """A file for pyarrow: no buffer of its own, and a write is whole or raises (a short one would be a hole)."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.write(self.fd, view[done:])
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True


class StreamWriter:
    """Writes a table's batches; each carries what has become known since the last. One thread at a time. Raises
    OSError."""

    def __init__(self, path: Path, info: TraceInfo, table: Table, *, overwrite: bool) -> None:
        pa = arrow()
        self.path = path
        self.schema = table.schema({KEY: info.to_json()})
        how = os.O_TRUNC if overwrite else os.O_EXCL
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o644)
        try:
            self._writer = pa.ipc.new_stream(pa.PythonFile(_WholeWrites(self._fd), mode="w"), self.schema)
            # The schema itself is written with the first batch: an empty one makes the file a trace at once.
            self._writer.write_batch(pa.RecordBatch.from_pylist([], schema=self.schema))
        except BaseException:
            self.abandon()
            raise

    def write(self, batch: Any, sessions: list[SessionInfo], gaps: list[Gap]) -> None:
        """One batch, at once."""
        metadata = {UPDATE_KEY: update_to_json(sessions, gaps)} if sessions or gaps else None
        self._writer.write_batch(batch, custom_metadata=metadata)

    def close(self) -> None:
        """The end mark, and everything on the disk. Idempotent."""
        if self._fd >= 0:
            self._writer.close()
            os.fsync(self._fd)
            self.abandon()

    def abandon(self) -> None:
        """Without the end mark: what is written stays readable. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.abandon()


@contextlib.contextmanager
def replacing(path: Path) -> Any:
    """Gives a temporary name beside `path`; at the end that file is on the disk and has taken the name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
