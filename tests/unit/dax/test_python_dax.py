"""Mappers and backends written in Python: re-entry, exceptions as errnos, leases given back once."""

from __future__ import annotations

import errno
import gc
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from vmthaw.dax import READ, WRITE, DaxSession, HostFiles, Lease, RecordingMapper, WindowMapper

BASE = 0x1000_0000
CHUNK = 2 << 20


class Files:
    """A backend over one temporary file."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the backend
        self.file.truncate(4 * CHUNK)
        self.out: list[Lease] = []
        self.given = 0
        self.during: Callable[[], object] | None = None

    def dax_map(self, node: int, handle: int, offset: int, length: int, prot: int) -> Lease:
        assert (handle, prot & READ) == ((1 << 64) - 1, READ)
        if self.during is not None:
            call, self.during = self.during, None
            call()
        if node != 1:
            raise FileNotFoundError(errno.ENOENT, "no such node")
        lease = Lease(self.file.fileno(), offset, length)
        self.given += 1
        self.out.append(lease)
        return lease

    def dax_unmap(self, lease: Lease) -> None:
        (index,) = (index for index, mine in enumerate(self.out) if mine is lease)
        del self.out[index]


class Mapper:
    """Keeps calls, raises what it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.error: BaseException | None = None

    def map(self, guest_address: int, lease: Lease, prot: int) -> None:
        self.calls.append(("map", guest_address, lease.offset, lease.length, prot))
        self._fail()

    def unmap(self, guest_address: int, length: int) -> None:
        self.calls.append(("unmap", guest_address, length))
        self._fail()

    def _fail(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.file.close()


def session_of(files: object, mapper: object) -> DaxSession:
    return DaxSession(files, mapper, guest_base=BASE, size=64 * CHUNK)  # type: ignore[arg-type]


def test_python_on_both_sides_gets_leases_and_guest_addresses(files: Files) -> None:
    mapper = Mapper()
    with session_of(files, mapper) as session:
        session.set_up(1, CHUNK, 0, 2 * CHUNK)
        session.set_up(1, CHUNK, 0, CHUNK, write=True)
        session.remove(0, 64 * CHUNK)
        assert mapper.calls == [
            ("map", BASE + CHUNK, 0, 2 * CHUNK, READ),
            ("map", BASE + CHUNK, 0, CHUNK, READ | WRITE),
            ("unmap", BASE + CHUNK, CHUNK),
            ("unmap", BASE + 2 * CHUNK, CHUNK),
        ]
        assert (files.given, files.out) == (2, [])


def test_a_python_mapper_may_stand_before_one_of_the_core(files: Files) -> None:
    window = WindowMapper(BASE, 64 * CHUNK)

    class Counting:
        maps = 0

        def map(self, guest_address: int, lease: Lease, prot: int) -> None:
            self.maps += 1
            window.map(guest_address, lease, prot)

        def unmap(self, guest_address: int, length: int) -> None:
            window.unmap(guest_address, length)

    mapper = Counting()
    with session_of(files, mapper) as session:
        session.set_up(1, 0, 0, CHUNK, write=True)
        window.write(BASE + 5, b"through")
        assert os.pread(files.file.fileno(), 7, 5) == b"through"
    assert mapper.maps == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (PermissionError(errno.EACCES, "no"), errno.EACCES),
        (OSError("no errno"), errno.EIO),
        (OSError(-5, "odd"), errno.EIO),
        (RuntimeError("a fault"), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
    ],
)
def test_exceptions_become_errnos(
    files: Files, error: BaseException, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    mapper = Mapper()
    session = session_of(files, mapper)
    session.set_up(1, 0, 0, CHUNK)
    mapper.error = error
    with caplog.at_level(logging.ERROR, "vmthaw.dax"), pytest.raises(OSError, match="SETUPMAPPING") as raised:
        session.set_up(1, 0, CHUNK, CHUNK)
    assert raised.value.errno == expected
    assert bool(caplog.records) == (expected == errno.EIO)
    assert session.mappings()["file_offset"].tolist() == [0], "the old one survives"
    assert len(files.out) == 1
    mapper.error = error
    with caplog.at_level(logging.ERROR, "vmthaw.dax"), pytest.raises(OSError, match="REMOVEMAPPING"):
        session.remove(0, CHUNK)
    assert session.active_slot_count == 0
    assert files.out == []


def test_a_backend_that_raises_or_gives_no_lease_is_an_errno(
    files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(files, RecordingMapper())
    with pytest.raises(FileNotFoundError):
        session.set_up(2, 0, 0, CHUNK)
    monkeypatch.setattr(files, "dax_map", lambda *_: (3, 0, CHUNK))
    with caplog.at_level(logging.ERROR, "vmthaw.dax"), pytest.raises(OSError, match="SETUPMAPPING") as raised:
        session.set_up(1, 0, 0, CHUNK)
    assert raised.value.errno == errno.EIO
    assert "dax_map raised" in caplog.text


def test_methods_may_call_the_session_for_other_ranges(files: Files) -> None:
    session = session_of(files, RecordingMapper())
    errors: list[int | None] = []

    def during() -> None:
        session.set_up(1, 8 * CHUNK, 0, CHUNK)
        session.remove(30 * CHUNK, CHUNK)
        assert session.active_slot_count == 1
        at_hand: tuple[Callable[[], object], ...] = (
            lambda: session.set_up(1, CHUNK, 0, CHUNK),
            lambda: session.remove(0, CHUNK),
            session.reset,
            session.close,
        )
        for same in at_hand:
            with pytest.raises(OSError, match=r"MAPPING|DAX session") as raised:
                same()
            errors.append(raised.value.errno)

    files.during = during
    session.set_up(1, 0, 0, 2 * CHUNK)
    assert errors == [errno.EBUSY] * 4
    assert session.mappings()["window_offset"].tolist() == [0, 8 * CHUNK]


def test_another_thread_waits_for_the_range_and_only_for_that(files: Files) -> None:
    session = session_of(files, RecordingMapper())
    order: list[str] = []
    threads: list[threading.Thread] = []

    def remove() -> None:
        session.remove(0, CHUNK)
        order.append("removed")

    def during() -> None:
        threads.append(threading.Thread(target=remove))
        threads[0].start()
        other = threading.Thread(target=session.set_up, args=(1, 8 * CHUNK, 0, CHUNK))
        other.start()
        other.join(20)
        assert not other.is_alive()
        order.append("mapped")

    files.during = during
    session.set_up(1, 0, 0, CHUNK)
    threads[0].join(20)
    assert order == ["mapped", "removed"]
    assert session.mappings()["window_offset"].tolist() == [8 * CHUNK]


def test_the_end_of_the_session_gives_everything_back(files: Files) -> None:
    mapper = Mapper()
    session = session_of(files, mapper)
    session.set_up(1, 0, 0, CHUNK)
    session.set_up(1, 4 * CHUNK, 0, CHUNK)
    gone = weakref.ref(mapper)
    del session
    gc.collect()
    assert files.out == []
    assert [call[0] for call in mapper.calls] == ["map", "map", "unmap", "unmap"]
    del mapper
    gc.collect()
    assert gone() is None


def test_storms_of_threads_lose_no_lease(files: Files) -> None:
    session = session_of(files, Mapper())

    def work(number: int) -> None:
        for i in range(100):
            first = (number * 3 + i) % 6
            session.set_up(1, first * CHUNK, 0, 2 * CHUNK)
            session.remove((first + 1) * CHUNK, CHUNK)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert session.stats.leases_taken - session.stats.leases_released == len(files.out)
    session.close()
    assert files.out == []
    assert isinstance(HostFiles().leases, int)
