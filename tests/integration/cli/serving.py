"""`vmthaw serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.eventually import eventually

WAIT_S = 20.0


class Serving:
    """Starts `vmthaw serve` and waits until it listens. Kills it at the end of the ``with`` block."""

    def __init__(
        self,
        socket: Path,
        memory: Path | str,
        *options: str,
        as_json: bool = True,
        command: str = "serve",
        **popen: Any,
    ) -> None:
        self.socket = socket
        arguments = [sys.executable, "-m", "vmthaw", command, "--memory", str(memory), *options]
        if "--socket-fd" not in options and "env" not in popen:
            arguments += ["--socket", str(socket)]
        if as_json:
            arguments.append("--json")
        self._popen = popen
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        def listens() -> bool:
            assert self.process.poll() is None, self.errors
            return any("serving " in line for line in [*self.lines, *self.errors])

        try:
            eventually(listens, WAIT_S)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))  # noqa: PERF401 - it is read while it grows
        stream.close()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every line so far; each must be JSON."""
        return [json.loads(line) for line in list(self.lines)]

    def named(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def until(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Waits for `count` events of a kind."""
        eventually(lambda: len(self.named(kind)) >= count, WAIT_S, what=f"{count} events {kind!r}")
        return self.named(kind)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, once everything that was written is here."""
        code = self.process.wait(WAIT_S)
        for reader in self._readers:
            reader.join(WAIT_S)
        assert not any("Traceback" in line for line in self.errors), self.errors
        return code

    def kill(self) -> None:
        """SIGKILL. Idempotent."""
        self.process.kill()
        self.process.wait(WAIT_S)
        for reader in self._readers:
            reader.join(WAIT_S)


def environment(**variables: str) -> dict[str, str]:
    """Ours, with some more."""
    return {**os.environ, **variables}
