"""`vmthaw demo --source`: a guest is restored from each kind of source, and finds out every one that is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.eventually import PATIENCE
from vmthaw.cli import cli
from vmthaw.cli._demo.fake_guest import FakeGuest
from vmthaw.cli._demo.kvm_guest import KvmGuest
from vmthaw.cli._demo.mutants import MUTANTS, Mutant
from vmthaw.cli._demo.plan import KINDS, Plan
from vmthaw.cli._demo.stores import BUILDERS, stored
from vmthaw.cli._demo.ways import Demonstration, mutant_way
from vmthaw.cli._errors import CliError, Exit
from vmthaw.source import FileSource

pytestmark = pytest.mark.usefixtures("userfaultfd_available")

SIZE = 4 << 20
# All kinds with both guests and all mutants take two minutes: VMTHAW_DEMO_ALL=1.
ALL = bool(os.environ.get("VMTHAW_DEMO_ALL"))
STORED = [kind for kind in KINDS if kind != "file"]


def nothing(_share: float) -> None:
    """Nobody looks at the progress."""


class Saved:
    """A guest that was saved once."""

    def __init__(self, guest: KvmGuest | FakeGuest, folder: Path) -> None:
        self.guest = guest
        self.folder = folder
        self.plan("file")
        guest.prepare(self.plan("file"), nothing)

    def plan(self, source: str, timeout: float = 30.0) -> Plan:
        """A restore from that source; the guest answers within so many seconds."""
        self.guest._plan = Plan(SIZE, 64, 7, self.folder, timeout, source)
        return self.guest._plan


@pytest.fixture(scope="module")
def saved() -> Iterator[Callable[[str], Saved]]:
    found: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in found:
            folder = Path(tempfile.mkdtemp(prefix="vmt-", dir="/tmp"))  # its sockets' paths are short
            found[name] = Saved(KvmGuest() if name == "kvm" else FakeGuest(), folder)
        return found[name]

    yield get
    for each in found.values():
        shutil.rmtree(each.folder)


def needs(kind: str) -> None:
    if kind == "http":
        pytest.importorskip("obstore")


def test_there_is_a_store_for_each_kind() -> None:
    assert tuple(BUILDERS) == KINDS


def restored(where: Saved, kind: str) -> None:
    plan = where.plan(kind)
    with Demonstration(None) as demonstration:
        demonstration.store(plan, where.guest, nothing)
        results = [way.result(plan, where.guest, nothing) for way in demonstration.ways()[:2]]
    shutil.rmtree(where.folder / "store")
    assert [(result.verified, result.problem) for result in results] == [(True, ""), (True, "")]
    first, second = results
    assert first.faults is not None
    assert second.faults is not None
    assert first.faults > second.faults


def found_out(where: Saved, kind: str, mutant: Mutant) -> None:
    plan = where.plan(kind, 0.5 * PATIENCE if mutant == "lost-fault" else 30.0)
    result = mutant_way(mutant).result(plan, where.guest, nothing)
    assert not result.verified
    wrong = "words are wrong" if isinstance(where.guest, KvmGuest) else "wrong bytes"
    assert ("not answered" if mutant == "lost-fault" else wrong) in result.problem


@pytest.mark.usefixtures("kvm_available")
@pytest.mark.parametrize("kind", STORED)
def test_a_guest_under_kvm_finds_every_byte_right(kind: str, saved: Callable[[str], Saved]) -> None:
    needs(kind)
    restored(saved("kvm"), kind)


@pytest.mark.parametrize("kind", STORED if ALL else STORED[:2])
def test_the_stand_in_finds_every_byte_right(kind: str, saved: Callable[[str], Saved]) -> None:
    needs(kind)
    restored(saved("fake"), kind)


PAIRS = [(kind, mutant) for kind in STORED for mutant in MUTANTS]


def turns(first: bool) -> list[tuple[str, Mutant]]:
    """Half of the pairs: the two guests take turns, with the kinds and with the mutants."""
    return [
        (kind, mutant)
        for kind, mutant in PAIRS
        if ALL or ((STORED.index(kind) + MUTANTS.index(mutant)) % 2 == 0) == first
    ]


@pytest.mark.usefixtures("kvm_available")
@pytest.mark.parametrize(("kind", "mutant"), turns(True))
def test_a_guest_under_kvm_finds_out_what_is_wrong(kind: str, mutant: Mutant, saved: Callable[[str], Saved]) -> None:
    needs(kind)
    found_out(saved("kvm"), kind, mutant)


@pytest.mark.parametrize(("kind", "mutant"), turns(False))
def test_the_stand_in_finds_out_what_is_wrong(kind: str, mutant: Mutant, saved: Callable[[str], Saved]) -> None:
    needs(kind)
    found_out(saved("fake"), kind, mutant)


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "vmthaw", "demo", "--memory", "4MiB", "--guest", "fake", *options]


def demo(directory: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command(*options), capture_output=True, text=True, timeout=60, check=False, cwd=directory, env=environment
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_wrong_store_ends_the_command_with_1(tmp_path: Path) -> None:
    done = demo(tmp_path, "--source", "packed", "--mutant", "wrong-byte", "--json")
    assert done.returncode == Exit.FAILED
    report = json.loads(done.stdout)
    assert (report["source"], report["verified"]) == ("packed", False)
    assert done.stderr.startswith("vmthaw demo: verification failed: mutant: wrong-byte: ")


@pytest.mark.parametrize("source", ["floppy", "https://host/memory", "s3://bucket", "s3:", "file:/x"])
def test_another_source_is_refused_with_those_that_there_are(source: str) -> None:
    done = CliRunner().invoke(cli, ["demo", "--source", source])
    assert done.exit_code == Exit.USAGE
    assert f"'{source}' is neither one of {', '.join(KINDS)} nor like s3://BUCKET/KEY" in done.stderr


@pytest.mark.parametrize("source", ["packed", "cached"])
def test_ctrl_c_leaves_no_store(source: str, tmp_socket: Path) -> None:
    place = tmp_socket.parent  # short enough for sockets
    options = command("--source", source, "--memory", "64MiB")
    running = subprocess.Popen(
        options, cwd=place, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}
    )
    deadline = time.monotonic() + 30
    while not list(place.glob("vmthaw-demo-*/store/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == Exit.INTERRUPTED, errors
    assert "Traceback" not in errors
    assert list(place.glob("vmthaw-demo-*")) == []


class _Bucket(BaseHTTPRequestHandler):
    """What an S3 server answers about one object, unsigned."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_POST(self) -> None:
        """POST /bucket?delete: each key of a list."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall("<Key>(.*?)</Key>", body)
        for key in keys:
            del self.objects[f"{self.path.partition('?')[0]}/{key}"]
        gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def do_HEAD(self) -> None:
        found = self.objects.get(self.path)
        self._answer(200 if found is not None else 404, length=len(found or b""))

    def do_GET(self) -> None:
        content = self.objects[self.path]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert wanted is not None
        begin, end = int(wanted[1]), min(int(wanted[2]) + 1, len(content))
        self._answer(206, content[begin:end], content_range=f"bytes {begin}-{end - 1}/{len(content)}")

    def _answer(self, status: int, body: bytes = b"", length: int | None = None, content_range: str = "") -> None:
        self.send_response(status)
        said = {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if content_range:
            said["Content-Range"] = content_range
        for name, value in {**said, "Content-Length": str(len(body) if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    pytest.importorskip("obstore")
    handler = type("Handler", (_Bucket,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    for name, value in {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "SKIP_SIGNATURE": "true",
                        "REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    yield handler.objects  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_given_by_its_url_has_the_memory_meanwhile(bucket: dict[str, bytes], tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(os.urandom(SIZE))
    with stored("s3://bucket/demo.mem", memory, tmp_path / "store", nothing) as open_it:
        assert bucket == {"/bucket/demo.mem": memory.read_bytes()}
        with open_it() as source, FileSource(memory) as file:
            assert source.read(0, SIZE) == file.read(0, SIZE)
    assert bucket == {}


def test_nothing_in_a_store_is_overwritten(bucket: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(bytes(SIZE))
    bucket["/bucket/mine"] = b"years of work"
    with (
        pytest.raises(CliError, match="the demo overwrites nothing"),
        stored("s3://bucket/mine", tmp_path / "memory", tmp_path / "store", nothing),
    ):
        raise AssertionError
    assert bucket == {"/bucket/mine": b"years of work"}
