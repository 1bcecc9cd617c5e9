"""The process in which the VMs of a `FakeVmm` live: ``python -m vmthaw.testing._fake_vmm_child FD PARENT_PID``.

Each request runs in a thread of its own, in C++ with the GIL released, so that a VM that waits for a page holds up no
other. It ends with its parent, by pidfd: PR_SET_PDEATHSIG would also fire when only the parent's *thread* ends that
started it.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import sys
import threading
from array import array
from collections.abc import Callable
from typing import Any

from vmthaw import _core
from vmthaw.testing._wire import FrameReader, encode


class _Child:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._vms: dict[int, _core.FakeVmmCore] = {}
        self._operations: dict[str, Callable[..., Any]] = {
            "handover": lambda vm, **kw: vm.handover(**kw),
            "handover_text": lambda vm, **kw: vm.handover_text(**kw),
            "verify": lambda vm, **kw: vm.verify(**kw),
            "remove": lambda vm, **kw: vm.remove(**kw),
            "unmap": lambda vm, **kw: vm.unmap(**kw),
            "remap": lambda vm, **kw: vm.remap(**kw),
            "storm": lambda vm, **kw: vm.storm(**kw),
            "close_socket": lambda vm: vm.close_socket(),
            "close_userfaultfd": lambda vm: vm.close_userfaultfd(),
            "peer_has_hung_up": lambda vm: vm.peer_has_hung_up(),
            "resident_pages": lambda vm: vm.resident_pages(),
        }

    def serve(self, parent: int) -> None:
        reader = FrameReader()
        poller = select.poll()
        poller.register(parent, select.POLLIN)
        poller.register(self._connection, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if parent in ready or not reader.receive(self._connection):
                return
            while (frame := reader.next_frame()) is not None:
                threading.Thread(target=self._answer, args=frame, daemon=True).start()

    def _answer(self, request: dict[str, Any], payload: bytes) -> None:
        reply: dict[str, Any] = {"id": request["id"]}
        data = b""
        try:
            result = self._perform(request["op"], request["vm"], request["args"], payload)
            if isinstance(result, dict):
                data = result.pop("latencies_ns", b"")
            reply["result"] = result
        except BaseException as error:
            reply["error"] = {"class": type(error).__name__, "text": str(error), "errno": getattr(error, "errno", None)}
            if isinstance(error, OSError):
                reply["error"]["text"] = error.strerror or str(error)
        frame = encode(reply, data)
        with self._send_lock:
            self._connection.sendall(frame)

    def _perform(self, operation: str, number: int, arguments: dict[str, Any], payload: bytes) -> Any:
        if operation == "create":
            vm = _core.FakeVmmCore(**arguments)
            self._vms[number] = vm
            return {"regions": vm.regions, "pages": vm.pages}
        if operation == "destroy":
            self._vms.pop(number, None)
            return None
        vm = self._vms[number]
        if operation == "touch":
            pattern = arguments.pop("pattern")
            if pattern is None:
                pages = array("Q")
                pages.frombytes(payload)
                plan = pages.tolist()
            else:
                plan = _core.plan_touches(**pattern)
            return vm.touch(plan, **arguments)
        return self._operations[operation](vm, **arguments)


def main() -> None:
    """Serve requests until the parent closes the connection or ends."""
    # Three descriptors a VM: memory file, userfaultfd, connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    connection = socket.socket(fileno=int(sys.argv[1]))
    parent_pid = int(sys.argv[2])
    parent = os.pidfd_open(parent_pid)
    if os.getppid() == parent_pid:
        _Child(connection).serve(parent)
    # Threads may be blocked on pages that nobody serves any more: no orderly exit can wait for them.
    os._exit(0)


if __name__ == "__main__":
    main()
