"""The processes that are measured, and what processor time their threads take."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vmthaw._closing import Closing


def thread_cpu_ns(pid: int) -> int:
    """What all threads of a process have run so far, in ns, by schedstat (/proc/PID/stat counts in ticks of 10 ms)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended while we looked
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total


class JsonProcess(Closing):
    """A child that talks JSON lines. A session of its own: Ctrl-C is the parent's business; it ends with its stdin."""

    def __init__(self, module: str, arguments: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def line(self, timeout: float = 120.0) -> str:
        """The next line. Raises RuntimeError when the child ended or says nothing for `timeout` seconds."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise RuntimeError(f"{self._process.args!r} says nothing for {timeout} s")
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait(10)}")
        return text.rstrip("\n")

    def close(self) -> None:
        """Let the child end by itself, for 10 s at most. Idempotent."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except BaseException:
            self._process.kill()
            self._process.wait(10)
            raise
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()


class OurServer(JsonProcess):
    """`vmthaw.PageServer` in a process of its own."""

    def __init__(
        self,
        socket: Path,
        memory: Path,
        *,
        fill_mode: str = "window",
        fill_bytes: int = 2 << 20,
        placement: str = "automatic",
        cpu: int | None = None,
        retry: dict[str, Any] | None = None,
        python_source: dict[str, int] | None = None,
        object_store: str | None = None,
        by_page: bool = False,
        working_set: Path | None = None,
        working_set_mode: str = "alongside",
        trace_records: int = 0,
    ) -> None:
        super().__init__(
            "tests.benchmarks.server_child",
            {
                "socket": str(socket), "memory": str(memory), "fill_mode": fill_mode, "fill_bytes": fill_bytes,
                "placement": placement, "cpu": cpu, "retry": retry or {}, "python_source": python_source,
                "object_store": object_store, "by_page": by_page,
                "working_set": str(working_set) if working_set else None, "working_set_mode": working_set_mode,
                "trace_records": trace_records,
            },
        )  # fmt: skip
        try:
            self.line()
        except BaseException:
            self.close()
            raise

    def statistics(self) -> dict[str, int]:
        self.send()
        found: dict[str, int] = json.loads(self.line())
        return found

    def settled_statistics(self, timeout: float = 5.0) -> dict[str, int]:
        """Once they stand still: the last toucher goes on before its page is counted and the rest of a fill is done."""
        deadline = time.monotonic() + timeout
        found = self.statistics()
        while time.monotonic() < deadline:
            time.sleep(0.02)
            previous, found = found, self.statistics()
            if found == previous:
                break
        return found

    def wait_for_sessions(self, count: int, timeout: float = 10.0) -> None:
        """Until that many VMs are served. Raises RuntimeError when they are not in time."""
        deadline = time.monotonic() + timeout
        while self.statistics()["sessions"] < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server does not serve {count} VMs within {timeout} s")
            time.sleep(0.005)
