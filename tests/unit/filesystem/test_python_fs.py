"""File systems written in Python, asked by bytes as the kernel asks."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.support import fuse_client as fuse
from tests.support.eventually import PATIENCE, eventually
from tests.support.fuse_client import ROOT, Client
from tests.support.python_file_systems import DictFs
from vmthaw import FileSystem, FuseDispatcher, PythonFs
from vmthaw.filesystem import Attributes, backend_of


class Hello(FileSystem):
    """What the module's docstring shows."""

    def getattr(self, path: PurePosixPath) -> Attributes:
        if path.name == "":
            return Attributes.directory()
        if path.name == "hello":
            return Attributes.file(6, permissions=0o444)
        raise FileNotFoundError

    def readdir(self, path: PurePosixPath) -> list[str]:
        return ["hello"]

    def read(self, path: PurePosixPath, size: int, offset: int, handle: Any) -> bytes:
        return b"hello!"[offset : offset + size]


def client_of(fs: FileSystem) -> Client:
    client = Client(FuseDispatcher(PythonFs(fs)))
    client.init()
    return client


@pytest.fixture
def fs() -> DictFs:
    return DictFs()


@pytest.fixture
def client(fs: DictFs) -> Iterator[Client]:
    client = client_of(fs)
    yield client
    client.dispatcher.reset()
    assert fs.open_files == []


def errno_of(call: Callable[..., Any], *arguments: Any) -> int | None:
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0


def test_three_methods_make_a_file_that_can_be_read() -> None:
    client = client_of(Hello())
    assert set(client.names(ROOT)) == {".", "..", "hello"}
    node, attributes = client.lookup(ROOT, "hello")
    assert (attributes.size, attributes.mode) == (6, stat.S_IFREG | 0o444)
    handle = client.open(node)
    assert client.read(node, handle, 4, 3) == b"lo!"
    assert client.read(node, handle, 4, 6) == b""
    client.release(node, handle)
    assert errno_of(client.lookup, ROOT, "other") == errno.ENOENT
    assert errno_of(client.write, node, client.open(node), b"x") == errno.ENOSYS


def test_a_file_is_created_written_read_renamed_and_removed(client: Client, fs: DictFs) -> None:
    directory = client.mkdir(ROOT, "dir")
    node, handle = client.create(directory, "file")
    assert client.write(node, handle, b"some bytes", 2) == 10
    assert client.read(node, handle) == b"\0\0some bytes"
    assert client.getattr(node).size == 12
    client.rename(directory, "file", ROOT, "moved")
    assert client.read(node, handle) == b"\0\0some bytes"
    client.rename(ROOT, "dir", ROOT, "directory")
    assert fs.paths() == ["/directory", "/moved"]
    client.release(node, handle)
    client.unlink(ROOT, "moved")
    assert errno_of(client.lookup, ROOT, "moved") == errno.ENOENT
    assert fs.open_files == []


def test_attributes_change_one_by_one(client: Client, fs: DictFs) -> None:
    node, handle = client.create(ROOT, "file")
    client.write(node, handle, b"0123456789")
    assert client.setattr(node, 8, size=4).size == 4
    assert client.setattr(node, 1, mode=0o100600).mode == stat.S_IFREG | 0o600
    assert client.setattr(node, 2, uid=7).uid == 7
    assert client.setattr(node, 32, mtime_s=5).mtime_ns == 5 * 10**9
    assert fs.calls[-4:] == ["truncate", "chmod", "chown", "utimens"]
    client.release(node, handle)


def test_open_with_truncation_cuts_the_file(client: Client) -> None:
    node, handle = client.create(ROOT, "file")
    client.write(node, handle, b"0123456789")
    other = client.open(node, os.O_WRONLY | os.O_TRUNC)
    assert client.getattr(node).size == 0
    client.release(node, handle)
    client.release(node, other)


