"""The requests of Firecracker's API that are used here: what is sent, no more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vmthaw.errors import VmthawValueError

HugePages = Literal["Snapshot", "None", "Transparent", "2M"]
SnapshotKind = Literal["full", "diff"]
_KINDS = {"full": "Full", "diff": "Diff"}
_METHODS = ("GET", "PUT", "PATCH", "DELETE")
_PATH = re.compile(r"/[A-Za-z0-9_/.-]*")


@dataclass(frozen=True)
class ApiRequest:
    """One request."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


INSTANCE_INFO = ApiRequest("GET", "/")


def custom(method: str, path: str, body: Mapping[str, Any] | None) -> ApiRequest:
    """Any request. Raises VmthawValueError."""
    if method not in _METHODS:
        raise VmthawValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if _PATH.fullmatch(path) is None:
        raise VmthawValueError(f"path must look like /drives/rootfs, got {path!r}")
    return ApiRequest(method, path, body)


def vm_state(state: Literal["Paused", "Resumed"]) -> ApiRequest:
    """Pause and resume."""
    return ApiRequest("PATCH", "/vm", {"state": state})


def create_snapshot(snapshot_path: str, memory_path: str, kind: SnapshotKind) -> ApiRequest:
    """Paths as Firecracker sees them."""
    if kind not in _KINDS:
        raise VmthawValueError(f"kind must be 'full' or 'diff', got {kind!r}")
    body = {"snapshot_type": _KINDS[kind], "snapshot_path": snapshot_path, "mem_file_path": memory_path}
    return ApiRequest("PUT", "/snapshot/create", body)


@dataclass(frozen=True)
class LoadOptions:
    """The optional fields of a load; what is left at its default is not sent, so that older versions accept it."""

    resume: bool = True
    track_dirty_pages: bool = False
    network_overrides: Mapping[str, str] | None = None
    vsock_override: str | None = None
    clock_realtime: bool = False
    huge_pages: HugePages | None = None

    def request(self, snapshot_path: str, backend_path: str) -> ApiRequest:
        """Paths as Firecracker sees them."""
        body: dict[str, Any] = {
            "snapshot_path": snapshot_path,
            "mem_backend": {"backend_type": "Uffd", "backend_path": backend_path},
            "resume_vm": self.resume,
        }
        if self.track_dirty_pages:
            body["track_dirty_pages"] = True
        if self.network_overrides:
            body["network_overrides"] = [
                {"iface_id": interface, "host_dev_name": device} for interface, device in self.network_overrides.items()
            ]
        if self.vsock_override is not None:
            body["vsock_override"] = {"uds_path": self.vsock_override}
        if self.clock_realtime:
            body["clock_realtime"] = True
        if self.huge_pages is not None:
            body["huge_pages"] = self.huge_pages
        return ApiRequest("PUT", "/snapshot/load", body)
