"""Ctrl-C ends a read whose source does not answer, and leaves the source as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.eventually import PATIENCE, eventually
from tests.support.range_server import Answer, serving
from vmthaw import CachedSource, LayeredSource, ObjectStoreSource, PageSource, PythonSource, SocketSource
from vmthaw.errors import StateError
from vmthaw.source import LayeredHeader, LayeredMapping

PAGE = 4096
SIZE = 16 * PAGE
CONTENT = os.urandom(SIZE)
LONG = 60.0  # a read that waits for its time-out is seen by the clock
BUILD = UUID(int=1)


class Stalling:
    """Answers nothing before it is let go. `press` is pressed as soon as somebody asks."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.press: Callable[[], None] = lambda: None

    def __call__(self, offset: int, size: int) -> bytes:
        self.press()
        assert self.let_go.wait(LONG)
        return CONTENT[offset : offset + size]


Opened = Iterator[PageSource]


@contextlib.contextmanager
def python(stalling: Stalling, _folder: Path) -> Opened:
    with PythonSource(stalling, SIZE, threads=4, timeout=LONG) as source:
        yield source


@contextlib.contextmanager
def cached(stalling: Stalling, folder: Path) -> Opened:
    with python(stalling, folder) as far, CachedSource(far, chunk=PAGE) as source:
        yield source


@contextlib.contextmanager
def layered(stalling: Stalling, folder: Path) -> Opened:
    header = LayeredHeader(3, PAGE, SIZE, 0, BUILD, BUILD, (LayeredMapping(0, SIZE, BUILD, 0),))
    with python(stalling, folder) as far, LayeredSource(header, {BUILD: far}) as source:
        yield source


@contextlib.contextmanager
def over_a_socket(stalling: Stalling, folder: Path) -> Opened:
    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as requests:
                while len(request := requests.read(16)) == 16:
                    connection.sendall(request + stalling(*struct.unpack("<QQ", request)))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        with SocketSource(f"unix:{folder / 's'}", SIZE, connections=1, timeout=LONG) as source:
            yield source


@contextlib.contextmanager
def object_store(stalling: Stalling, _folder: Path) -> Opened:
    pytest.importorskip("obstore")

    def change(offset: int, _number: int, answer: Answer) -> None:
        stalling(offset, len(answer.body))

    with serving(CONTENT) as server:
        server.change = change
        with ObjectStoreSource(server.url, timeout=LONG, chunk=PAGE, hedge=False) as source:
            yield source


KINDS = [python, cached, layered, over_a_socket, object_store]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_ctrl_c_ends_a_read_that_gets_no_answer(
    kind: Callable[[Stalling, Path], contextlib.AbstractContextManager[PageSource]], tmp_socket: Path
) -> None:
    before = reading_threads()
    stalling = Stalling()
    pressed: list[float] = []

    def press() -> None:
        if not pressed:
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    with kind(stalling, tmp_socket.parent) as source:
        stalling.press = press
        with pytest.raises(KeyboardInterrupt):
            source.read(0, PAGE)
        assert time.monotonic() - pressed[0] < 10 * PATIENCE
        stalling.let_go.set()
        assert source.read(PAGE, PAGE) == CONTENT[PAGE : 2 * PAGE]
        assert source.read(0, PAGE) == CONTENT[:PAGE]
        eventually(lambda: reading_threads() == before)


def test_what_was_interrupted_ends_with_its_source(tmp_socket: Path) -> None:
    before = reading_threads()
    stalling = Stalling()
    stalling.press = lambda: os.kill(os.getpid(), signal.SIGINT)
    with over_a_socket(stalling, tmp_socket.parent) as source:
        with pytest.raises(KeyboardInterrupt):
            source.read(0, PAGE)
        assert reading_threads() == before + 1
        source.close()
        eventually(lambda: reading_threads() == before)
        with pytest.raises(StateError):
            source.read(0, PAGE)
        stalling.let_go.set()


def test_a_signal_whose_handler_does_not_raise_ends_nothing(tmp_socket: Path) -> None:
    stalling = Stalling()
    handled: list[int] = []

    def handler(number: int, _frame: object) -> None:
        handled.append(number)
        stalling.let_go.set()

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        stalling.press = lambda: os.kill(os.getpid(), signal.SIGUSR1)
        with python(stalling, tmp_socket.parent) as source:
            assert source.read(0, PAGE) == CONTENT[:PAGE]
        assert handled == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, former)


def reading_threads() -> int:
    """Of this process, those that read for a main thread that waits."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return names.count("vmthaw-read")
