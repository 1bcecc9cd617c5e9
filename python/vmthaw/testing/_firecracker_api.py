"""Firecracker's API as a state machine: which request is right when, and the words of a refusal.

Without a server and without memory: `ApiModel.answer` gives status and body. What it knows is what the 1.16 sources do:
order rules (a load only into a fresh process, pause and snapshot only afterwards), unknown fields refused, the texts of
``fault_message``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

VERSION = "1.16.0-double"
_POST_BOOT = "The requested operation is not supported after starting the microVM."
_PRE_BOOT = "The requested operation is not supported before starting the microVM."
_LOAD_FIELDS = (
    "snapshot_path", "mem_file_path", "mem_backend", "enable_diff_snapshots", "track_dirty_pages", "resume_vm",
    "network_overrides", "vsock_override", "clock_realtime", "huge_pages",
)  # fmt: skip
_CREATE_FIELDS = ("snapshot_type", "snapshot_path", "mem_file_path")
_BOOT_RESOURCES = ("boot-source", "drives", "machine-config", "network-interfaces", "vsock", "balloon", "cpu-config")


class RefusedError(Exception):
    """A 400 with its fault_message. ``fatal``: Firecracker answers and then exits with 1."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class Machine(Protocol):
    """What the API acts on."""

    def load(self, body: Mapping[str, Any]) -> None:
        """Restores; raises RefusedError."""

    def set_running(self, running: bool) -> None:
        """Lets the vCPUs run, or stops them."""

    def create(self, body: Mapping[str, Any]) -> None:
        """Writes a snapshot; raises RefusedError."""


@dataclass
class Answer:
    """Status, JSON body (None: no body), and whether the process exits with 1 afterwards."""

    status: int
    body: dict[str, Any] | None = None
    fatal: bool = False


def _json_error(text: str) -> RefusedError:
    return RefusedError(f"An error occurred when deserializing the json body of a request: {text}.")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise _json_error(str(error)) from error
    if not isinstance(body, dict):
        raise _json_error("invalid type, expected a map")
    return body


def _known(body: Mapping[str, Any], fields: Sequence[str]) -> None:
    for name in body:
        if name not in fields:
            expected = ", ".join(f"`{field}`" for field in fields)
            raise _json_error(f"unknown field `{name}`, expected one of {expected}")


def _text(body: Mapping[str, Any], name: str) -> str:
    if name not in body:
        raise _json_error(f"missing field `{name}`")
    if not isinstance(body[name], str):
        raise _json_error(f"invalid type for `{name}`, expected a string")
    return str(body[name])


def _variant(value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        expected = " or ".join(f"`{name}`" for name in allowed)
        raise _json_error(f"unknown variant `{value}`, expected {expected}")


@dataclass
class ApiModel:
    """One Firecracker process, as its API shows it."""

    machine: Machine
    vm_id: str
    state: str = "Not started"
    boot_path: bool = False

    def answer(self, method: str, path: str, raw: bytes) -> Answer:
        """One request."""
        try:
            return self._route(method, path, raw)
        except RefusedError as error:
            return Answer(400, {"fault_message": str(error)}, error.fatal)

    def _route(self, method: str, path: str, raw: bytes) -> Answer:
        if method == "GET" and raw:
            raise RefusedError("GET request cannot have a body.")
        if method in ("PUT", "PATCH") and not raw:
            raise RefusedError(f"Empty {method} request.")
        head = path.lstrip("/").partition("/")[0]
        routes: dict[tuple[str, str], Callable[[bytes], Answer]] = {
            ("GET", "/"): lambda _raw: Answer(200, self._info()),
            ("GET", "/version"): lambda _raw: Answer(200, {"firecracker_version": VERSION}),
            ("GET", "/vm/config"): lambda _raw: Answer(200, {"machine-config": {}}),
            ("PUT", "/snapshot/load"): self._load,
            ("PUT", "/snapshot/create"): self._create,
            ("PATCH", "/vm"): self._set_state,
            ("PUT", "/logger"): lambda raw: Answer(204) if _object(raw) is not None else Answer(400),
        }
        if (route := routes.get((method, path))) is not None:
            return route(raw)
        if head in _BOOT_RESOURCES and method in ("PUT", "PATCH"):
            return self._configure(method, raw)
        raise RefusedError(f"Invalid request method and/or path: {method} {head}.")

    def _info(self) -> dict[str, Any]:
        return {"app_name": "Firecracker", "id": self.vm_id, "state": self.state, "vmm_version": VERSION}

    @property
    def _started(self) -> bool:
        return self.state != "Not started"

    def _configure(self, method: str, raw: bytes) -> Answer:
        _object(raw)
        if method == "PUT" and self._started:
            raise RefusedError(_POST_BOOT)
        if method == "PATCH" and not self._started:
            raise RefusedError(_PRE_BOOT)
        self.boot_path = self.boot_path or not self._started
        return Answer(204)

    def _load(self, raw: bytes) -> Answer:
        body = _object(raw)
        _known(body, _LOAD_FIELDS)
        _text(body, "snapshot_path")
        for name in ("resume_vm", "track_dirty_pages", "enable_diff_snapshots", "clock_realtime"):
            if not isinstance(body.get(name, False), bool):
                raise _json_error(f"invalid type for `{name}`, expected a boolean")
        _variant(body.get("huge_pages", "Snapshot"), ("Snapshot", "None", "Transparent", "2M"))
        for override in body.get("network_overrides", []):
            _text(override, "iface_id")
            _text(override, "host_dev_name")
        if "vsock_override" in body:
            _text(body["vsock_override"], "uds_path")
        if "mem_backend" in body and "mem_file_path" in body:
            raise _json_error("too many fields: either `mem_backend` or `mem_file_path` exclusively is required")
        if "mem_backend" not in body and "mem_file_path" not in body:
            raise _json_error("missing field: either `mem_backend` or `mem_file_path` is required")
        if "mem_backend" in body:
            _known(body["mem_backend"], ("backend_path", "backend_type"))
            _text(body["mem_backend"], "backend_path")
            _variant(_text(body["mem_backend"], "backend_type"), ("File", "Uffd"))
        if self._started:
            raise RefusedError(_POST_BOOT)
        if self.boot_path:
            raise RefusedError(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources."
            )
        self.machine.load(body)
        running = bool(body.get("resume_vm", False))
        self.state = "Running" if running else "Paused"
        self.machine.set_running(running)
        return Answer(204)

    def _set_state(self, raw: bytes) -> Answer:
        body = _object(raw)
        _known(body, ("state",))
        _variant(_text(body, "state"), ("Paused", "Resumed"))
        if not self._started:
            raise RefusedError(_PRE_BOOT)
        running = body["state"] == "Resumed"
        self.machine.set_running(running)
        self.state = "Running" if running else "Paused"
        return Answer(204)

    def _create(self, raw: bytes) -> Answer:
        body = _object(raw)
        _known(body, _CREATE_FIELDS)
        _text(body, "snapshot_path")
        _text(body, "mem_file_path")
        _variant(body.get("snapshot_type", "Full"), ("Full", "Diff"))
        if not self._started:
            raise RefusedError(_PRE_BOOT)
        if self.state != "Paused":
            raise RefusedError(
                "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable "
                "while running"
            )
        self.machine.create(body)
        return Answer(204)
