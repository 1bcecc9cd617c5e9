"""Files that appear whole or not at all, and all who write such."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vmthaw import FileSource, WorkingSet
from vmthaw._snapshot_merge import write_whole
from vmthaw._snapshot_pack import pack, unpack
from vmthaw._whole_file import whole_file, write_at

PAGE = 4096
CONTENT = b"".join(os.urandom(PAGE) if number % 3 else bytes(PAGE) for number in range(40)) + b"a part of a page"


def unpacked(folder: Path, out: Path) -> None:
    if not (folder / "packed").exists():
        with FileSource(folder / "memory") as source:
            pack(source, folder / "packed", "one", chunk_bytes=2 * PAGE)
    unpack(folder / "packed", "one", out)


def written_whole(folder: Path, out: Path) -> None:
    with FileSource(folder / "memory") as source:
        write_whole(source, out, lambda _done: None)


def saved(_folder: Path, out: Path) -> None:
    WorkingSet([number * PAGE for number in (9, 2, 77, 4)], page_size=PAGE).save(out)


WRITERS = {"unpack": unpacked, "write_whole": written_whole, "WorkingSet.save": saved}
Writer = Callable[[Path, Path], None]


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Writer:
    (tmp_path / "memory").write_bytes(CONTENT)
    (tmp_path / "out").mkdir()
    found: Writer = WRITERS[request.param]
    found(tmp_path, tmp_path / "expected")  # and what it needs is there
    return found


def test_a_disk_that_takes_a_part_of_each_write_gets_all_at_its_place(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: really(file, memoryview(data)[:1000], offset))
    writer(tmp_path, tmp_path / "out" / "file")
    assert (tmp_path / "out" / "file").read_bytes() == (tmp_path / "expected").read_bytes()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_one_that_fails_leaves_what_was_there_and_nothing_else(
    writer: Writer, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "file").write_bytes(b"what was there")

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(type(error)):
        writer(tmp_path, tmp_path / "out" / "file")
    assert (tmp_path / "out" / "file").read_bytes() == b"what was there"
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "file"]


def test_it_is_not_there_before_it_is_whole(writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.pwrite
    during: list[bool] = []

    def look(file: int, data: bytes, offset: int) -> int:
        during.append((tmp_path / "out" / "file").exists())
        return really(file, data, offset)

    monkeypatch.setattr(os, "pwrite", look)
    writer(tmp_path, tmp_path / "out" / "file")
    assert during
    assert not any(during)


def test_a_chunk_goes_to_its_place_in_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory").write_bytes(CONTENT)
    really = os.pwrite
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda file, data, offset: really(file, memoryview(data)[:1000], offset))
        with FileSource(tmp_path / "memory") as source:
            pack(source, tmp_path / "packed", "one", chunk_bytes=2 * PAGE)
    unpack(tmp_path / "packed", "one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT


def test_bytes_are_written_where_they_belong(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as file:
        write_at(file, 5, b"world")
        write_at(file, 0, b"hello")
        write_at(file, 10, b"")
    assert (tmp_path / "file").read_bytes() == b"helloworld"


def test_the_longest_name_has_a_file_too(writer: Writer, tmp_path: Path) -> None:
    writer(tmp_path, tmp_path / "out" / ("n" * 255))
    assert (tmp_path / "out" / ("n" * 255)).read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_working_set_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        saved(tmp_path, tmp_path / "set")
    finally:
        os.umask(old)
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o640
