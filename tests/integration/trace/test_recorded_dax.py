"""What a recorder writes of DAX sessions is what became of their windows."""

from __future__ import annotations

import errno
import gc
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from vmthaw import DaxSession, HostFiles, PageServer, Trace, TraceRecorder, ZeroSource
from vmthaw.dax import RecordingMapper
from vmthaw.errors import StateError, VmthawFileExistsError, VmthawOSError, VmthawValueError
from vmthaw.trace._collector import collector

BASE = 0x80_0000_0000
CHUNK = 2 << 20
SIZE = 16 * CHUNK
R, RW = "read", "read write"

Row = tuple[Any, ...]


class Dax:
    """A session over one file of 4 chunks. `node` is the file's."""

    def __init__(self, directory: Path, *, base: int = BASE, **options: Any) -> None:
        file = directory / "file"
        file.write_bytes(bytes(4 * CHUNK))
        self.files = HostFiles()
        self.node = self.files.add(file)
        self.mapper = RecordingMapper()
        self.session = DaxSession(self.files, self.mapper, guest_base=base, size=SIZE, **options)

    def set_up(self, window_offset: int, file_offset: int = 0, length: int = CHUNK, *, flags: int = 2) -> int:
        """As a client asks for it. Gives the errno."""
        body = struct.pack("<5Q", (1 << 64) - 1, file_offset, length, flags, window_offset)
        return self.session.setup_mapping(self.node, body)

    def remove(self, *ranges: tuple[int, int]) -> int:
        """The same."""
        return self.session.remove_mapping(
            struct.pack("<I", len(ranges)) + b"".join(struct.pack("<2Q", *one) for one in ranges)
        )


@pytest.fixture
def make_dax(tmp_path: Path) -> Callable[..., Dax]:
    directory = tmp_path / "files"
    directory.mkdir()
    return lambda **options: Dax(directory, **options)


@pytest.fixture
def dax(make_dax: Callable[..., Dax]) -> Dax:
    return make_dax()


def rows_of(found: Trace) -> list[Row]:
    """(kind, moffset, foffset, len, prot, node, errno)"""
    names = ["kind", "window_offset", "file_offset", "length", "prot", "node", "error"]
    return [tuple(row.values()) for row in found.dax.select(names).to_pylist()]


