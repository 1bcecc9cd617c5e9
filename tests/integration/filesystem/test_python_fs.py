"""File systems written in Python, mounted, with the kernel as their client."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.support.eventually import PATIENCE, eventually
from tests.support.python_file_systems import DictFs
from vmthaw.filesystem import Attributes, FileSystem, PythonFs
from vmthaw.fuse import FuseServer

pytestmark = pytest.mark.usefixtures("fuse_available")


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """An empty directory to mount on."""
    path = tmp_path / "mount"
    path.mkdir()
    return path


class Counting(DictFs):
    """Notes for which names it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def getattr(self, path: PurePosixPath) -> Attributes:
        self.asked.append(str(path))
        return super().getattr(path)


@pytest.fixture
def fs() -> Counting:
    return Counting()


@pytest.fixture
def mounted(fs: Counting, where: Path) -> Iterator[Path]:
    """`fs` there; nothing is held when it has gone."""
    backend = PythonFs(fs)
    with FuseServer(backend, where):
        yield where
    assert (backend.held_nodes, backend.open_handles, fs.open_files) == (0, 0, [])
    assert fs.calls[-1] == "destroy"


def test_files_are_written_read_changed_and_removed(mounted: Path, fs: Counting) -> None:
    (mounted / "dir").mkdir(mode=0o750)
    file = mounted / "dir" / "file"
    file.write_bytes(b"some bytes")
    with file.open("ab") as appending:
        appending.write(b", more")
    assert file.read_bytes() == b"some bytes, more"
    os.truncate(file, 4)
    assert (file.stat().st_size, file.read_bytes()) == (4, b"some")
    file.chmod(0o600)
    os.utime(file, ns=(1, 5_000_000_007))
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_mtime_ns) == (0o600, 5_000_000_007)
    file.rename(mounted / "moved")
    with (mounted / "moved").open("rb") as still_open:
        (mounted / "moved").unlink()
        assert still_open.read() == b"some", "an unlinked file goes on while it is open"
    (mounted / "dir").rmdir()
    assert fs.paths() == []


def test_a_long_listing_with_attributes_asks_for_no_name(mounted: Path, fs: Counting) -> None:
    names = [f"file{number:03}" for number in range(300)]
    for name in names:
        fs.release(PurePosixPath("/", name), fs.create(PurePosixPath("/", name), 0o640, 0))
    fs.asked.clear()
    with os.scandir(mounted) as entries:
        sizes = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    assert sizes == dict.fromkeys(names, stat.S_IFREG | 0o640)
    # The kernel lists plainly once it sees that nobody asks between two of its requests; most come with the first.
    assert len([path for path in fs.asked if path != "/"]) < len(names)
    assert fs.asked.count("/file000") == 0


class Failing(FileSystem):
    """A name is the error that it raises."""

    def getattr(self, path: PurePosixPath) -> Attributes:
        if path.name == "":
            return Attributes.directory()
        if path.name == "file":
            return Attributes.file(10)
        if path.name.startswith("E"):
            raise OSError(getattr(errno, path.name), "as its name says")
        raise {"wrong": KeyError, "denied": PermissionError}.get(path.name, FileNotFoundError)("x")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EXDEV", errno.EXDEV),
        ("ESTALE", errno.ESTALE),
        ("EDQUOT", errno.EDQUOT),
        ("missing", errno.ENOENT),
        ("wrong", errno.EIO),
        ("denied", errno.EACCES),
    ],
)
def test_what_a_method_raises_is_the_callers_errno(
    name: str, expected: int, where: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FuseServer(Failing(), where):
        with pytest.raises(OSError, match=r".") as caught:
            (where / name).stat()
        assert caught.value.errno == expected
        assert (where / "file").stat().st_size == 10, "and it goes on"
    assert len(caplog.records) == (1 if expected == errno.EIO else 0)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda place: (place / "new").write_bytes(b""), errno.ENOSYS),
        (lambda place: (place / "new").mkdir(), errno.ENOSYS),
        (lambda place: (place / "file").unlink(), errno.ENOSYS),
        (os.listdir, errno.ENOSYS),
        (lambda place: os.getxattr(place / "file", "user.name"), errno.EOPNOTSUPP),
        (lambda place: (place / "file").read_bytes(), errno.ENOSYS),
    ],
    ids=["create", "mkdir", "unlink", "listdir", "getxattr", "read"],
)
def test_what_is_not_overridden_is_refused(call: Any, expected: int, where: Path) -> None:
    with FuseServer(Failing(), where):
        with pytest.raises(OSError, match=r".") as caught:
            call(where)
        assert caught.value.errno == expected


class Meeting(FileSystem):
    """Reads that wait for each other: `expected` of them must be there before one is answered."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.there = 0
        self.most = 0
        self.all_there = asyncio.Event()
        self.cancelled = threading.Event()
        self.waiting = threading.Event()

    async def getattr(self, path: PurePosixPath) -> Attributes:
        return Attributes.directory() if path.name == "" else Attributes.file(5)

    async def read(self, path: PurePosixPath, size: int, offset: int, handle: Any) -> bytes:
        self.there += 1
        self.most = max(self.most, self.there)
        self.waiting.set()
        try:
            if self.there == self.expected:
                self.all_there.set()
            await self.all_there.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"12345"[offset : offset + size]


def test_coroutines_of_several_callers_run_at_once(where: Path) -> None:
    fs = Meeting(4)
    with FuseServer(fs, where, threads=4), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: (where / f"file{number}").read_bytes(), range(4), timeout=20 * PATIENCE))
    assert found == [b"12345"] * 4
    assert fs.most == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_caller_cancels_its_coroutine(where: Path, number: signal.Signals) -> None:
    fs = Meeting(1000)
    with FuseServer(fs, where):
        code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); open(sys.argv[1]).read()"
        command = [sys.executable, "-c", code, str(where / "file")]
        reader = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert reader.stderr is not None
        try:
            assert fs.waiting.wait(20 * PATIENCE)
            reader.send_signal(number)
            assert fs.cancelled.wait(20 * PATIENCE)
            _, errors = reader.communicate(timeout=20 * PATIENCE)
        finally:
            reader.kill()
            reader.wait()
            reader.stderr.close()
        assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)
        fs.expected = fs.there + 1
        assert (where / "another").read_bytes() == b"12345", "and it goes on"


def test_locks_are_the_kernels_and_there_is_no_ioctl(mounted: Path) -> None:
    (mounted / "file").write_bytes(b"x")
    one = os.open(mounted / "file", os.O_RDWR)
    other = os.open(mounted / "file", os.O_RDWR)
    try:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(one, fcntl.LOCK_EX)
        code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        child = subprocess.run(
            [sys.executable, "-c", code, str(mounted / "file")], capture_output=True, text=True, timeout=60, check=False
        )
        assert "BlockingIOError" in child.stderr
        with pytest.raises(OSError, match=r".") as caught:
            fcntl.ioctl(one, 0x5678)
        assert caught.value.errno == errno.ENOTTY
    finally:
        os.close(one)
        os.close(other)


def test_a_coroutine_that_never_ends_does_not_keep_the_mount(where: Path) -> None:
    fs = Meeting(1000)
    server = FuseServer(fs, where).start()
    errors: list[int | None] = []

    def read() -> None:
        try:
            (where / "file").read_bytes()
        except OSError as error:
            errors.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    assert fs.waiting.wait(20 * PATIENCE)
    server.stop(0.1)
    reader.join(20 * PATIENCE)
    assert errors, "the reader was let go"
    eventually(lambda: "vmthaw-fs" not in {thread.name for thread in threading.enumerate()})
