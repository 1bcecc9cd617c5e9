"""`DaxSession` from Python: requests, views, the policy, the log, and its end."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw import DaxPolicy, DaxSession, HostFiles, WindowMapper
from vmthaw.dax import EVENTS, READ, WRITE, DaxFile, RecordingMapper
from vmthaw.errors import VmthawError, VmthawValueError
from vmthaw.kvm import GuestArch, decode_exit

BASE = 0x80_0000_0000
CHUNK = 2 << 20
ANY_HANDLE = (1 << 64) - 1


def setup_body(window_offset: int, file_offset: int, length: int, flags: int = 2) -> bytes:
    return struct.pack("<5Q", ANY_HANDLE, file_offset, length, flags, window_offset)


def remove_body(*ranges: tuple[int, int]) -> bytes:
    return struct.pack("<I", len(ranges)) + b"".join(struct.pack("<2Q", *one) for one in ranges)


class Fixture:
    def __init__(self, path: Path, **options: Any) -> None:
        path.write_bytes(bytes(4 * CHUNK))
        self.files = HostFiles()
        self.node = self.files.add(path)
        self.mapper = RecordingMapper()
        self.session = DaxSession(self.files, self.mapper, guest_base=BASE, size=64 * CHUNK, **options)


@pytest.fixture
def dax(tmp_path: Path) -> Fixture:
    return Fixture(tmp_path / "file")


def test_linuxs_requests_are_answered_with_errnos(dax: Fixture) -> None:
    session = dax.session
    assert session.setup_mapping(dax.node, setup_body(0, 0, CHUNK)) == 0
    assert session.setup_mapping(dax.node, setup_body(0, 0, CHUNK, 3)) == 0
    assert session.mappings()["prot"].tolist() == [READ | WRITE]
    assert session.setup_mapping(dax.node, setup_body(CHUNK, CHUNK, CHUNK)) == 0
    assert session.remove_mapping(remove_body((0, CHUNK), (CHUNK, CHUNK))) == 0
    assert session.active_slot_count == 0
    assert session.setup_mapping(99, setup_body(0, 0, CHUNK)) == errno.ENOENT
    assert session.setup_mapping(dax.node, setup_body(0, 0, CHUNK)[:-1]) == errno.EINVAL
    assert session.remove_mapping(remove_body((0, CHUNK))[:-1]) == errno.EINVAL
    assert session.remove_mapping(struct.pack("<I", 0xFFFF_FFFF)) == errno.EINVAL
    assert dax.files.leases == 0


def test_set_up_raises_what_python_expects(dax: Fixture) -> None:
    with pytest.raises(FileNotFoundError, match="SETUPMAPPING") as raised:
        dax.session.set_up(99, 0, 0, CHUNK)
    assert isinstance(raised.value, VmthawError)
    with pytest.raises(OSError, match="SETUPMAPPING") as invalid:
        dax.session.set_up(dax.node, 1, 0, CHUNK)
    assert invalid.value.errno == errno.EINVAL
    dax.mapper.fail_maps(errno.ENOMEM)
    with pytest.raises(OSError, match="SETUPMAPPING") as failed:
        dax.session.set_up(dax.node, 0, 0, CHUNK)
    assert failed.value.errno == errno.ENOMEM
    assert dax.files.leases == 0


def test_mappings_are_a_structured_array(dax: Fixture) -> None:
    dax.session.set_up(dax.node, 2 * CHUNK, CHUNK, CHUNK, write=True)
    dax.session.set_up(dax.node, 0, 0, CHUNK)
    found = dax.session.mappings()
    assert isinstance(found, np.ndarray)
    assert found["guest_address"].tolist() == [BASE, BASE + 2 * CHUNK]
    assert found["file_offset"].tolist() == [0, CHUNK]
    assert found["length"].sum() == dax.session.stats.mapped_bytes
    assert dax.session.mapped_ranges(dax.node)["window_offset"].tolist() == [0, 2 * CHUNK]
    assert len(dax.session.mapped_ranges(99)) == 0
    assert dax.session.mapping_at(BASE + 2 * CHUNK + 7)["prot"].tolist() == [READ | WRITE]
    assert len(dax.session.mapping_at(BASE + CHUNK)) == 0


@pytest.mark.parametrize(("granule", "log2"), [(4096, 12), (16384, 14), (65536, 16)])
def test_the_granule_is_what_init_advertises(tmp_path: Path, granule: int, log2: int) -> None:
    assert Fixture(tmp_path / "file", granule=granule).session.map_alignment == log2


def test_what_cannot_be_is_refused_by_name() -> None:
    files, mapper = HostFiles(), RecordingMapper()
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"guest_base": 1}, "guest base"),
        ({"size": 0}, "window"),
        ({"granule": 8192}, "granule"),
        ({"quota": 1}, "quota"),
        ({"most_mappings": 0}, "most_mappings"),
        ({"guest_base": (1 << 64) - CHUNK}, "end past 2"),
    )
    for options, name in wrong:
        with pytest.raises(VmthawValueError, match=name):
            DaxSession(files, mapper, **{"guest_base": BASE, "size": CHUNK, **options})
    with pytest.raises(VmthawValueError, match="must be given"):
        DaxSession(files, mapper)
    with pytest.raises(VmthawValueError, match="not within"):
        DaxSession(files, WindowMapper(BASE, CHUNK), size=2 * CHUNK)
    with pytest.raises(VmthawValueError, match="no DAX mapper: it has no method map"):
        DaxSession(files, object(), guest_base=BASE, size=CHUNK)  # type: ignore[arg-type]
    with pytest.raises(VmthawValueError, match="no DAX backend"):
        DaxSession(object(), mapper, guest_base=BASE, size=CHUNK)  # type: ignore[arg-type]


def test_the_window_shows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"seen" + bytes(CHUNK - 4))
    files = HostFiles()
    node = files.add(path)
    window = WindowMapper(BASE, 4 * CHUNK)
    with DaxSession(files, window) as session:
        session.set_up(node, CHUNK, 0, CHUNK, write=True)
        assert window.read(BASE + CHUNK, 4) == b"seen"
        window.write(BASE + CHUNK + 4096, b"written")
        assert path.read_bytes()[4096 : 4096 + 7] == b"written"
        with pytest.raises(OSError, match="DAX window") as hole:
            window.read(BASE, 1)
        assert hole.value.errno == errno.EFAULT
        with pytest.raises(VmthawValueError, match="not within the window"):
            window.read(BASE + 4 * CHUNK, 1)
        os.truncate(path, 4096)
        assert session.past_end()["window_offset"].tolist() == [CHUNK + 4096]
        with pytest.raises(OSError, match="DAX window"):
            window.read(BASE + CHUNK + 4096, 1)
    assert files.leases == 0


def test_host_files_open_for_writing_when_a_mapping_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(CHUNK))
    files = HostFiles()
    node = files.add(path, read_only=True)
    session = DaxSession(files, WindowMapper(BASE, CHUNK))
    session.set_up(node, 0, 0, CHUNK)
    with pytest.raises(OSError, match="SETUPMAPPING") as refused:
        session.set_up(node, 0, 0, CHUNK, write=True)
    assert refused.value.errno == errno.EROFS
    assert session.active_slot_count == 1
    with pytest.raises(VmthawValueError, match="regular file"):
        files.add(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.add(tmp_path / "none")
    files.remove(node)
    with pytest.raises(FileNotFoundError):
        session.set_up(node, 0, 0, CHUNK)
    with pytest.raises(FileNotFoundError):
        files.remove(node)
    assert files.leases == 1


def test_events_tell_what_happened(dax: Fixture) -> None:
    dax.session.enable_trace(8)
    dax.session.set_up(dax.node, 0, 0, CHUNK)
    dax.session.set_up(dax.node, 0, 0, CHUNK, write=True)
    assert dax.session.remove_mapping(remove_body((0, CHUNK))) == 0
    dax.session.reset()
    records = dax.session.take_records()
    assert [EVENTS[kind] for kind in records["kind"]] == ["set_up", "replace", "remove", "reset"]
    assert (records["t_start_ns"] <= records["t_done_ns"]).all()
    assert records["node"].tolist()[:2] == [dax.node] * 2
    dax.session.disable_trace()
    dax.session.reset()
    assert len(dax.session.take_records()) == 0
    assert dax.session.dropped_records == 0


def test_a_policy_of_rules_looks_at_size_and_name() -> None:
    policy = DaxPolicy(smallest=65536, include=["*.bin", "data*"], exclude=["*.tmp"])
    for name, size, expected in (
        ("a.bin", 65536, True),
        ("a.bin", 65535, False),
        ("data.tmp", 1 << 20, False),
        ("data7", 1 << 20, True),
        ("other", 1 << 20, False),
        ("", 1 << 20, True),
    ):
        assert policy.opened(DaxFile(1, name, size)) is expected, name


def test_a_python_policy_is_asked_once_for_each_open() -> None:
    asked: list[str] = []

    def decide(file: DaxFile) -> bool:
        asked.append(file.name)
        if file.name == "bad":
            raise RuntimeError("no idea")
        return file.size > 10

    policy = DaxPolicy(decide=decide)
    file = DaxFile(5, "name", 11)
    assert policy.opened(file)
    assert policy.uses_dax(file)
    assert policy.uses_dax(file)
    assert asked == ["name"]
    assert policy.opened(file)
    policy.forgotten(5)
    assert policy.uses_dax(file)
    assert asked == ["name"] * 3
    assert not policy.opened(DaxFile(6, "bad", 100))
    with pytest.raises(VmthawValueError, match="not both"):
        DaxPolicy(4096, decide=decide)


def test_a_closed_session_refuses(dax: Fixture) -> None:
    dax.session.set_up(dax.node, 0, 0, CHUNK)
    dax.session.close()
    dax.session.close()
    assert dax.files.leases == 0
    assert dax.session.setup_mapping(dax.node, setup_body(0, 0, CHUNK)) == errno.ENODEV


def test_a_forked_child_has_no_session(dax: Fixture) -> None:
    dax.session.set_up(dax.node, 0, 0, CHUNK)
    assert_inert_in_a_forked_child(
        lambda: dax.session.set_up(dax.node, 0, 0, CHUNK),
        lambda: dax.session.remove(0, CHUNK),
        dax.session.reset,
        dax.session.mappings,
        lambda: dax.session.stats,
        lambda: dax.session.setup_mapping(dax.node, setup_body(0, 0, CHUNK)),
    )
    assert dax.session.active_slot_count == 1


def test_threads_may_share_a_session(tmp_path: Path) -> None:
    dax = Fixture(tmp_path / "file")

    def work(number: int) -> None:
        for i in range(200):
            dax.session.set_up(dax.node, (number + i) % 8 * CHUNK, 0, CHUNK)
            dax.session.remove((number + i) % 8 * CHUNK, CHUNK)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dax.session.reset()
    assert dax.files.leases == 0


TRACED = """
import os, tempfile
from vmthaw.dax import DaxSession, HostFiles, RecordingMapper
files = HostFiles()
with tempfile.NamedTemporaryFile() as file:
    node = files.add(file.name)
    session = DaxSession(files, RecordingMapper(), guest_base=0x10000, size=1 << 20)
    session.set_up(node, 4096, 8192, 4096)
    os.environ.pop("VMTHAW_DAX_TRACE", None)
    os.environ["VMTHAW_DAX_TRACE"] = os.devnull
    session.remove(4096, 4096)
    session.close()
