"""Starts Firecracker, plain or under its jailer, and restores snapshots whose memory a `PageServer` serves.

`Firecracker` blocks, `AsyncFirecracker` is the same for asyncio. Needs httpx: ``pip install 'vmthaw[firecracker]'``.

    with Firecracker("firecracker") as vm:
        vm.load_snapshot("snapshot/vmstate", FileSource("snapshot/mem"))
        vm.wait()
"""

from __future__ import annotations

from vmthaw.firecracker._async_face import AsyncFirecracker
from vmthaw.firecracker._errors import ApiRefusedError, FirecrackerDiedError, FirecrackerError
from vmthaw.firecracker._events import VmEvent, VmEventKind
from vmthaw.firecracker._jail import Jail
from vmthaw.firecracker._sync_face import Firecracker

__all__ = [
    "ApiRefusedError",
    "AsyncFirecracker",
    "Firecracker",
    "FirecrackerDiedError",
    "FirecrackerError",
    "Jail",
    "VmEvent",
    "VmEventKind",
]
