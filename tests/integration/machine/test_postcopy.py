"""A guest moves to another VMM process while its memory stays behind: the rest is pulled, over a link that is cut."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cut_link import CutLink
from tests.support.eventually import PATIENCE
from tests.support.tree import ROOT
from vmthaw.errors import StateError
from vmthaw.machine import Machine

pytestmark = pytest.mark.usefixtures("kvm_available", "userfaultfd_available")


class Side:
    """A process of `migrating`, perhaps in a network namespace of its own."""

    def __init__(self, *arguments: str, namespace: str | None = None) -> None:
        inside = ["ip", "netns", "exec", namespace] if namespace else []
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.integration.machine.migrating", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tell(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        heard: dict[str, Any] = json.loads(line)
        return heard

    def is_silent_for(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        return not select.select([self._process.stdout], [], [], seconds)[0]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class UnixWay:
    """One host, a UNIX socket, and a proxy that is cut."""

    namespaces: tuple[str | None, str | None] = (None, None)

    def __init__(self, directory: Path) -> None:
        self.listen_at = f"unix:{directory / 'pages'}"
        self._path = directory / "link"
        self._link: CutLink | None = None

    def connect_at(self, address: str) -> str:
        self._link = CutLink(self._path, address)
        return self._link.address

    def cut(self) -> None:
        assert self._link is not None
        self._link.cut()

    def mend(self) -> None:
        assert self._link is not None
        self._link.mend()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


class NetworkWay:
    """Two network namespaces and a cable between them, which is pulled out."""

    def __init__(self, name: str) -> None:
        self.namespaces: tuple[str | None, str | None] = (f"{name}a", f"{name}b")
        self.listen_at = "tcp:10.77.0.1:0"
        self._name = name
        for side in "ab":
            run("ip", "netns", "add", f"{name}{side}")
        run("ip", "link", "add", "veth", "netns", f"{name}a", "type", "veth", "peer", "veth", "netns", f"{name}b")
        for number, side in enumerate("ab", start=1):
            run("ip", "-n", f"{name}{side}", "address", "add", f"10.77.0.{number}/24", "dev", "veth")
            run("ip", "-n", f"{name}{side}", "link", "set", "veth", "up")

    def connect_at(self, address: str) -> str:
        return address

    def cut(self) -> None:
        run("ip", "-n", f"{self._name}a", "link", "set", "veth", "down")

    def mend(self) -> None:
        run("ip", "-n", f"{self._name}a", "link", "set", "veth", "up")

    def close(self) -> None:
        for side in "ab":
            subprocess.run(["ip", "netns", "delete", f"{self._name}{side}"], check=False, capture_output=True)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(params=["unix", "namespaces"])
def way(request: pytest.FixtureRequest, tmp_socket: Path) -> Iterator[UnixWay | NetworkWay]:
    made: UnixWay | NetworkWay
    if request.param == "unix":
        made = UnixWay(tmp_socket.parent)
    else:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("two network namespaces need root and iproute2")
        name = f"vmt{os.getpid()}"
        try:
            made = NetworkWay(name)
        except subprocess.CalledProcessError as error:
            for side in "ab":
                subprocess.run(["ip", "netns", "delete", f"{name}{side}"], check=False, capture_output=True)
            pytest.skip(f"no network namespaces with a cable here: {error.stderr.strip()}")
    yield made
    made.close()


@pytest.mark.timeout(300)
def test_a_guest_moves_and_its_memory_follows_over_a_link_that_is_cut(way: UnixWay | NetworkWay) -> None:
    with contextlib.ExitStack() as stack:
        sender = Side("send", way.listen_at, namespace=way.namespaces[0])
        stack.callback(sender.close)
        receiver = Side("receive", namespace=way.namespaces[1])
        stack.callback(receiver.close)
        told = sender.hear()
        receiver.tell(address=way.connect_at(told["address"]), state=told["state"])
        resumed = receiver.hear()
        assert resumed["resumed"]
        assert resumed["pages"] < 2048, "it resumed after all memory had come"

        way.cut()
        receiver.tell(go="on")
        assert receiver.is_silent_for(0.5 * PATIENCE), "the guest saw memory that could not come"
        way.mend()
        assert receiver.hear()["verified"]
        pulled = receiver.hear()
        assert pulled["pulled"]
        assert pulled["pages"] >= 2048

        sender.tell(done=True)
        assert sender.hear()["bad_requests"] == 0
        sender.close()
        receiver.tell(alone="now")
        assert receiver.hear()["alone"]


def test_a_guest_that_runs_has_no_state_to_give() -> None:
    with Machine(2 << 20, payload=False) as machine:
        machine.write(0x1000, b"\xeb\xfe")  # jmp $
        machine.vcpus[0].set_sregs({f"cs.{part}": 0 for part in ("selector", "base")})
        machine.vcpus[0].set_regs({"rip": 0x1000, "rflags": 2})
        machine.start()
        with pytest.raises(StateError, match="freeze it first"):
            machine.capture_state()
        machine.freeze()
        assert len(machine.capture_state()) > 1000
        with machine.open_memory() as memory:
            assert memory.read(0x1000, 2) == b"\xeb\xfe"
            assert memory.size == 2 << 20
        machine.thaw()


def test_only_memory_that_is_served_here_can_be_pulled() -> None:
    with Machine(2 << 20) as machine, pytest.raises(StateError, match="does not serve"):
        machine.pull_memory()
