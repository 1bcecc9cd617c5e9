"""The last lines that a VMM wrote: kept in memory from a pipe, or read from the file that it writes to itself."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from vmthaw import _lifecycle

_KEPT_BYTES = 64 << 10
_TURN_BYTES = 64 << 10
_SHOWN_LINES = 20
_SHOWN_BYTES = 4096


class LogTail:
    """Standard output and error of one process. With `path` it appends to that file; else 64 KiB are kept here.

    The guest's serial console goes there too, so what is kept is bounded, and a guest that floods it cannot hold
    anybody up: the shared drainer takes 64 KiB a turn. Text is for people: what is no UTF-8 or not printable is
    replaced.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = Path(path) if path is not None else None
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._reader = -1
        if self._path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._writer = os.open(self._path, flags, 0o600)
            self._start = os.fstat(self._writer).st_size
        else:
            self._start = 0
            self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._reader, False)

    @property
    def writer(self) -> int:
        """What the process gets as standard output and error."""
        return self._writer

    def started(self) -> None:
        """The process has its own copy of `writer`."""
        os.close(self._writer)
        self._writer = -1
        if self._reader >= 0:
            _lifecycle.watch(self._reader, self._take)

    def _take(self) -> None:
        """On the drainer's thread, or at the end."""
        with self._lock:
            if self._reader < 0:
                return
            try:
                data = os.read(self._reader, _TURN_BYTES)
            except BlockingIOError:
                return
            if not data:  # nobody has the other end any more
                self._close_reader()
                return
            self._kept += data
            del self._kept[:-_KEPT_BYTES]

    def _close_reader(self) -> None:
        _lifecycle.unwatch(self._reader)
        os.close(self._reader)
        self._reader = -1

    def tail(self) -> str:
        """The last 20 lines (4 KiB at most)."""
        if self._path is not None:
            data = self._from_file()
        else:
            self._take()
            with self._lock:
                data = bytes(self._kept[-_SHOWN_BYTES:])
        lines = data.decode("utf-8", "replace").splitlines()[-_SHOWN_LINES:]
        return "\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)

    def _from_file(self) -> bytes:
        assert self._path is not None
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(max(self._start, self._path.stat().st_size - _SHOWN_BYTES))
            return file.read(_SHOWN_BYTES)
        return b""

    def close(self) -> None:
        """Takes what is left. Idempotent; `tail` goes on."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        self._take()
        with self._lock:
            if self._reader >= 0:
                self._close_reader()
