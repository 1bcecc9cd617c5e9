"""Work on threads, and its results in order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.support.eventually import eventually
from vmthaw._run_ahead import run_ahead


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_results_come_in_order_and_nothing_for_nothing() -> None:
    items = [None if number % 3 == 0 else number for number in range(200)]
    with run_ahead(lambda number: -number, items, "ahead", 3) as results:
        found = list(results)
    assert found == [None if item is None else -item for item in items]
    assert names() == []


def test_so_many_threads_work_at_once() -> None:
    together = threading.Barrier(3, timeout=10)
    with run_ahead(lambda _: together.wait(), range(6), "ahead", 3) as results:
        assert len(list(results)) == 6


def test_no_more_is_begun_than_a_few_items_a_thread_ahead_of_who_takes() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            begun.append(number)
            yield number

    with run_ahead(lambda number: number, items(), "ahead", 2) as results:
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(begun) <= 5 + 4 * 2
    assert names() == []


def test_a_failure_is_raised_in_its_turn_and_no_thread_is_left() -> None:
    def work(number: int) -> int:
        if number == 7:
            raise OSError(5, "the seventh")
        return number

    found: list[int | None] = []
    with pytest.raises(OSError, match="the seventh"), run_ahead(work, range(100), "ahead", 2) as results:
        found.extend(results)
    assert found == list(range(7))
    assert names() == []


def test_the_end_lets_go_of_what_waits_and_waits_for_what_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[int] = []
    cancelled: list[bool] = []
    cancel = Future.cancel

    def count(future: Future[int]) -> bool:
        cancelled.append(cancel(future))
        if len(cancelled) == 4:  # one has begun, three wait
            may_end.set()
        return cancelled[-1]

    def work(number: int) -> int:
        if number == 1:
            begun.set()
            may_end.wait(10)
        ended.append(number)
        return number

    monkeypatch.setattr(Future, "cancel", count)
    with run_ahead(work, range(100), "ahead", 1) as results:
        assert next(results) == 0
        assert begun.wait(10)
    assert cancelled == [False, True, True, True]
    assert ended == [0, 1]
    assert names() == []


def test_ctrl_c_waits_for_work_that_giving_up_ends() -> None:
    begun, given_up = threading.Event(), threading.Event()
    ended: list[int] = []

    def work(number: int) -> None:
        if number:
            begun.set()
            assert given_up.wait(10)
            ended.append(number)

    def take(results: Iterator[None]) -> None:
        next(results)
        assert begun.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run_ahead(work, range(100), "ahead", 1, given_up.set) as results:
        take(results)
    assert ended == [1]
    assert names() == []


def test_ctrl_c_while_a_thread_starts_waits_for_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    ended: list[int] = []
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        assert begun.wait(10)
        raise KeyboardInterrupt

    def work(number: int) -> int:
        begun.set()
        time.sleep(0.05)  # longer than it takes to wait for nobody
        ended.append(number)
        return number

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt), run_ahead(work, range(100), "ahead", 2) as results:
        next(results)
    assert ended == [0]


def test_ctrl_c_leaves_work_that_nothing_ends_to_itself() -> None:
    begun, let_go = threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        begun.set()
        assert let_go.wait(10)
        done.append(number)

    def press() -> None:
        assert begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt), run_ahead(work, range(100), "ahead", 2) as results:
        next(results)
    presser.join()
    assert 1 <= len(names()) <= 2
    let_go.set()
    eventually(lambda: names() == [])
    assert len(done) <= 2
