"""Files of a file system in Python, mapped by a DAX session."""

from __future__ import annotations

import errno
import logging
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import pytest

from tests.support.fuse_client import REMOVEMAPPING, ROOT, SETUPMAPPING, Client
from vmthaw import FuseDispatcher, PythonFs
from vmthaw.dax import DaxSession, Lease, WindowMapper
from vmthaw.filesystem import Attributes, FileSystem

GRANULE = 16384
BASE = 0x80_0000_0000


class Mapped(FileSystem):
    """One file, "data", which lies in a file of the host."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.asked: list[tuple[str, int, int, bool]] = []
        self.given_back: list[Any] = []
        self.give: Callable[[int, int], Any] = lambda _offset, _length: self.file

    def getattr(self, path: PurePosixPath) -> Attributes:
        if path.name == "data":
            return Attributes.file(os.fstat(self.file.fileno()).st_size)
        if path.name == "":
            return Attributes.directory()
        raise FileNotFoundError

    def dax_map(self, path: PurePosixPath, offset: int, length: int, writable: bool) -> Any:
        self.asked.append((str(path), offset, length, writable))
        return self.give(offset, length)

    def dax_unmap(self, given: Any) -> None:
        self.given_back.append(given)


class Guest(Client):
    """Maps and looks."""

    def set_up(self, node: int, *, at: int = 0, offset: int = 0, length: int = GRANULE, write: bool = False) -> int:
        """The errno."""
        body = struct.pack("<5Q", 2**64 - 1, offset, length, 3 if write else 2, at)
        try:
            self.ask(SETUPMAPPING, node, body)
        except OSError as error:
            return error.errno or 0
        return 0

    def remove(self, *, at: int = 0, length: int = GRANULE) -> None:
        """One range."""
        self.ask(REMOVEMAPPING, 0, struct.pack("<IQQ", 1, at, length))


@pytest.fixture
def fs() -> Iterator[Mapped]:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123" * GRANULE)
        file.flush()
        yield Mapped(file)


@pytest.fixture
def window() -> WindowMapper:
    return WindowMapper(guest_base=BASE, size=16 * GRANULE)


@pytest.fixture
def guest(fs: Mapped, window: WindowMapper) -> Iterator[Guest]:
    backend = PythonFs(fs)
    with DaxSession(backend, window, granule=GRANULE) as session:
        guest = Guest(FuseDispatcher(backend, dax=session))
        guest.init()
        yield guest
        guest.dispatcher.reset()


def test_the_guest_sees_and_writes_the_bytes_of_the_file_that_was_given(
    guest: Guest, fs: Mapped, window: WindowMapper
) -> None:
    node, _ = guest.lookup(ROOT, "data")
    assert guest.set_up(node, at=GRANULE, offset=2 * GRANULE, write=True) == 0
    assert fs.asked == [("/data", 2 * GRANULE, GRANULE, True)]
    assert bytes(window.read(BASE + GRANULE, 4)) == b"0123"
    window.write(BASE + GRANULE, b"abcd")
    assert os.pread(fs.file.fileno(), 4, 2 * GRANULE) == b"abcd"
    assert fs.given_back == []
    guest.remove(at=GRANULE)
    assert fs.given_back == [fs.file]


def test_a_lease_of_a_part_and_a_bare_descriptor_do_as_well(guest: Guest, fs: Mapped, window: WindowMapper) -> None:
    node, _ = guest.lookup(ROOT, "data")
    os.pwrite(fs.file.fileno(), b"part", 3 * GRANULE)
    fs.give = lambda _offset, length: Lease(fs.file.fileno(), 3 * GRANULE, length)
    assert guest.set_up(node) == 0
    assert bytes(window.read(BASE, 4)) == b"part"
    fs.give = lambda _offset, _length: fs.file.fileno()
    assert guest.set_up(node, at=2 * GRANULE, offset=GRANULE) == 0
    assert bytes(window.read(BASE + 2 * GRANULE, 4)) == b"0123"
    guest.init()  # a new client: every mapping goes
    assert len(fs.given_back) == 2
    assert isinstance(fs.given_back[0], Lease) or isinstance(fs.given_back[1], Lease)


def test_a_file_system_without_mappings_refuses_them(guest: Guest, fs: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    node, _ = guest.lookup(ROOT, "data")

    def refuse(_offset: int, _length: int) -> Any:
        raise PermissionError

    fs.give = refuse
    assert guest.set_up(node) == errno.EACCES
    monkeypatch.setattr(Mapped, "dax_map", FileSystem.dax_map)
    assert guest.set_up(node) == errno.ENOSYS
    assert fs.given_back == []
    assert guest.set_up(99) == errno.ESTALE


@pytest.mark.parametrize("given", [-1, 2**40, "text", None])
def test_what_is_no_file_is_eio_and_goes_back_at_once(
    guest: Guest, fs: Mapped, given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node, _ = guest.lookup(ROOT, "data")
    fs.give = lambda _offset, _length: given
    with caplog.at_level(logging.ERROR, "vmthaw.filesystem"):
        assert guest.set_up(node) == errno.EIO
    assert len(caplog.records) == 1
    assert fs.given_back == [given]


def test_what_cannot_be_mapped_is_refused_and_given_back(guest: Guest, fs: Mapped) -> None:
    node, _ = guest.lookup(ROOT, "data")
    ends = os.pipe()
    try:
        fs.give = lambda _offset, _length: ends[0]
        assert guest.set_up(node) == errno.ENODEV
        assert fs.given_back == [ends[0]]
    finally:
        for end in ends:
            os.close(end)