def test_every_request_is_a_row_whatever_became_of_it(make_dax: Callable[..., Dax], tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    dax = make_dax(quota=3 * CHUNK)
    node, far = dax.node, (1 << 64) - CHUNK
    before = time.monotonic_ns()
    with TraceRecorder(path, dax.session) as recorder:
        assert dax.set_up(0, CHUNK) == 0
        assert dax.set_up(0, CHUNK, flags=3) == 0
        assert dax.set_up(4096, 0, 4096) == 0
        assert dax.set_up(2 * CHUNK) == 0
        assert dax.set_up(3 * CHUNK, length=2 * CHUNK) == 0
        assert dax.remove((3 * CHUNK, CHUNK), (8 * CHUNK, CHUNK), (1, CHUNK)) == errno.EINVAL
        assert dax.set_up(far) == errno.EINVAL
        assert dax.set_up(0, length=4 * CHUNK) == errno.ENOSPC
        assert dax.session.setup_mapping(99, struct.pack("<5Q", 0, 0, CHUNK, 2, 0)) == errno.ENOENT
        dax.mapper.fail_maps(errno.ENOMEM)
        assert dax.set_up(CHUNK) == errno.ENOMEM
        dax.mapper.fail_maps(0)
        dax.session.reset()
        dax.session.close()
        assert dax.set_up(0) == errno.ENODEV
    found = Trace.open(path)
    assert rows_of(found) == [
        ("set_up", 0, CHUNK, CHUNK, R, node, 0),
        ("replace", 0, CHUNK, CHUNK, RW, node, 0),
        ("replace", 4096, 0, 4096, R, node, 0),
        ("set_up", 2 * CHUNK, 0, CHUNK, R, node, 0),
        ("evict", 0, CHUNK, 4096, RW, node, 0),
        ("evict", 2 * 4096, CHUNK + 2 * 4096, CHUNK - 2 * 4096, RW, node, 0),
        ("evict", 4096, 0, 4096, R, node, 0),
        ("set_up", 3 * CHUNK, 0, 2 * CHUNK, R, node, 0),
        ("remove", 3 * CHUNK, None, CHUNK, "", None, 0),
        ("remove", 8 * CHUNK, None, CHUNK, "", None, 0),
        ("remove", 1, None, CHUNK, "", None, errno.EINVAL),
        ("set_up", far, 0, CHUNK, R, node, errno.EINVAL),
        ("set_up", 0, 0, 4 * CHUNK, R, node, errno.ENOSPC),
        ("set_up", 0, 0, CHUNK, R, 99, errno.ENOENT),
        ("set_up", CHUNK, 0, CHUNK, R, node, errno.ENOMEM),
        ("reset", 0, None, SIZE, "", None, 0),
        ("reset", 0, None, SIZE, "", None, 0),
        ("set_up", 0, 0, CHUNK, R, node, errno.ENODEV),
    ]
    starts, ends = (found.dax_records[name].astype("i8") for name in ("t_start_ns", "t_done_ns"))
    assert (before <= starts).all()
    assert (starts <= ends).all()
    assert (ends <= time.monotonic_ns()).all()
    assert (ends[1:] >= ends[:-1]).all()
    assert (found.dax_records["guest_address"] - found.dax_records["window_offset"] == BASE).all()
    assert set(found.dax_records["session"].tolist()) == {dax.session.id}
    assert (recorder.dax_recorded, recorder.dax_dropped, recorder.recorded) == (18, 0, 0)
    failed = found.sql("select count(*) as n from dax where error != 0").to_pylist()[0]["n"]
    summary = found.summary().dax
    assert summary is not None
    assert (summary.count, summary.failed, summary.dropped, summary.complete) == (18, failed, 0, True)
    assert found.dax_info is not None
    (window,) = found.dax_info.sessions[0].regions
    assert (window.guest_address, window.size, window.page_size) == (BASE, SIZE, 4096)
    assert sorted(each.name for each in tmp_path.glob("t.*")) == ["t.dax.parquet", "t.parquet"]


def replayed(rows: list[Row]) -> dict[int, tuple[int, str]]:
    """What the events leave mapped, granule by granule: window offset to (file offset, permissions)."""
    mapped: dict[int, tuple[int, str]] = {}
    for kind, start, offset, length, prot, _, error in rows:
        if error and (kind in ("set_up", "replace") or error == errno.EINVAL):
            continue
        for at in range(start, start + length, 4096):
            mapped.pop(at, None)
            if kind in ("set_up", "replace"):
                mapped[at] = offset + at - start, prot
    return mapped


@pytest.mark.parametrize("seed", range(4))
def test_the_events_tell_what_is_mapped(make_dax: Callable[..., Dax], tmp_path: Path, seed: int) -> None:
    path = tmp_path / "t.arrow"
    dax = make_dax(quota=48 * 4096, granule=4096)
    numbers = random.Random(seed)
    with TraceRecorder(path, dax.session) as recorder:
        for _ in range(800):
            at, size = 4096 * numbers.randrange(64), 4096 * numbers.randrange(40)
            if numbers.random() < 0.1:
                dax.mapper.fail_maps(numbers.choice([0, errno.ENOMEM]))
            if numbers.random() < 0.7:
                dax.set_up(at, 4096 * numbers.randrange(100), size, flags=numbers.choice([2, 3]))
            elif numbers.random() < 0.97:
                dax.remove((at, size))
            else:
                dax.session.reset()
        mappings = dax.session.mappings()
        evicted, failed = dax.session.stats.evicted, dax.session.stats.failed
    found = Trace.open(path)
    expected = {
        int(one["window_offset"]) + at: (int(one["file_offset"]) + at, RW if one["prot"] & 2 else R)
        for one in mappings
        for at in range(0, int(one["length"]), 4096)
    }
    assert replayed(rows_of(found)) == expected
    summary = found.summary().dax
    assert summary is not None
    assert summary.failed == failed > 0
    assert evicted > 0
    assert recorder.dax_dropped == 0


def test_a_mapping_that_a_failed_set_up_took_with_it_is_told(tmp_path: Path) -> None:
    class Mapper:
        def __init__(self) -> None:
            self.works = True

        def map(self, guest_address: int, lease: object, prot: int) -> None:
            if not self.works:
                raise OSError(errno.EIO, "no")

        def restore(self, guest_address: int, lease: object, prot: int) -> None:
            raise OSError(errno.EIO, "no")

        def unmap(self, guest_address: int, length: int) -> None: ...

    (tmp_path / "file").write_bytes(bytes(CHUNK))
    files, mapper, path = HostFiles(), Mapper(), tmp_path / "t.parquet"
    node = files.add(tmp_path / "file")
    session = DaxSession(files, mapper, guest_base=BASE, size=SIZE)
    with TraceRecorder(path, session):
        session.set_up(node, 0, 0, 8 * 4096)
        mapper.works = False
        with pytest.raises(OSError, match="SETUPMAPPING"):
            session.set_up(node, 4 * 4096, 0, 8 * 4096)
        assert session.stats.lost == 1
    assert rows_of(Trace.open(path))[1:] == [
        ("lost", 4 * 4096, 4 * 4096, 4 * 4096, R, node, errno.EIO),
        ("set_up", 4 * 4096, 0, 8 * 4096, R, node, errno.EIO),
    ]


def test_events_that_nobody_took_in_time_are_counted_and_placed(dax: Dax, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with TraceRecorder(path, dax.session, ring_records=4) as recorder:
        dax.set_up(0)
        eventually(lambda: recorder.dax_recorded == 1)
        with collector()._lock:
            for _ in range(11):
                assert dax.set_up(0) == 0, "no request waits for the recorder"
    found = Trace.open(path)
    assert len(found.dax_records) == recorder.dax_recorded == 5
    assert found.dax_info is not None
    (gap,) = found.dax_info.gaps
    assert (gap.after, gap.session, gap.dropped, gap.where) == (5, dax.session.id, 7, "ring")
    summary = found.summary()
    assert summary.dax is not None
    assert summary.dax.dropped == recorder.dax_dropped == dax.session.dropped_records == 7
    assert summary.dropped == recorder.dropped == 0, "no fault is missing"
    assert any(advice.title == "7 DAX events are missing" for advice in found.advice())


def test_a_disk_that_is_too_slow_loses_events_and_says_so(dax: Dax, tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    with TraceRecorder(path, dax.session, max_pending=0) as recorder:
        dax.set_up(0)
        dax.remove((0, CHUNK))
    assert (recorder.dax_recorded, recorder.dax_dropped) == (0, 2)
    about = Trace.open(path).dax_info
    assert about is not None
    assert (about.dropped, {gap.where for gap in about.gaps}) == (2, {"writer"})


def test_only_what_happens_while_it_records_is_in_it(dax: Dax, tmp_path: Path) -> None:
    dax.session.enable_trace(64)
    dax.set_up(0)
    with TraceRecorder(tmp_path / "t.parquet", dax.session) as recorder:
        dax.set_up(CHUNK)
        with pytest.raises(StateError, match="a TraceRecorder takes the DAX events"):
            dax.session.take_records()
    dax.set_up(2 * CHUNK)
    assert (recorder.dax_recorded, recorder.dax_dropped) == (1, 0)
    assert dax.session.take_records()["window_offset"].tolist() == [2 * CHUNK], "its owner's trace goes on"


def test_the_owners_switch_does_not_end_a_recording_nor_the_recording_the_owners(dax: Dax, tmp_path: Path) -> None:
    with TraceRecorder(tmp_path / "t.parquet", dax.session) as recorder:
        dax.session.enable_trace(64)
        dax.session.disable_trace()
        dax.set_up(0)
    dax.set_up(CHUNK)
    assert recorder.dax_recorded == 1
    assert len(dax.session.take_records()) == 0, "it was off again"
    with TraceRecorder(tmp_path / "u.parquet", dax.session) as second:
        dax.set_up(CHUNK)
    assert second.dax_recorded == 1


def test_two_recorders_have_each_what_came_in_their_time(dax: Dax, tmp_path: Path) -> None:
    with TraceRecorder(tmp_path / "a.parquet", dax.session):
        dax.set_up(0)
        with TraceRecorder(tmp_path / "b.parquet", dax.session):
            dax.set_up(CHUNK)
        dax.set_up(2 * CHUNK)
    a, b = (Trace.open(tmp_path / name).dax_records["window_offset"].tolist() for name in ("a.parquet", "b.parquet"))
    assert a == [0, CHUNK, 2 * CHUNK]
    assert b == [CHUNK]


def test_several_sessions_go_into_one_table_beside_the_faults_of_any_server(
    make_dax: Callable[..., Dax], tmp_path: Path, tmp_socket: Path
) -> None:
    path = tmp_path / "t.parquet"
    first, second = make_dax(), make_dax(base=2 * BASE)
    sessions = [first.session, second.session, first.session]
    with (
        ZeroSource(1 << 20) as source,
        PageServer(tmp_socket, source) as server,
        TraceRecorder(path, server, dax=sessions) as recorder,
    ):
        first.set_up(0)
        second.set_up(CHUNK)
        second.remove((CHUNK, CHUNK))
    assert recorder.dax_recorded == 3, "one that is named twice is one"
    found = Trace.open(path)
    assert found.dax_info is not None
    assert [each.id for each in found.dax_info.sessions] == [first.session.id, second.session.id]
    assert found.sql("select session, count(*) as n from dax group by session order by session").to_pylist() == [
        {"session": first.session.id, "n": 1},
        {"session": second.session.id, "n": 2},
    ]
    assert "3 DAX events, 0 dropped" in repr(recorder)


def test_a_recording_holds_no_session_alive(make_dax: Callable[..., Dax], tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    dax = make_dax()
    files = dax.files
    with TraceRecorder(path, dax.session) as recorder:
        dax.set_up(0)
        del dax
        gc.collect()
        assert files.leases == 0
        eventually(lambda: recorder.dax_recorded == 2)
    assert [row[0] for row in rows_of(Trace.open(path))] == ["set_up", "reset"]


@pytest.mark.parametrize("name", ["t.dax.parquet", "t.dax.parquet.recording.arrow"])
def test_no_file_of_a_recording_is_written_over(dax: Dax, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(VmthawFileExistsError, match="another name, or overwrite"):
        TraceRecorder(tmp_path / "t.parquet", dax.session).start()
    assert (tmp_path / name).read_bytes() == b"precious"
    with TraceRecorder(tmp_path / "t.parquet", dax.session, overwrite=True):
        dax.set_up(0)
    assert len(Trace.open(tmp_path / "t.parquet").dax_records) == 1


def test_a_recording_that_cannot_begin_leaves_the_session_as_it_was(dax: Dax, tmp_path: Path) -> None:
    with pytest.raises(VmthawOSError, match=r"t\.dax\.parquet\.recording\.arrow cannot be made: No such file"):
        TraceRecorder(tmp_path / "none" / "t.parquet", dax.session).start()
    with pytest.raises(VmthawValueError, match="a ring of DAX events must have from 1 to"):
        TraceRecorder(tmp_path / "t.parquet", dax.session, ring_records=0).start()
    for wrong in (5, [5], "file"):
        with pytest.raises(VmthawValueError, match="DAX events are recorded of a DaxSession, or several, not of"):
            TraceRecorder(tmp_path / "t.parquet", dax.session, dax=wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("t.*"))
    dax.session.enable_trace(8)
    dax.set_up(0)
    assert len(dax.session.take_records()) == 1
    with pytest.raises(VmthawValueError, match="from 1 to"):
        dax.session.enable_trace(0)