"""


@pytest.mark.parametrize("target", ["stderr", "file"])
def test_the_environment_turns_the_log_on_and_is_read_once(tmp_path: Path, target: str) -> None:
    log = tmp_path / "log"
    value = "stderr" if target == "stderr" else str(log)
    done = subprocess.run(
        [sys.executable, "-c", TRACED], env={**os.environ, "VMTHAW_DAX_TRACE": value},
        capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    text = done.stderr if target == "stderr" else log.read_text()
    lines = text.splitlines()
    assert len(lines) == 3, text
    assert "DEBUG vmthaw.dax set_up guest 0x11000+0x1000 node 1 file 0x2000 r-: 0" in lines[0]
    assert "remove guest 0x11000+0x1000" in lines[1]
    assert "reset" in lines[2]


def test_calls_are_logged_at_debug_level() -> None:
    body = TRACED.replace("import os, tempfile", PRELUDE) + CHECK
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


PRELUDE = """
import logging, os, tempfile, time
from vmthaw import _lifecycle
class Keep(logging.Handler):
    records = []
    def emit(self, record):
        self.records.append(record)
logging.getLogger().addHandler(Keep())
logging.getLogger("vmthaw").setLevel(logging.DEBUG)
_lifecycle.ensure_drainer()
"""
CHECK = """
deadline = time.monotonic() + 20
while len(Keep.records) < 3 and time.monotonic() < deadline:
    time.sleep(0.01)
assert {record.name for record in Keep.records} == {"vmthaw.dax"}, Keep.records
assert all(record.levelno == logging.DEBUG for record in Keep.records)
"""


def test_an_exit_without_an_address_is_explained_by_what_it_may_be(tmp_path: Path) -> None:
    dax = Fixture(tmp_path / "file")
    short = tmp_path / "short"
    short.write_bytes(b"x")
    node = dax.files.add(short)
    for chunk in range(10):
        dax.session.set_up(dax.node, chunk * CHUNK, 0, CHUNK)
    dax.session.set_up(node, 10 * CHUNK, 0, CHUNK, write=True)
    run_bytes = bytes(4096)
    text = dax.session.explain(decode_exit(GuestArch.x86_64, -1, errno.EFAULT, run_bytes))
    assert text.startswith(f"{BASE + 10 * CHUNK + 4096:#x} to {BASE + 11 * CHUNK:#x}: node {node}")
    assert "and 2 more of these" in text
    assert "hole" in text
    assert dax.session.explain(decode_exit(GuestArch.x86_64, -1, errno.EINTR, run_bytes)) == ""