def test_what_is_not_overridden_answers_enosys(client: Client) -> None:
    node, handle = client.create(ROOT, "file")
    body = struct.pack("<QQQII", handle, 0, 10, 0, 0)
    assert errno_of(client.ask, fuse.FALLOCATE, node, body) == errno.ENOSYS
    assert errno_of(client.ask, fuse.LISTXATTR, node, bytes(8)) == errno.ENOSYS
    copy = struct.pack("<7Q", handle, 0, node, handle, 8, 4, 0)
    assert errno_of(client.ask, fuse.COPY_FILE_RANGE, node, copy) == errno.ENOSYS, "the kernel then reads and writes"
    assert errno_of(client.ask, fuse.READDIRPLUS, ROOT, bytes(40)) == errno.EBADF
    client.ask(fuse.FLUSH, node, struct.pack("<QIIQ", handle, 0, 0, 0))
    client.ask(fuse.STATFS, ROOT)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EXDEV, "no"), errno.EXDEV),
        (FileNotFoundError(), errno.ENOENT),
        (PermissionError("no"), errno.EACCES),
        (IsADirectoryError(), errno.EISDIR),
        (NotImplementedError(), errno.ENOSYS),
        (asyncio.CancelledError(), errno.EINTR),
    ],
)
def test_an_exception_becomes_its_errno_and_no_line_in_the_log(
    error: BaseException, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Hello):
        def getattr(self, path: PurePosixPath) -> Attributes:
            raise error

    assert errno_of(client_of(Failing()).lookup, ROOT, "x") == expected
    assert caplog.records == []


@pytest.mark.parametrize(
    "error", [KeyError("gone"), OSError("without a number"), OSError(70000, "odd"), ZeroDivisionError()]
)
def test_any_other_exception_is_eio_and_is_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Hello):
        def getattr(self, path: PurePosixPath) -> Attributes:
            raise error

    with caplog.at_level(logging.ERROR, "vmthaw.filesystem"):
        assert errno_of(client_of(Failing()).lookup, ROOT, "x") == errno.EIO
    assert [record.getMessage() for record in caplog.records] == ["lookup(/x) of Failing raised"]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize("answer", [None, "text", Attributes(mode=0o644), Attributes(mode=0o100644, size=-1)])
def test_wrong_attributes_are_eio(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Hello):
        def getattr(self, path: PurePosixPath) -> Attributes:
            return answer  # type: ignore[no-any-return]

    assert errno_of(client_of(Wrong()).lookup, ROOT, "x") == errno.EIO
    assert len(caplog.records) == 1


@pytest.mark.parametrize("answer", [b"longer than asked", "text", None, 5])
def test_wrong_data_is_eio(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Hello):
        def read(self, path: PurePosixPath, size: int, offset: int, handle: Any) -> bytes:
            return answer  # type: ignore[no-any-return]

    client = client_of(Wrong())
    node, _ = client.lookup(ROOT, "hello")
    assert errno_of(client.read, node, client.open(node), 4) == errno.EIO
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["a/b", "", "n" * 256, "nul\0"])
def test_a_listing_with_what_is_no_name_is_eio(name: str) -> None:
    class Wrong(Hello):
        def readdir(self, path: PurePosixPath) -> list[str]:
            return [name]

    assert errno_of(client_of(Wrong()).names, ROOT) == errno.EIO


def test_a_listing_tells_types_and_is_read_in_pieces(client: Client) -> None:
    for number in range(50):
        client.mkdir(ROOT, f"directory{number}")
    client.create(ROOT, "file")
    names = client.names(ROOT, size=200)
    assert len(names) == 53
    assert names["directory7"] == stat.S_IFDIR >> 12
    assert names["file"] == stat.S_IFREG >> 12


def test_names_that_are_no_utf8_go_through(client: Client) -> None:
    name = os.fsdecode(b"caf\xe9")
    client.create(ROOT, name)
    assert name in client.names(ROOT)
    assert client.lookup(ROOT, name)[1].mode == 0o100644


def test_everything_is_let_go_when_the_client_goes(fs: DictFs) -> None:
    backend = PythonFs(fs)
    client = Client(FuseDispatcher(backend))
    client.init()
    for number in range(10):
        client.create(ROOT, f"file{number}")
    assert (backend.held_nodes, backend.open_handles, len(fs.open_files)) == (10, 10, 10)
    client.forget(client.lookup(ROOT, "file1")[0], 2)
    assert backend.held_nodes == 9
    client.init()
    assert (backend.held_nodes, backend.open_handles, fs.open_files) == (0, 0, [])
    assert fs.calls[-2:] == ["destroy", "init"]


def test_a_node_or_handle_that_was_never_given_reaches_no_python(client: Client, fs: DictFs) -> None:
    before = len(fs.calls)
    assert errno_of(client.getattr, 99) == errno.ESTALE
    assert errno_of(client.read, ROOT, 5) == errno.EBADF
    assert errno_of(client.rename, 99, "a", ROOT, "b") == errno.ESTALE
    assert errno_of(client.release, ROOT, 5) == errno.EBADF
    assert fs.calls[before:] == []


