"""`PythonSource`: a callable that gives the bytes, on threads of Python's."""

from __future__ import annotations

import errno
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vmthaw import ExtentKind, PythonSource
from vmthaw.errors import ShortReadError, SourceIoError, SourceRangeError, StateError, VmthawValueError

PAGE = 4096
SIZE = 64 * PAGE
CONTENT = os.urandom(SIZE)

Eventually = Callable[..., object]


def give(offset: int, size: int) -> bytes:
    return CONTENT[offset : offset + size]


@pytest.fixture
def open_source() -> Iterator[Callable[..., PythonSource]]:
    """Makes sources that are closed when the test ends."""
    opened: list[PythonSource] = []

    def open_it(read: Callable[[int, int], Any], *args: Any, **options: Any) -> PythonSource:
        source = PythonSource(read, *(args or (SIZE,)), **options)
        opened.append(source)
        return source

    yield open_it
    for source in opened:
        source.close()


def test_read_gives_what_the_callable_gave(open_source: Callable[..., PythonSource]) -> None:
    source = open_source(give)
    assert source.read(3 * PAGE, 5000) == CONTENT[3 * PAGE : 3 * PAGE + 5000]
    assert source.description == "python:give"
    assert source.size == SIZE
    with pytest.raises(SourceRangeError):
        source.read(SIZE, 1)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_every_bytes_like_object_will_do(open_source: Callable[..., PythonSource], wrap: Callable[..., Any]) -> None:
    source = open_source(lambda offset, size: wrap(give(offset, size)))
    assert source.read(0, PAGE) == CONTENT[:PAGE]


def test_a_numpy_array_will_do(open_source: Callable[..., PythonSource]) -> None:
    numpy = pytest.importorskip("numpy")
    source = open_source(lambda offset, size: numpy.frombuffer(give(offset, size), dtype="u4"))
    assert source.read(0, PAGE) == CONTENT[:PAGE]


def test_the_callable_runs_on_daemon_threads_of_pythons_own(open_source: Callable[..., PythonSource]) -> None:
    seen: list[threading.Thread] = []

    def read(_offset: int, size: int) -> bytes:
        seen.append(threading.current_thread())
        return bytes(size)

    open_source(read).read(0, PAGE)
    assert seen[0] is not threading.main_thread()
    assert seen[0].daemon
    assert seen[0].name.startswith("vmthaw-source")


def test_several_threads_answer_at_once(open_source: Callable[..., PythonSource]) -> None:
    meet = threading.Barrier(3, timeout=10)

    def read(offset: int, size: int) -> bytes:
        meet.wait()
        return give(offset, size)

    source = open_source(read, threads=3)
    got: dict[int, bytes] = {}
    readers = [threading.Thread(target=lambda i=i: got.update({i: source.read(i * PAGE, PAGE)})) for i in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert got == {i: CONTENT[i * PAGE : (i + 1) * PAGE] for i in range(3)}


def test_fewer_bytes_are_a_short_read(open_source: Callable[..., PythonSource]) -> None:
    source = open_source(lambda _offset, size: bytes(size - 1))
    with pytest.raises(ShortReadError) as caught:
        source.read(0, PAGE)
    assert (caught.value.got, caught.value.expected) == (PAGE - 1, PAGE)


def test_more_bytes_are_an_error(open_source: Callable[..., PythonSource]) -> None:
    source = open_source(lambda _offset, size: bytes(size + 1))
    with pytest.raises(SourceIoError) as caught:
        source.read(0, PAGE)
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("wrong", [None, "text", 7, memoryview(bytes(2 * PAGE))[::2]])
def test_what_is_no_contiguous_buffer_is_an_error(
    open_source: Callable[..., PythonSource], wrong: object, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    source = open_source(lambda _offset, _size: wrong)
    with pytest.raises(SourceIoError) as caught:
        source.read(0, PAGE)
    assert caught.value.errno == errno.EIO
    eventually(lambda: "not contiguous bytes" in caplog.text)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EREMOTEIO, "far away"), errno.EREMOTEIO),
        (OSError("no number"), errno.EIO),
        (KeyError("x"), errno.EIO),
        (SystemExit(3), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
    ],
)
def test_what_the_callable_raises_becomes_an_errno_and_the_source_goes_on(
    open_source: Callable[..., PythonSource], error: BaseException, number: int
) -> None:
    failing = [True]

    def read(offset: int, size: int) -> bytes:
        if failing.pop() if failing else False:
            raise error
        return give(offset, size)

    source = open_source(read)
    with pytest.raises(SourceIoError) as caught:
        source.read(0, PAGE)
    assert caught.value.errno == number
    assert source.read(0, PAGE) == CONTENT[:PAGE]


