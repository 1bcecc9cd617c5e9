"""Ctrl-C ends the first question to a store that does not answer, and closes what was opened for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.support.eventually import PATIENCE, eventually
from tests.support.silent_server import SilentServer
from vmthaw import ObjectStoreSource, PackedStoreSource, open_source
from vmthaw.errors import StateError
from vmthaw.source._object_store._questions import Questions
from vmthaw.source._packed_chunks import packed_chunks

pytest.importorskip("obstore")

Open = Callable[[str], object]

OPENS: dict[str, Open] = {
    "an object": lambda http: ObjectStoreSource(f"{http}/snapshots/vm.mem", timeout=60),
    "an object of S3": lambda _http: ObjectStoreSource("s3://snapshots/vm.mem", timeout=60),
    "an address": lambda http: open_source(f"{http}/snapshots/vm.mem,cache:"),
    "a packed memory": lambda http: PackedStoreSource(f"{http}/packed", "one"),
    "the names of packed memories": lambda _http: open_source("packed:s3://snapshots/packed"),
}


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("what", OPENS)
def test_ctrl_c_ends_opening_what_gets_no_answer(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    pressed: list[float] = []

    def on_ask() -> None:
        pressed.append(time.monotonic())
        press()

    with SilentServer(on_ask) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(KeyboardInterrupt):
            OPENS[what](f"http://127.0.0.1:{server.port}")
        assert time.monotonic() - pressed[0] < 2 * PATIENCE
        eventually(lambda: server.left == 1, what="the connection was ended")
        assert {one.name for one in set(threading.enumerate()) - before if one.name.startswith("vmthaw")} == set()


def test_ctrl_c_ends_one_question_and_leaves_the_store_open() -> None:
    with (
        SilentServer(press) as server,
        contextlib.closing(packed_chunks(f"http://127.0.0.1:{server.port}/packed")) as chunks,
    ):
        with pytest.raises(KeyboardInterrupt):
            chunks.get(bytes(32), "zstd")
        eventually(lambda: server.left == 1, what="the connection was ended")
        server.end()
        with pytest.raises(OSError, match="/chunks/00/"):
            chunks.get(bytes(32), "zstd")


def test_what_another_thread_asks_ends_when_the_store_is_closed() -> None:
    with SilentServer() as server:
        chunks = packed_chunks(f"http://127.0.0.1:{server.port}/packed")
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                chunks.get(bytes(32), "zstd")
            except BaseException as error:  # noqa: BLE001 - it is looked at below
                raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert server.asked.wait(10 * PATIENCE)
        chunks.close()
        thread.join(10 * PATIENCE)
        assert [type(error) for error in raised] == [StateError]
        with pytest.raises(StateError, match="closed"):
            chunks.names()


def test_an_answer_and_a_failure_come_to_who_asked() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise OSError(5, "said so")

    with Questions() as questions:
        assert questions.ask(answer()) == 7
        with pytest.raises(OSError, match="said so"):
            questions.ask(fail())
        assert questions.ask(answer()) == 7


def test_the_interpreters_end_waits_until_what_was_asked_is_let_go() -> None:
    code = """
import asyncio, threading, time
from vmthaw.source._object_store._answer_to import answer_to
from vmthaw.source._object_store._questions import Questions

def hold(future):
    time.sleep(0.1)
    print("lets go", flush=True)

async def ask():
    future = asyncio.get_running_loop().create_future()
    threading.Thread(target=hold, args=(future,), daemon=True).start()
    future.set_result(7)
    return await answer_to(future)

with Questions() as questions:
    assert questions.ask(ask()) == 7
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("lets go\n", "")
