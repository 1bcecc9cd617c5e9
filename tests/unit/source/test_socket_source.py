"""`SocketSource` and `PageExporter` from Python: servers that lie, stall, die or send too much."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import PATIENCE
from tests.support.hostile_server import Answer, HostileServer, header
from vmthaw import FileSource, PageExporter, PythonSource, SocketSource, ZeroSource
from vmthaw.errors import SourceIoError, SourceOpenError, SourceRangeError, StateError, VmthawOSError, VmthawValueError

PAGE = 4096
PAGES = 64
CONTENT = os.urandom(PAGES * PAGE)


def right(ipa: int, size: int) -> bytes:
    return header(ipa, size) + CONTENT[ipa : ipa + size]


@pytest.fixture
def serve(tmp_socket: Path) -> Iterator[Callable[..., SocketSource]]:
    """`serve(answer, **options)` is a source of a server that answers so."""
    things: list[Any] = []

    def start(answer: Answer, **options: Any) -> SocketSource:
        server = HostileServer(tmp_socket, answer)
        source = SocketSource(server.address, PAGES * PAGE, **{"connections": 1, "timeout": 20.0 * PATIENCE, **options})
        things.extend([source, server])
        return source

    yield start
    for thing in things:
        thing.close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[FileSource]:
    path = tmp_path / "memory"
    path.write_bytes(CONTENT)
    with FileSource(path) as source:
        yield source


def test_a_server_that_behaves_is_read_byte_for_byte(serve: Callable[..., SocketSource]) -> None:
    source = serve(right)
    assert source.read(0, PAGES * PAGE) == CONTENT
    assert source.read(PAGE - 3, 10) == CONTENT[PAGE - 3 : PAGE + 7]
    assert source.stats == {"pages": PAGES + 2, "repeated": 0, "connections": 1, "lost": 0}
    assert source.extents().tolist() == [(0, PAGES * PAGE, 0)]
    assert source.description == source.address
    with pytest.raises(SourceRangeError):
        source.read(PAGES * PAGE, 1)


@pytest.mark.parametrize(
    ("lie", "number", "said"),
    [
        (lambda ipa, size: header(ipa + PAGE, size) + bytes(size), errno.EPROTO, "answered 0x6000"),
        (lambda ipa, size: header(ipa, size * 2) + bytes(2 * size), errno.EPROTO, "8192 bytes"),
        (lambda ipa, size: header(ipa, size)[::-1] + bytes(size), errno.EPROTO, "when 0x5000"),
        (lambda ipa, _: header(ipa, 0), errno.EREMOTEIO, "cannot read the page at 0x5000"),
        (lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n", errno.EPROTO, "no page server"),
    ],
    ids=["address", "size", "byte order", "refusal", "http"],
)
def test_a_lie_is_an_error_that_names_it(
    lie: Answer, number: int, said: str, serve: Callable[..., SocketSource]
) -> None:
    source = serve(lambda ipa, size: lie(ipa, size) if ipa == 5 * PAGE else right(ipa, size))
    with pytest.raises(SourceIoError) as caught:
        source.read(5 * PAGE, PAGE)
    assert caught.value.errno == number
    for part in ("4096 bytes at offset 0x5000", source.address, said):
        assert part in str(caught.value)
    assert source.read(6 * PAGE, PAGE) == CONTENT[6 * PAGE : 7 * PAGE]


def test_a_server_that_refuses_many_pages_is_asked_for_others_at_once(serve: Callable[..., SocketSource]) -> None:
    source = serve(lambda ipa, size: header(ipa, 0) if ipa < 30 * PAGE else right(ipa, size))
    begin = time.monotonic()
    for page in range(30):
        with pytest.raises(SourceIoError):
            source.read(page * PAGE, PAGE)
    assert source.read(30 * PAGE, PAGE) == CONTENT[30 * PAGE : 31 * PAGE]
    assert time.monotonic() - begin < 5 * PATIENCE  # with a pause after each it takes 18 s


def test_a_stall_is_a_time_out(serve: Callable[..., SocketSource]) -> None:
    source = serve(lambda ipa, size: b"" if ipa == 5 * PAGE else right(ipa, size), timeout=0.2)
    with pytest.raises(SourceIoError, match="no answer for 200 ms") as caught:
        source.read(5 * PAGE, PAGE)
    assert caught.value.errno == errno.ETIMEDOUT
    assert source.read(0, PAGE) == CONTENT[:PAGE]


@pytest.mark.parametrize("cut", [0, 5, 16, 17, 2000, 4111])
def test_a_server_that_dies_in_the_middle_is_asked_again(cut: int, serve: Callable[..., SocketSource]) -> None:
    died: list[int] = []

    def dies_once(ipa: int, size: int) -> bytes | None:
        if ipa == 7 * PAGE and len(died) < 2:
            died.append(ipa)
            return None
        return right(ipa, size)[: cut if ipa == 6 * PAGE and not died else None]

    source = serve(dies_once)
    assert source.read(0, PAGES * PAGE) == CONTENT
    assert source.stats["lost"] == 2
    assert source.stats["repeated"] > 0


def test_bytes_too_many_never_become_a_page(serve: Callable[..., SocketSource]) -> None:
    surplus = [b"surplus"]
    source = serve(lambda ipa, size: right(ipa, size) + (surplus.pop() if surplus else b""))
    assert source.read(0, PAGE) == CONTENT[:PAGE]
    with pytest.raises(SourceIoError):
        source.read(PAGE, PAGE)
    assert source.read(PAGE, PAGE) == CONTENT[PAGE : 2 * PAGE]


def test_close_ends_a_read_that_waits(serve: Callable[..., SocketSource]) -> None:
    asked = threading.Event()

    def never(_ipa: int, _size: int) -> bytes:
        asked.set()
        return b""

    source = serve(never)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            source.read(0, PAGE)
        except StateError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert asked.wait(10 * PATIENCE)
    source.close()
    reader.join(10 * PATIENCE)
    assert len(errors) == 1
    assert source.closed


def test_the_address_must_be_one_and_somebody_must_listen(tmp_socket: Path) -> None:
    for text in ("", "tcp:host", "file:/x", "unix:"):
        with pytest.raises(VmthawValueError, match="unix:/path"):
            SocketSource(text, PAGE)
    with pytest.raises(SourceOpenError, match="vmthaw export") as caught:
        SocketSource(f"unix:{tmp_socket}", PAGE)
    assert str(tmp_socket) in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"page_size": 5000}, {"timeout": 0}, {"timeout": float("nan")}, {"connections": 0}]
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(VmthawValueError):
        SocketSource("unix:/nowhere", **{"size": PAGE, **options})


@pytest.mark.parametrize("where", ["path", "abstract", "tcp"])
def test_an_exporter_serves_a_source_to_another(
    where: str, memory: FileSource, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    places: dict[str, str | Path] = {
        "path": tmp_socket,
        "abstract": f"unix:@vmthaw-{os.getpid()}",
        "tcp": "tcp:127.0.0.1:0",
    }
    address = places[where]
    with PageExporter(memory, address) as exporter:
        assert "listening" in repr(exporter)
        with SocketSource(exporter.address, PAGES * PAGE) as source:
            assert source.read(0, PAGES * PAGE) == CONTENT
        eventually(lambda: exporter.stats["pages"] == PAGES)  # counted when they have been sent
        assert exporter.stats["bytes"] == PAGES * PAGE
    assert exporter.closed
    with pytest.raises(SourceOpenError):
        SocketSource(exporter.address, PAGE)


def test_ram_may_begin_elsewhere_than_at_zero(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(CONTENT)
    with (
        FileSource(path, ram_start=1 << 31) as memory,
        PageExporter(memory, tmp_socket) as exporter,
        SocketSource(exporter.address, PAGES * PAGE, ram_start=1 << 31) as source,
    ):
        assert source.start == 1 << 31
        assert source.read((1 << 31) + PAGE, PAGE) == CONTENT[PAGE : 2 * PAGE]
        with pytest.raises(SourceRangeError):
            source.read(0, PAGE)


def test_an_exporter_serves_a_python_source_and_outlives_its_errors(tmp_socket: Path) -> None:
    def give(offset: int, size: int) -> bytes:
        if offset == 3 * PAGE:
            raise OSError(errno.EIO, "this page is lost")
        return CONTENT[offset : offset + size]

    with (
        PythonSource(give, PAGES * PAGE) as memory,
        PageExporter(memory, tmp_socket) as exporter,
        SocketSource(exporter.address, PAGES * PAGE) as source,
    ):
        assert source.read(0, 3 * PAGE) == CONTENT[: 3 * PAGE]
        with pytest.raises(SourceIoError, match="cannot read the page at 0x3000"):
            source.read(3 * PAGE, PAGE)
        assert source.read(4 * PAGE, PAGE) == CONTENT[4 * PAGE : 5 * PAGE]


def test_an_exporter_closes_in_asyncio_without_holding_the_loop_up(memory: FileSource, tmp_socket: Path) -> None:
    async def run() -> bytes:
        async with PageExporter(memory, tmp_socket) as exporter:
            with SocketSource(exporter.address, PAGES * PAGE) as source:
                return await asyncio.to_thread(source.read, 0, PAGE)

    assert asyncio.run(run()) == CONTENT[:PAGE]


def test_a_socket_that_is_in_use_is_not_stolen_and_a_stale_one_is_replaced(
    memory: FileSource, tmp_socket: Path
) -> None:
    with PageExporter(memory, tmp_socket, mode=0o666):
        assert tmp_socket.stat().st_mode & 0o777 == 0o666
        with pytest.raises(VmthawOSError) as caught:
            PageExporter(memory, tmp_socket)
        assert caught.value.errno == errno.EADDRINUSE
    assert not tmp_socket.exists()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_socket))
    stale.close()
    PageExporter(memory, tmp_socket).close()


def test_close_does_not_wait_for_a_source_that_hangs(tmp_socket: Path) -> None:
    let_go = threading.Event()
    entered = threading.Event()

    def hang(_offset: int, size: int) -> bytes:
        entered.set()
        let_go.wait(30 * PATIENCE)
        return bytes(size)

    with PythonSource(hang, PAGES * PAGE) as memory:
        exporter = PageExporter(memory, tmp_socket)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(tmp_socket))
        client.sendall(header(0, PAGE))
        assert entered.wait(10 * PATIENCE)
        before = time.monotonic()
        exporter.close()
        assert time.monotonic() - before < 10 * PATIENCE
        let_go.set()
    client.close()


def test_a_forgotten_exporter_warns_at_exit_and_never_hangs(tmp_socket: Path) -> None:
    code = f"""
import vmthaw
exporter = vmthaw.PageExporter(vmthaw.ZeroSource(4096), "unix:{tmp_socket}")
source = vmthaw.SocketSource(exporter.address, 4096)
assert source.read(0, 4096) == bytes(4096)
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "still runs at interpreter exit" in done.stderr
    assert not tmp_socket.exists()


def test_a_forked_child_has_neither(memory: FileSource, tmp_socket: Path) -> None:
    with PageExporter(memory, tmp_socket) as exporter, SocketSource(exporter.address, PAGES * PAGE) as source:
        assert source.read(0, PAGE) == CONTENT[:PAGE]
        child = os.fork()
        if child == 0:
            try:
                source.read(0, PAGE)
            except StateError:
                exporter.close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert source.read(PAGE, PAGE) == CONTENT[PAGE : 2 * PAGE]


def test_zeros_are_zeros(tmp_socket: Path) -> None:
    with (
        ZeroSource(PAGES * PAGE) as memory,
        PageExporter(memory, tmp_socket) as exporter,
        SocketSource(exporter.address, PAGES * PAGE) as source,
    ):
        assert source.read(0, PAGES * PAGE) == bytes(PAGES * PAGE)