def test_an_exception_is_logged_with_its_trace_once_per_message(
    open_source: Callable[..., PythonSource], caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    def read(offset: int, _size: int) -> bytes:
        raise RuntimeError("second" if offset else "first")

    source = open_source(read)
    with caplog.at_level(logging.ERROR, logger="vmthaw.source"):
        for offset in (0, 0, 0, PAGE, PAGE):
            with pytest.raises(SourceIoError):
                source.read(offset, PAGE)
        source.close()
    records = [record for record in caplog.records if record.name == "vmthaw.source"]
    assert [str(record.exc_info[1]) for record in records if record.exc_info] == ["first", "second"]
    assert "in read" in caplog.text


def test_a_logging_handler_that_raises_does_not_end_the_source(
    open_source: Callable[..., PythonSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("broken handler")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = Broken()
    logger = logging.getLogger("vmthaw.source")
    logger.addHandler(handler)
    try:
        source = open_source(lambda offset, size: give(offset, size) if offset else 1 / 0)
        with pytest.raises(SourceIoError):
            source.read(0, PAGE)
        assert source.read(PAGE, PAGE) == CONTENT[PAGE : 2 * PAGE]
    finally:
        logger.removeHandler(handler)


def test_a_callable_that_does_not_answer_in_time_is_a_time_out(open_source: Callable[..., PythonSource]) -> None:
    release = threading.Event()

    def read(_offset: int, size: int) -> bytes:
        release.wait(20)
        return bytes(size)

    source = open_source(read, timeout=0.05)
    with pytest.raises(SourceIoError) as caught:
        source.read(0, PAGE)
    release.set()
    assert caught.value.errno == errno.ETIMEDOUT


def test_close_ends_readers_that_wait_and_joins_the_threads(open_source: Callable[..., PythonSource]) -> None:
    entered, release = threading.Event(), threading.Event()

    def read(_offset: int, size: int) -> bytes:
        entered.set()
        release.wait(20)
        return bytes(size)

    source = open_source(read)
    raised: list[BaseException] = []

    def reader() -> None:
        try:
            source.read(0, PAGE)
        except StateError as error:
            raised.append(error)
            release.set()

    thread = threading.Thread(target=reader)
    thread.start()
    assert entered.wait(10)
    source.close()
    thread.join()
    assert "is closed" in str(raised[0])
    assert not any(worker.is_alive() for worker in source._callers.threads)
    source.close()
    with pytest.raises(StateError):
        source.read(0, PAGE)


def test_the_callable_may_close_its_source(open_source: Callable[..., PythonSource]) -> None:
    holder: list[PythonSource] = []

    def read(_offset: int, size: int) -> bytes:
        holder[0].close()
        return bytes(size)

    holder.append(open_source(read))
    with pytest.raises(StateError):
        holder[0].read(0, PAGE)


def test_a_callable_that_reads_its_own_source_is_told_so(open_source: Callable[..., PythonSource]) -> None:
    holder: list[PythonSource] = []
    seen: list[str] = []

    def read(offset: int, size: int) -> bytes:
        try:
            return holder[0].read(offset, size)
        except StateError as error:
            seen.append(str(error))
            raise

    holder.append(open_source(read))
    with pytest.raises(SourceIoError):
        holder[0].read(0, PAGE)
    assert "wait for itself" in seen[0]


def test_zero_extents_are_never_asked_for(open_source: Callable[..., PythonSource]) -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return give(offset, size)

    source = open_source(read, 4 * PAGE, [(0, PAGE, "data"), (PAGE, 2 * PAGE, ExtentKind.zero), (3 * PAGE, PAGE, 0)])
    assert source.read(0, 4 * PAGE) == CONTENT[:PAGE] + bytes(2 * PAGE) + CONTENT[3 * PAGE : 4 * PAGE]
    assert asked == [(0, PAGE), (3 * PAGE, PAGE)]
    assert source.ready(PAGE, 2 * PAGE)
    assert not source.ready(0, PAGE)
    assert open_source(read, 4 * PAGE, source.extents()).extents().tolist() == source.extents().tolist()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"callable": 3}, "cannot be called"),
        ({"size": 0}, "0 bytes"),
        ({"threads": 0}, "threads is 0"),
        ({"timeout": 0}, "time-out"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"max_queued": 0}, "max_queued"),
        ({"extents": []}, "extents is empty"),
        ({"extents": [(0, PAGE, "data")]}, "must end at the source's size"),
        ({"extents": [(0, SIZE, "unchanged")]}, "no layer below"),
        ({"extents": [(0, SIZE, "nonsense")]}, "is no extent"),
        ({"extents": [(0, SIZE)]}, "is no extent"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(options: dict[str, Any], text: str) -> None:
    before = threading.active_count()
    with pytest.raises(VmthawValueError, match=text):
        PythonSource(**{"callable": give, "size": SIZE, **options})
    assert threading.active_count() == before


def test_a_source_that_nobody_holds_ends_its_threads(eventually: Eventually) -> None:
    source = PythonSource(give, SIZE)
    workers = source._callers.threads
    gone = weakref.ref(source)
    del source
    gc.collect()
    assert gone() is None
    eventually(lambda: not any(worker.is_alive() for worker in workers))


def test_a_source_is_inert_in_a_forked_child_while_its_threads_wait(open_source: Callable[..., PythonSource]) -> None:
    source = open_source(give)
    source.read(0, PAGE)
    child = os.fork()
    if child == 0:
        try:
            source.read(0, PAGE)
        except StateError as error:
            if type(error).__name__ == "ForkedError":
                source.close()
                del source
                gc.collect()
                os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert source.read(0, PAGE) == CONTENT[:PAGE]


@pytest.mark.parametrize("body", ["source.read(0, 4096)", "pass"])
def test_an_interpreter_with_a_forgotten_source_exits(body: str) -> None:
    code = f"import vmthaw\nsource = vmthaw.PythonSource(lambda o, n: bytes(n), 1 << 20, threads=3)\n{body}\n"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 10


def test_an_interpreter_whose_callable_is_stuck_exits() -> None:
    code = (
        "import threading, time, vmthaw, vmthaw.errors\n"
        "entered = threading.Event()\n"
        "def read(offset, size):\n    entered.set()\n    time.sleep(60)\n"
        "source = vmthaw.PythonSource(read, 1 << 20)\n"
        "def reader():\n    try:\n        source.read(0, 4096)\n    except vmthaw.errors.StateError:\n        pass\n"
        "threading.Thread(target=reader, daemon=True).start()\n"
        "entered.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
