"""What `vmthaw serve` says: JSON lines, plain lines, or plain lines above a live status line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

_FLUSH_S = 2.0
_CAPACITY_LINES = 10_000


class Output:
    """Where lines go. Any thread may write; nobody waits for a reader that does not read: lines are dropped then.

    A pipe that is full, or whose reader has gone, must not keep a server from its VMs.
    """

    live = False  # whether `refresh` shows anything

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_CAPACITY_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="vmthaw-output", daemon=True)
        self._thread.start()

    def event(self, kind: str, text: str, **fields: Any) -> None:
        """Something that happened: a sentence for people, fields for machines."""
        raise NotImplementedError

    def status(self, text: str, fields: Mapping[str, Any]) -> None:
        """How things are going, from time to time."""
        raise NotImplementedError

    def refresh(self, text: str) -> None:
        """The line that is always up to date, where there is one."""

    def log(self, record: logging.LogRecord) -> None:
        """A line of the library's log."""
        self.event("log", record.getMessage(), level=record.levelname.lower(), logger=record.name)

    def close(self) -> None:
        """Write what is waiting, for at most 2 s."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(_FLUSH_S)

    def put(self, line: str) -> None:
        """Queue one line."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except (OSError, ValueError):
                continue  # nobody reads any more: the VMs are served all the same

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class JsonOutput(Output):
    """One JSON object a line, on standard output."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def event(self, kind: str, text: str, **fields: Any) -> None:
        """``{"event": kind, "time": seconds since 1970, ...}``."""
        self.put(json.dumps({"event": kind, "time": round(time.time(), 6), "text": text, **fields}))

    def status(self, text: str, fields: Mapping[str, Any]) -> None:
        """An event ``stats``."""
        self.event("stats", text, **fields)


class PlainOutput(Output):
    """Lines with the time, on standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._last_status = ""

    def event(self, kind: str, text: str, **fields: Any) -> None:
        """The sentence, with what is serious marked."""
        level = str(fields.get("level", ""))
        mark = f"{level}: " if level in ("warning", "error", "critical") else ""
        self.put(f"{time.strftime('%H:%M:%S')} {mark}{text}")

    def status(self, text: str, fields: Mapping[str, Any]) -> None:
        """The sentence, when it is news."""
        if text != self._last_status:
            self._last_status = text
            self.event("stats", text)


class LiveOutput(PlainOutput):
    """For a terminal: the lines, and below them one that is always up to date."""

    live = True

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(Text(""), console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        super().__init__()

    def refresh(self, text: str) -> None:
        """Replace the line."""
        line = Text(text, no_wrap=True, overflow="ellipsis", style="bold")
        with contextlib.suppress(OSError, ValueError):
            self._live.update(line, refresh=True)

    def status(self, text: str, fields: Mapping[str, Any]) -> None:
        """Shown all the time already."""

    def close(self) -> None:
        """Take the line away."""
        super().close()
        with contextlib.suppress(OSError, ValueError):
            self._live.stop()

    def _write(self, line: str) -> None:
        self._console.print(Text(line))


class LogHandler(logging.Handler):
    """Takes the library's log lines to an `Output`."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits and never raises: it runs on the library's drainer."""
        try:
            self._output.log(record)
        except Exception:  # noqa: BLE001 - a log line must not disturb anything
            self.handleError(record)


def open_output(*, as_json: bool) -> Output:
    """JSON if asked for, a live line if standard error is a terminal, else plain lines."""
    if as_json:
        return JsonOutput()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveOutput()
    return PlainOutput()
