"""`ObjectStoreSource` over HTTP, with a server that does what stores do on bad days."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import PATIENCE
from tests.support.range_server import Answer, RangeServer, serving
from vmthaw import ObjectStoreSource
from vmthaw.errors import SourceIoError, SourceOpenError, StateError, VmthawError, VmthawValueError

pytest.importorskip("obstore")

PAGE = 4096
CHUNK = 16 * PAGE
SIZE = 40 * CHUNK + PAGE
CONTENT = os.urandom(SIZE)

OpenSource = Callable[..., ObjectStoreSource]


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving(CONTENT) as found:
        yield found


@pytest.fixture
def open_source(server: RangeServer) -> Iterator[OpenSource]:
    opened: list[ObjectStoreSource] = []

    def open_it(**options: Any) -> ObjectStoreSource:
        opened.append(ObjectStoreSource(server.url, **{"chunk": CHUNK, **options}))
        return opened[-1]

    yield open_it
    for source in opened:
        source.close()


def first_gets(count: int, change: Callable[[Answer], None]) -> Callable[[int, int, Answer], None]:
    """A change of the first `count` answers."""

    def apply(_offset: int, number: int, answer: Answer) -> None:
        if number <= count:
            change(answer)

    return apply


def with_status(status: int) -> Callable[[Answer], None]:
    def change(answer: Answer) -> None:
        answer.status, answer.body, answer.headers = status, b"no", {}

    return change


def test_the_object_is_read_in_aligned_chunks(open_source: OpenSource, server: RangeServer) -> None:
    source = open_source()
    assert source.size == SIZE
    assert source.read(3 * CHUNK + PAGE, PAGE) == CONTENT[3 * CHUNK + PAGE : 3 * CHUNK + 2 * PAGE]
    assert server.gets == [(3 * CHUNK, CHUNK)]
    assert source.read(SIZE - PAGE, PAGE) == CONTENT[-PAGE:]
    assert server.gets[-1] == (40 * CHUNK, PAGE)
    assert source.read(0, SIZE) == CONTENT
    assert set(server.gets) == {(at, min(CHUNK, SIZE - at)) for at in range(0, SIZE, CHUNK)}


def test_many_chunks_are_asked_for_at_once(open_source: OpenSource, server: RangeServer) -> None:
    meet = threading.Barrier(4, timeout=30)

    def change(*_: object) -> None:
        meet.wait()

    server.change = change
    source = open_source(hedge=False)
    readers = [threading.Thread(target=source.read, args=(chunk * CHUNK, PAGE)) for chunk in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert sorted(server.gets) == [(chunk * CHUNK, CHUNK) for chunk in range(4)]


def test_zero_extents_are_not_fetched(open_source: OpenSource, server: RangeServer) -> None:
    source = open_source(extents=[(0, 2 * CHUNK, "zero"), (2 * CHUNK, SIZE - 2 * CHUNK, "data")])
    assert source.read(0, 2 * CHUNK) == bytes(2 * CHUNK)
    assert server.gets == []


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_may_pass_is_tried_again(open_source: OpenSource, server: RangeServer, status: int) -> None:
    server.change = first_gets(2, with_status(status))
    source = open_source()
    assert source.read(0, PAGE) == CONTENT[:PAGE]
    assert (source.stats.requests, source.stats.retries) == (3, 2)


def _shorter(answer: Answer) -> None:
    answer.body = answer.body[:-1]


def _longer(answer: Answer) -> None:
    answer.body += b"x"


def _cut(answer: Answer) -> None:
    answer.close_after = 100


def _another_range(answer: Answer) -> None:
    answer.headers["Content-Range"] = f"bytes {PAGE}-{PAGE + CHUNK - 1}/{SIZE}"


def _another_size(answer: Answer) -> None:
    answer.headers["Content-Range"] = f"bytes 0-{CHUNK - 1}/{SIZE - 1}"


@pytest.mark.parametrize("wrong", [_shorter, _longer, _cut, _another_range, _another_size])
def test_an_answer_that_is_not_what_was_asked_for_is_never_believed(
    open_source: OpenSource, server: RangeServer, wrong: Callable[[Answer], None]
) -> None:
    server.change = first_gets(1, wrong)
    source = open_source()
    assert source.read(0, CHUNK) == CONTENT[:CHUNK]
    assert source.stats.retries == 1
    server.change = first_gets(1000, wrong)
    with pytest.raises(SourceIoError) as caught:
        open_source(attempts=2).read(0, CHUNK)
    assert caught.value.errno in (errno.EBADMSG, errno.EREMOTEIO)


@pytest.mark.parametrize(
    ("status", "number", "text"),
    [
        (403, errno.EACCES, "check the credentials"),
        (401, errno.EACCES, "check the credentials"),
        (404, errno.ENOENT, "the object is gone"),
        (412, errno.ESTALE, "was changed since it was opened"),
        (416, errno.ESTALE, "has become shorter"),
        (200, errno.EOPNOTSUPP, "ignores ranges"),
        (500, errno.EREMOTEIO, "3 attempts failed"),
    ],
)
def test_what_does_not_pass_is_an_error_that_says_what_and_where(
    open_source: OpenSource,
    server: RangeServer,
    status: int,
    number: int,
    text: str,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., object],
) -> None:
    source = open_source(attempts=3)
    server.change = first_gets(1000, with_status(status))
    with pytest.raises(SourceIoError) as caught:
        source.read(CHUNK, PAGE)
    assert caught.value.errno == number
    eventually(lambda: text in caplog.text)
    assert f"{CHUNK} bytes at offset {CHUNK:#x} of {server.url}" in caplog.text
    assert source.stats.requests == (3 if status == 500 else 1)
    # Others go on.
    server.change = lambda *_: None
    assert source.read(0, PAGE) == CONTENT[:PAGE]


def test_an_object_that_is_replaced_is_not_mixed_with_the_old_one(open_source: OpenSource, server: RangeServer) -> None:
    source = open_source()
    assert source.read(0, PAGE) == CONTENT[:PAGE]
    server.content, server.etag = os.urandom(SIZE), '"second"'
    with pytest.raises(SourceIoError) as caught:
        source.read(5 * CHUNK, PAGE)
    assert caught.value.errno == errno.ESTALE


def test_a_late_answer_is_overtaken_by_a_second_request(open_source: OpenSource, server: RangeServer) -> None:
    source = open_source()
    for chunk in range(20):  # so that it knows what is usual
        source.read(chunk * CHUNK, PAGE)
    stuck = threading.Event()
    usual = len(server.gets)

    def change(_offset: int, number: int, _answer: Answer) -> None:
        if number == usual + 1:
            stuck.wait(30)

    server.change = change
    assert source.read(30 * CHUNK, PAGE) == CONTENT[30 * CHUNK : 30 * CHUNK + PAGE]
    stuck.set()
    assert (source.stats.hedges, source.stats.hedges_won) >= (1, 1)
    assert server.gets[usual:] == [(30 * CHUNK, CHUNK)] * 2


def test_without_hedging_nothing_is_asked_for_twice(open_source: OpenSource, server: RangeServer) -> None:
    open_source(hedge=False).read(0, SIZE)
    assert len(server.gets) == len(set(server.gets)) == 41


def test_an_answer_that_never_comes_is_a_time_out(open_source: OpenSource, server: RangeServer) -> None:
    never = threading.Event()

    def change(*_: object) -> None:
        never.wait(30)

    server.change = change
    with pytest.raises(SourceIoError) as caught:
        open_source(timeout=0.3, attempts=1).read(0, PAGE)
    never.set()
    assert caught.value.errno in (errno.ETIMEDOUT, errno.EREMOTEIO)


def test_a_request_that_hangs_is_tried_again_before_the_time_is_over(
    open_source: OpenSource, server: RangeServer
) -> None:
    never = threading.Event()

    def hang(_: Answer) -> None:
        never.wait(30)

    server.change = first_gets(1, hang)
    source = open_source(timeout=4.0 * PATIENCE, hedge=False)
    assert source.read(0, PAGE) == CONTENT[:PAGE]
    never.set()
    assert source.stats.retries == 1


def test_closing_ends_reads_that_wait(open_source: OpenSource, server: RangeServer) -> None:
    entered, never = threading.Event(), threading.Event()

    def change(*_: object) -> None:
        entered.set()
        never.wait(30)

    server.change = change
    source = open_source()
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            source.read(0, PAGE)
        except VmthawError as error:
            raised.append(error)

    reader = threading.Thread(target=ask)
    reader.start()
    assert entered.wait(30)
    source.close()
    reader.join(30)
    never.set()
    assert isinstance(raised[0], StateError)


def test_the_disk_serves_another_source_of_the_same_version_alone(
    open_source: OpenSource, server: RangeServer, tmp_path: Path
) -> None:
    open_source(disk=tmp_path).read(0, SIZE)
    asked = len(server.gets)
    assert open_source(disk=tmp_path).read(0, SIZE) == CONTENT
    assert len(server.gets) == asked
    server.content, server.etag = os.urandom(SIZE), '"second"'
    assert open_source(disk=tmp_path).read(0, SIZE) == server.content


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:/x", "names no object"),
        ("s3://bucket", "names no object"),
        ("s3://bucket/", "names no object"),
        ("/a/path", "names no object"),
        ("https://host/x?y=1", "has a query"),
    ],
)
def test_addresses_that_name_no_object_are_refused(url: str, text: str) -> None:
    with pytest.raises(VmthawValueError, match=text):
        ObjectStoreSource(url)


def test_what_cannot_be_opened_is_named(server: RangeServer) -> None:
    with serving(b"") as empty, pytest.raises(SourceOpenError, match="is empty"):
        ObjectStoreSource(empty.url)
    with pytest.raises(SourceOpenError, match="cannot be asked") as caught:
        ObjectStoreSource("http://127.0.0.1:9/snapshots/vm.mem", timeout=5)
    assert caught.value.path == "http://127.0.0.1:9/snapshots/vm.mem"


def test_no_attempt_at_all_is_refused(server: RangeServer) -> None:
    with pytest.raises(VmthawValueError, match="attempts is 0"):
        ObjectStoreSource(server.url, attempts=0)
