"""`PythonSource` with a callable that takes batches, or that is a coroutine."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from vmthaw import PythonSource
from vmthaw.errors import ShortReadError, SourceIoError, StateError, VmthawError, VmthawValueError

PAGE = 4096
SIZE = 64 * PAGE
CONTENT = os.urandom(SIZE)

Eventually = Callable[..., object]
OpenSource = Callable[..., PythonSource]


@pytest.fixture
def open_source() -> Iterator[OpenSource]:
    """Makes sources that are closed when the test ends."""
    opened: list[PythonSource] = []

    def open_it(read: Callable[..., Any], **options: Any) -> PythonSource:
        opened.append(PythonSource(read, SIZE, **options))
        return opened[-1]

    yield open_it
    for source in opened:
        source.close()


class Readers:
    """Pages that are read on threads of their own."""

    def __init__(self, source: PythonSource) -> None:
        self.source = source
        self.got: dict[int, bytes | VmthawError] = {}
        self._threads: list[threading.Thread] = []

    def start(self, *pages: int) -> None:
        for page in pages:
            self._threads.append(threading.Thread(target=self._read, args=(page,)))
            self._threads[-1].start()

    def join(self) -> dict[int, bytes | VmthawError]:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.got

    def _read(self, page: int) -> None:
        try:
            self.got[page] = self.source.read(page * PAGE, PAGE)
        except VmthawError as error:
            self.got[page] = error


def page_of(page: int) -> bytes:
    return CONTENT[page * PAGE : (page + 1) * PAGE]


def give_all(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    return [CONTENT[offset : offset + size] for offset, size in ranges]


class Held:
    """Takes batches; the first call waits until it is let go, so that what comes meanwhile is one batch."""

    def __init__(self, answer: Callable[[Sequence[tuple[int, int]]], Any] = give_all) -> None:
        self.calls: list[list[tuple[int, int]]] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self._answer = answer

    def __call__(self, ranges: list[tuple[int, int]]) -> Any:
        self.calls.append(ranges)
        if len(self.calls) == 1:
            self.entered.set()
            assert self.go.wait(30)
            return give_all(ranges)
        return self._answer(ranges)


def read_while_held(open_source: OpenSource, held: Held, eventually: Eventually, **options: Any) -> Any:
    """Page 0 alone, then pages 1, 2 and 3, which wait together."""
    source = open_source(held, batch=8, **options)
    readers = Readers(source)
    readers.start(0)
    assert held.entered.wait(30)
    readers.start(1, 2, 3)
    eventually(lambda: source.requests.waiting == 3)
    held.go.set()
    return readers.join()


def test_what_waits_together_is_asked_for_together(open_source: OpenSource, eventually: Eventually) -> None:
    held = Held()
    got = read_while_held(open_source, held, eventually)
    assert got == {page: page_of(page) for page in range(4)}
    assert [len(call) for call in held.calls] == [1, 3]
    assert sorted(held.calls[1]) == [(page * PAGE, PAGE) for page in (1, 2, 3)]


def test_a_batch_takes_no_more_than_it_may(open_source: OpenSource, eventually: Eventually) -> None:
    held = Held()
    source = open_source(held, batch=2)
    readers = Readers(source)
    readers.start(0)
    assert held.entered.wait(30)
    readers.start(1, 2, 3, 4, 5)
    eventually(lambda: source.requests.waiting == 5)
    held.go.set()
    assert readers.join() == {page: page_of(page) for page in range(6)}
    assert [len(call) for call in held.calls] == [1, 2, 2, 1]


def test_an_exception_in_a_batchs_answer_fails_its_own_read_alone(
    open_source: OpenSource, eventually: Eventually
) -> None:
    def answer(ranges: Sequence[tuple[int, int]]) -> list[Any]:
        return [OSError(errno.ENOENT, "gone") if o == 2 * PAGE else CONTENT[o : o + s] for o, s in ranges]

    got = read_while_held(open_source, Held(answer), eventually)
    assert isinstance(got[2], SourceIoError)
    assert got[2].errno == errno.ENOENT
    assert {page: got[page] for page in (1, 3)} == {page: page_of(page) for page in (1, 3)}


def test_a_batch_that_raises_fails_all_its_reads_and_the_source_goes_on(
    open_source: OpenSource, eventually: Eventually
) -> None:
    failing = [True]

    def answer(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if failing.pop() if failing else False:
            raise OSError(errno.EREMOTEIO, "far away")
        return give_all(ranges)

    held = Held(answer)
    got = read_while_held(open_source, held, eventually)
    errors = [got[page] for page in (1, 2, 3)]
    assert [error.errno for error in errors if isinstance(error, SourceIoError)] == [errno.EREMOTEIO] * 3


@pytest.mark.parametrize("wrong", [lambda ranges: give_all(ranges)[:-1], lambda _: None, lambda _: 7])
def test_a_batch_with_too_few_answers_fails_what_is_left(
    open_source: OpenSource, wrong: Callable[..., Any], caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    got = read_while_held(open_source, Held(wrong), eventually)
    errors = [got[page] for page in (1, 2, 3) if isinstance(got[page], VmthawError)]
    assert errors
    assert all(isinstance(error, SourceIoError) and error.errno == errno.EIO for error in errors)
    eventually(lambda: "python:Held" in caplog.text)


def test_a_short_answer_in_a_batch_is_a_short_read(open_source: OpenSource, eventually: Eventually) -> None:
    got = read_while_held(open_source, Held(lambda ranges: [part[:-1] for part in give_all(ranges)]), eventually)
    assert all(isinstance(got[page], ShortReadError) for page in (1, 2, 3))


def test_coroutines_run_at_once_on_one_thread(open_source: OpenSource) -> None:
    meeting: list[int] = []
    threads = set()
    all_here = asyncio.Event()

    async def read(offset: int, size: int) -> bytes:
        threads.add(threading.current_thread())
        meeting.append(offset)
        if len(meeting) == 3:
            all_here.set()
        await all_here.wait()
        return CONTENT[offset : offset + size]

    readers = Readers(open_source(read, threads=3))
    readers.start(0, 1, 2)
    assert readers.join() == {page: page_of(page) for page in range(3)}
    assert len(threads) == 1


def test_no_more_coroutines_run_at_once_than_allowed(open_source: OpenSource) -> None:
    running, most = 0, 0

    async def read(offset: int, size: int) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return CONTENT[offset : offset + size]

    readers = Readers(open_source(read, threads=2))
    readers.start(*range(12))
    assert readers.join() == {page: page_of(page) for page in range(12)}
    assert most <= 2


def test_coroutines_take_batches_too(open_source: OpenSource) -> None:
    async def read(ranges: list[tuple[int, int]]) -> list[bytes]:
        await asyncio.sleep(0)
        return give_all(ranges)

    readers = Readers(open_source(read, batch=4))
    readers.start(*range(8))
    assert readers.join() == {page: page_of(page) for page in range(8)}


def test_an_object_whose_call_is_a_coroutine_is_awaited(open_source: OpenSource) -> None:
    class Reader:
        async def __call__(self, offset: int, size: int) -> bytes:
            return CONTENT[offset : offset + size]

    assert open_source(Reader()).read(PAGE, PAGE) == page_of(1)


@pytest.mark.parametrize("error", [OSError(errno.EREMOTEIO, "far"), KeyError("x"), SystemExit(2), KeyboardInterrupt()])
def test_what_a_coroutine_raises_becomes_an_errno_and_the_source_goes_on(
    open_source: OpenSource, error: BaseException
) -> None:
    failing = [True]

    async def read(offset: int, size: int) -> bytes:
        if failing.pop() if failing else False:
            raise error
        return CONTENT[offset : offset + size]

    source = open_source(read)
    with pytest.raises(SourceIoError) as caught:
        source.read(0, PAGE)
    assert caught.value.errno == (errno.EREMOTEIO if isinstance(error, OSError) else errno.EIO)
    assert source.read(0, PAGE) == page_of(0)


def test_a_coroutine_that_takes_too_long_is_cancelled(open_source: OpenSource, eventually: Eventually) -> None:
    cancelled = threading.Event()

    async def read(_offset: int, _size: int) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    with pytest.raises(SourceIoError) as caught:
        open_source(read, timeout=0.05).read(0, PAGE)
    assert caught.value.errno == errno.ETIMEDOUT
    assert cancelled.wait(30)


def test_close_cancels_coroutines_and_ends_their_readers(open_source: OpenSource) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def read(_offset: int, _size: int) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    source = open_source(read)
    readers = Readers(source)
    readers.start(0)
    assert entered.wait(30)
    source.close()
    assert cancelled.is_set()
    assert isinstance(readers.join()[0], StateError)


def test_a_coroutine_that_reads_its_own_source_is_told_so(open_source: OpenSource) -> None:
    told = threading.Event()

    async def read(offset: int, size: int) -> bytes:
        try:
            source.read(0, PAGE)
        except StateError:
            told.set()
        return CONTENT[offset : offset + size]

    source = open_source(read)
    assert source.read(0, PAGE) == page_of(0)
    assert told.is_set()


@pytest.mark.parametrize("batch", [0, -1, 4097])
def test_a_batch_that_cannot_be_is_refused(batch: int) -> None:
    with pytest.raises(VmthawValueError, match=f"batch is {batch}"):
        PythonSource(give_all, SIZE, batch=batch)


@pytest.mark.parametrize("again", [1, 3])
def test_an_interpreter_with_a_forgotten_source_of_coroutines_exits(again: int) -> None:
    code = f"""
import asyncio, errno
from vmthaw import PythonSource
from vmthaw.errors import SourceIoError
async def read(offset, size):
    for _ in range(1 + {again}):  # how often it does not let itself be cancelled
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
source = PythonSource(read, 4096, timeout=0.2)
try:
    source.read(0, 4096)
except SourceIoError as error:
    print(errno.errorcode[error.errno])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, "ETIMEDOUT\n"), done.stderr
