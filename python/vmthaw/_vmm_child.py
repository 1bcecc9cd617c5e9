"""The process behind `VmmProcess`: ``python -m vmthaw._vmm_child FD PARENT_PID``.

One machine; one request at a time, a line of JSON each way. A thread ends the process with its parent, by pidfd: the
kernel's signal for that (PR_SET_PDEATHSIG) would fire when only the parent's *thread* ends that started us.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from vmthaw.errors import StateError
from vmthaw.machine import Machine

_COMMANDS = ("ping", "fill", "verify", "touch", "rewrite", "spin", "load_vectors", "check_vectors", "finish")


def _end_with(parent: int) -> None:
    poller = select.poll()
    poller.register(parent, select.POLLIN)
    poller.poll()
    os._exit(0)


class _Child:
    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._operations: dict[str, Callable[..., Any]] = {
            "create": self._create,
            "restore": self._restore,
            "command": self._command,
            "snapshot": self._snapshot,
            "read": lambda **place: base64.b64encode(self._held().read(**place)).decode(),
            "write": lambda guest_address, data, timeout: self._held().write(
                guest_address, base64.b64decode(data), timeout=timeout
            ),
            "workload": self._workload,
        }

    def _held(self) -> Machine:
        if self._machine is None:
            raise StateError("the VMM has no machine; call create() or restore() first")
        return self._machine

    def _snapshot(self, directory: str, diff: bool, timeout: float) -> dict[str, Any]:
        machine = self._held()
        folder = machine.snapshot(directory, diff, timeout=timeout)
        return {"folder": str(folder), "pause_ns": machine.snapshot_pause_ns}

    def _workload(self) -> tuple[int, int, list[tuple[int, int, int, int]]]:
        return self._held().workload.as_tuple()

    def _replace(self, make: Callable[[], Machine]) -> Machine:
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        self._machine = make()
        return self._machine

    def _create(self, memory: int) -> None:
        self._replace(lambda: Machine(memory))

    def _restore(
        self, directory: str, lazy: Any, timeout: float, ping: bool, track_dirty: bool
    ) -> dict[str, int | None]:
        start = time.monotonic_ns()
        machine = self._replace(lambda: Machine.restore(directory, lazy=lazy, timeout=timeout, track_dirty=track_dirty))
        resumed = time.monotonic_ns()
        answered = None
        if ping and not machine.busy:
            machine.ping(timeout=timeout)
            answered = time.monotonic_ns() - start
        return {"resume_ns": resumed - start, "first_answer_ns": answered, "memory_bytes": machine.memory.size}

    def _command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name not in _COMMANDS:
            raise StateError(f"a guest knows the commands {', '.join(_COMMANDS)}, not {name!r}")
        return asdict(getattr(self._held(), name)(**arguments))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"id": request["id"]}
        try:
            reply["result"] = self._operations[request["op"]](**request["args"])
        except BaseException as error:
            text = error.strerror if isinstance(error, OSError) else None
            reply["error"] = {
                "class": type(error).__name__,
                "text": text or str(error),
                "errno": error.errno if isinstance(error, OSError) else None,
                "fields": {key: value for key, value in vars(error).items() if isinstance(value, (int, str))},
            }
        return reply


def main() -> None:
    """Answer requests until the parent closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.pidfd_open(int(sys.argv[2]))
    if os.getppid() != int(sys.argv[2]):
        os._exit(0)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    child = _Child()
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as lines:
        lines.write(b'{"ready": true}\n')
        lines.flush()
        for line in lines:
            lines.write(json.dumps(child.answer(json.loads(line))).encode() + b"\n")
            lines.flush()
    # A thread may be blocked in a page that nobody serves any more: no orderly exit can wait for it.
    os._exit(0)


if __name__ == "__main__":
    main()