def test_a_directory_cannot_move_below_itself(client: Client, fs: DictFs) -> None:
    directory = client.mkdir(ROOT, "dir")
    before = len(fs.calls)
    assert errno_of(client.rename, ROOT, "dir", directory, "knot") == errno.EINVAL
    assert fs.calls[before:] == []


class Slow(Hello):
    """Coroutines that wait until they are told, or cancelled."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.cancelled = threading.Event()
        self.threads: set[str] = set()

    async def getattr(self, path: PurePosixPath) -> Attributes:  # type: ignore[override]
        await asyncio.sleep(0)
        self.threads.add(threading.current_thread().name)
        return super().getattr(path)

    async def read(self, path: PurePosixPath, size: int, offset: int, handle: Any) -> bytes:  # type: ignore[override]
        self.waiting.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""


def test_coroutines_run_in_one_event_loop_thread() -> None:
    fs = Slow()
    client = client_of(fs)
    threads = [threading.Thread(target=client_lookup, args=(client,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fs.threads == {"vmthaw-fs"}
    client.dispatcher.reset()
    eventually(lambda: "vmthaw-fs" not in {thread.name for thread in threading.enumerate()})


def client_lookup(client: Client) -> None:
    assert client.lookup(ROOT, "hello")[1].size == 6


def test_an_interrupt_cancels_the_coroutine_of_its_request() -> None:
    fs = Slow()
    client = client_of(fs)
    node, _ = client.lookup(ROOT, "hello")
    handle = client.open(node)
    errors: list[int | None] = []

    def read() -> None:
        errors.append(errno_of(lambda: client.read(node, handle, unique=40)))

    reader = threading.Thread(target=read)
    reader.start()
    assert fs.waiting.wait(10 * PATIENCE)
    assert client.ask(fuse.INTERRUPT, 0, struct.pack("<Q", 40), unique=41) == b""
    reader.join(10 * PATIENCE)
    assert errors == [errno.EINTR]
    assert fs.cancelled.wait(10 * PATIENCE)  # in the event loop, which the answer does not wait for
    client.dispatcher.reset()


def test_an_interrupt_that_comes_before_its_request_ends_it_all_the_same() -> None:
    # By another descriptor of the same mount one may be read first; the kernel cannot be asked to say it again.
    fs = Slow()
    client = client_of(fs)
    node, _ = client.lookup(ROOT, "hello")
    handle = client.open(node)
    assert client.ask(fuse.INTERRUPT, 0, struct.pack("<Q", 40), unique=41) == b"", "no answer"
    assert errno_of(lambda: client.read(node, handle, unique=40)) == errno.EINTR
    assert client.getattr(node).size == 6, "other requests are none of its business"
    client.dispatcher.reset()


def test_interrupts_of_requests_that_are_over_are_forgotten_in_their_turn() -> None:
    fs = Slow()
    client = client_of(fs)
    node, _ = client.lookup(ROOT, "hello")
    handle = client.open(node)
    for number in range(100, 100 + 2 * 5000, 2):
        client.ask(fuse.INTERRUPT, 0, struct.pack("<Q", number), unique=number + 1)
    assert errno_of(lambda: client.read(node, handle, unique=100 + 2 * 4999)) == errno.EINTR, "a young one is known"
    assert client.dispatcher.dispatch(client.frame(fuse.GETATTR, node, bytes(16), unique=100)) is not None
    client.init()
    node, _ = client.lookup(ROOT, "hello")
    body = bytes(16)
    reply = client.dispatcher.dispatch(client.frame(fuse.GETATTR, node, body, unique=100 + 2 * 4998))
    assert reply is not None
    assert struct.unpack_from("<i", reply, 4)[0] == 0, "a new client has other requests"
    client.dispatcher.reset()


def test_backend_of_wraps_what_is_written_in_python_alone() -> None:
    backend = backend_of(Hello())
    assert isinstance(backend, PythonFs)
    assert backend.takes_gil
    assert repr(backend) == "PythonFs(Hello)"
    assert backend_of(backend) is backend
    with pytest.raises(TypeError, match="not object"):
        PythonFs(object())  # type: ignore[arg-type]
