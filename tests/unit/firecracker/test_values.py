"""What needs no process: jails, requests, exits, the missing extra, the double's own rules."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vmthaw.errors import MissingExtraError, VmthawValueError
from vmthaw.firecracker import Firecracker, Jail
from vmthaw.firecracker._errors import describe_exit
from vmthaw.firecracker._requests import LoadOptions, create_snapshot, custom
from vmthaw.testing._firecracker_api import ApiModel


def test_without_httpx_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vmthaw\[firecracker\]'") as missing:
        Firecracker("/bin/true")
    assert isinstance(missing.value, ImportError)


def test_a_jails_command_line_is_the_jailers(tmp_path: Path) -> None:
    jail = Jail(1, 2, chroot_base=tmp_path, cgroups=["cpu.max=1 2"], parent_cgroup="vms", arguments=["--netns", "/n"])
    assert jail.command("/j", "/f", "id-1", ["--api-sock", "/run/a"]) == [
        "/j", "--id", "id-1", "--exec-file", "/f", "--uid", "1", "--gid", "2", "--chroot-base-dir", str(tmp_path),
        "--cgroup-version", "2", "--cgroup", "cpu.max=1 2", "--parent-cgroup", "vms", "--netns", "/n", "--",
        "--api-sock", "/run/a",
    ]  # fmt: skip
    assert Path("/sys/fs/cgroup/vms/id-1") in jail.cgroup_folders("/f", "id-1")


def test_a_jails_root_follows_links_as_the_jailer_does(tmp_path: Path) -> None:
    (tmp_path / "firecracker-v1.16").touch()
    (tmp_path / "firecracker").symlink_to("firecracker-v1.16")
    jail = Jail(1, 2, chroot_base=tmp_path / "x" / ".." / "jails")
    assert jail.root(str(tmp_path / "firecracker"), "a") == tmp_path / "jails" / "firecracker-v1.16" / "a" / "root"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"uid": -1}, "uid"),
        ({"gid": 1 << 32}, "gid"),
        ({"cgroup_version": 3}, "cgroup_version"),
        ({"cgroups": ["cpu"]}, "FILE=VALUE"),
        ({"arguments": ["--daemonize"]}, "--daemonize"),
        ({"arguments": ["--new-pid-ns"]}, "--new-pid-ns"),
    ],
)
def test_a_jail_that_cannot_be_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(VmthawValueError, match=text):
        Jail(**{"uid": 1, "gid": 1, **options})


@pytest.mark.parametrize("vm_id", ["", "a/b", "..", "x" * 65, "a_b", "a\n"])
def test_an_id_that_the_jailer_would_refuse_is_refused(vm_id: str) -> None:
    with pytest.raises(VmthawValueError, match="vm_id"):
        Firecracker("/bin/true", vm_id=vm_id)


def test_a_load_sends_only_what_was_asked_for() -> None:
    assert LoadOptions().request("/s", "/p").body == {
        "snapshot_path": "/s",
        "mem_backend": {"backend_type": "Uffd", "backend_path": "/p"},
        "resume_vm": True,
    }
    everything = LoadOptions(False, True, {"eth0": "tap1"}, "/v", True, "2M").request("/s", "/p").body
    assert everything is not None
    assert everything["network_overrides"] == [{"iface_id": "eth0", "host_dev_name": "tap1"}]
    assert everything["vsock_override"] == {"uds_path": "/v"}
    assert (everything["clock_realtime"], everything["huge_pages"], everything["resume_vm"]) == (True, "2M", False)


def test_requests_that_cannot_be_are_refused() -> None:
    with pytest.raises(VmthawValueError, match="kind"):
        create_snapshot("/s", "/m", "half")  # type: ignore[arg-type]
    with pytest.raises(VmthawValueError, match="method"):
        custom("POST", "/", None)
    for path in ("", "vm", "/vm\r\n", "/a b", "/a?b"):
        with pytest.raises(VmthawValueError, match="path"):
            custom("GET", path, None)


def test_exits_are_told_in_words() -> None:
    assert describe_exit(0) == "ended with exit status 0"
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-60) == "was killed by signal 60"


class NoMachine:
    def load(self, body: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def set_running(self, running: bool) -> None:
        """Nothing to run."""

    def create(self, body: Mapping[str, Any]) -> None:
        """Nothing to write."""


LOAD = {"snapshot_path": "/s", "mem_backend": {"backend_type": "Uffd", "backend_path": "/p"}}


@pytest.mark.parametrize(
    ("method", "path", "body", "text"),
    [
        ("GET", "/", {}, "GET request cannot have a body"),
        ("PUT", "/snapshot/load", None, "Empty PUT request"),
        ("POST", "/vm", {}, "Invalid request method and/or path"),
        ("PUT", "/snapshot/load", {**LOAD, "snapshot": 1}, "unknown field `snapshot`"),
        ("PUT", "/snapshot/load", {"mem_backend": LOAD["mem_backend"]}, "missing field `snapshot_path`"),
        ("PUT", "/snapshot/load", {"snapshot_path": "/s"}, "either `mem_backend` or `mem_file_path` is required"),
        ("PUT", "/snapshot/load", {**LOAD, "mem_file_path": "/m"}, "too many fields"),
        ("PUT", "/snapshot/load", {**LOAD, "resume_vm": 1}, "expected a boolean"),
        ("PUT", "/snapshot/load", {**LOAD, "mem_backend": {"backend_type": "uffd", "backend_path": "/p"}}, "variant"),
        ("PATCH", "/vm", {"state": "Paused"}, "not supported before starting"),
        ("PUT", "/snapshot/create", {"snapshot_path": "/s", "mem_file_path": "/m"}, "not supported before starting"),
        ("PUT", "/snapshot/create", {"snapshot_path": "/s"}, "missing field `mem_file_path`"),
    ],
)
def test_the_double_refuses_what_firecracker_refuses(method: str, path: str, body: Any, text: str) -> None:
    model = ApiModel(NoMachine(), "id")
    answer = model.answer(method, path, b"" if body is None else json.dumps(body).encode())
    assert answer.status == 400
    assert answer.body is not None
    assert text in answer.body["fault_message"]


def test_the_double_keeps_the_order_of_a_life() -> None:
    model = ApiModel(NoMachine(), "id")

    def status(method: str, path: str, body: Any) -> int:
        return model.answer(method, path, json.dumps(body).encode()).status

    create = {"snapshot_path": "/s", "mem_file_path": "/m"}
    assert status("PUT", "/snapshot/load", {**LOAD, "resume_vm": True}) == 204
    assert model.state == "Running"
    assert status("PUT", "/snapshot/load", LOAD) == 400
    assert status("PUT", "/snapshot/create", create) == 400
    assert status("PATCH", "/vm", {"state": "Paused"}) == 204
    assert status("PUT", "/snapshot/create", {**create, "snapshot_type": "Diff"}) == 204
    assert status("PUT", "/machine-config", {}) == 400
    assert model.answer("GET", "/", b"").body == {
        "app_name": "Firecracker", "id": "id", "state": "Paused", "vmm_version": "1.16.0-double",
    }  # fmt: skip
