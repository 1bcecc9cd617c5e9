"""Ctrl-C ends `vmthaw snapshot` where a store, or a source, does not answer: at once, with one line, and resumable."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.hostile_server import HostileServer, header
from tests.support.interrupted import interrupted
from tests.support.silent_server import SilentServer
from vmthaw._snapshot_pack import verify
from vmthaw.cli import cli

PAGE = 4096
SIZE = 1 << 20
CONTENT = os.urandom(SIZE)

OF_A_STORE = {
    "inspect": "inspect s3://snapshots/vm.mem",
    "merge": "merge s3://snapshots/vm.mem {diff} -o out",
    "pack from it": "pack s3://snapshots/vm.mem packed",
    "pack to it": "pack {file} s3://snapshots/packed",
    "unpack by its name": "unpack s3://snapshots/packed one out",
    "verify": "verify s3://snapshots/packed",
}
OF_A_PAGE_SERVER = {
    "inspect": "inspect tcp:127.0.0.1:{port}?size=1MiB",
    "pack": "pack tcp:127.0.0.1:{port}?size=1MiB packed --name one",
}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "vm.mem"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def diff(tmp_path: Path) -> Path:
    """One that changes nothing."""
    path = tmp_path / "vm.diff"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.mark.parametrize("what", OF_A_STORE)
def test_ctrl_c_ends_what_a_store_does_not_answer(what: str, memory: Path, diff: Path, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    with SilentServer() as server:
        interrupted(OF_A_STORE[what].format(file=memory, diff=diff), tmp_path, server.asked.wait, **server.environment)
    assert sorted(tmp_path.iterdir()) == [diff, memory]


@pytest.mark.parametrize("what", OF_A_PAGE_SERVER)
def test_ctrl_c_ends_what_a_page_server_does_not_answer(what: str, tmp_path: Path) -> None:
    with SilentServer() as server:
        interrupted(OF_A_PAGE_SERVER[what].format(port=server.port), tmp_path, server.asked.wait)
    assert list(tmp_path.iterdir()) == []


class Halting:
    """Pages of CONTENT, until `most` were asked for; then nothing until it is let go."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._asked = 0
        self._lock = threading.Lock()
        self.halted = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._asked += 1
            halts = self._asked > self._most
        if halts and not self.let_go.is_set():
            self.halted.set()
            self.let_go.wait(60)
        return header(offset, size) + CONTENT[offset : offset + size]


@pytest.fixture
def serving(tmp_socket: Path) -> Iterator[Callable[[Halting], str]]:
    servers: list[HostileServer] = []

    def start(halting: Halting) -> str:
        servers.append(HostileServer(tmp_socket, halting))
        return f"unix:{tmp_socket}?size=1MiB"

    yield start
    for server in servers:
        server.close()


def test_a_pack_of_a_source_that_halts_is_resumed_after_ctrl_c(
    serving: Callable[[Halting], str], tmp_path: Path
) -> None:
    halting = Halting(100)
    address = serving(halting)
    interrupted(f"pack {address} packed --name one --chunk-kib 16", tmp_path, halting.halted.wait)
    store = tmp_path / "packed"
    written = [path for path in (store / "chunks").rglob("*") if path.is_file()]
    assert written
    assert {path.suffix for path in written} == {".zst"}, "a part of a chunk was left"
    assert not (store / "snapshots").exists()
    halting.let_go.set()
    words = ["snapshot", "pack", address, str(store), "--name", "one", "--chunk-kib", "16"]
    done = CliRunner().invoke(cli, words, prog_name="vmthaw")
    assert done.exit_code == 0, done.stderr
    assert f"{64 - len(written)} chunks written" in done.stdout
    assert f"{len(written)} shared" in done.stdout
    assert verify(store, []) == []
    back = CliRunner().invoke(cli, ["snapshot", "unpack", str(store), "one", str(tmp_path / "back")])
    assert back.exit_code == 0
    assert (tmp_path / "back").read_bytes() == CONTENT


@pytest.mark.parametrize("words", ["unpack {address} out", "merge {address} {diff} -o out"])
def test_nothing_is_left_of_a_file_whose_source_halts(
    words: str, serving: Callable[[Halting], str], diff: Path, tmp_path: Path
) -> None:
    halting = Halting(100)
    interrupted(words.format(address=serving(halting), diff=diff), tmp_path, halting.halted.wait)
    halting.let_go.set()
    assert list(tmp_path.iterdir()) == [diff]
