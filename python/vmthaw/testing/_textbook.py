"""The textbook page server in a process of its own: the baseline of benchmarks, and the base of wrong servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vmthaw._closing import Closing
from vmthaw.errors import VmthawError, VmthawTimeoutError

_CHILD = """
import json, sys
from vmthaw import _core
arguments = json.loads(sys.argv[1])
cpu = arguments.pop("cpu")
loop = _core.TextbookLoop(**arguments)
print("listening", flush=True)
print(json.dumps(loop.serve(cpu)), flush=True)
"""


class TextbookServer(Closing):
    """Serves one VM by the textbook: poll, read one message, copy one page from the mapped file.

    Runs in a child process; ``cpu`` pins it. Use it with ``with``; it ends when the VM hangs up. `stats` waits for that
    and gives faults, zero_pages, removes, retries and cpu_ns. The keyword arguments ``wrong_byte_at_fault``,
    ``wrong_page_at_fault``, ``lost_fault_at_fault`` (numbers from 1) and ``stale_after_remove`` make it wrong on
    purpose, for proving that a test would notice.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str],
        memory_path: str | os.PathLike[str],
        *,
        cpu: int | None = None,
        **mutations: Any,
    ) -> None:
        arguments = {
            "socket_path": os.fspath(socket_path), "memory_path": os.fspath(memory_path),
            "cpu": -1 if cpu is None else cpu, **mutations,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        try:
            if self._process.stdout.readline() != "listening\n":
                raise VmthawError(f"the textbook server did not start (exit status {self._process.wait(10)})")
        except BaseException:
            self.close()  # Ctrl-C too must not leave a server behind that waits for a VM for ever
            raise

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the server's process has used so far, by /proc."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stats(self, timeout: float = 10.0) -> dict[str, int]:
        """Wait until the VM has hung up and give the counters."""
        deadline = time.monotonic() + timeout
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise VmthawTimeoutError("the textbook server still serves: close or kill the VM first") from error
        assert self._process.stdout is not None
        result: dict[str, int] = json.loads(self._process.stdout.readline())
        return result

    def close(self) -> None:
        """Kill the server. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
