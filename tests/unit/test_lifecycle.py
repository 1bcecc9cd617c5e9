"""The drainer, log lines in Python's logging, and the orderly end: each in an interpreter of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

PRELUDE = """
import logging, os, sys, threading, time
from vmthaw import _core, _lifecycle

def eventually(predicate, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)

class Keep(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []
    def emit(self, record):
        self.records.append(record)
    def texts(self):
        return [record.getMessage() for record in self.records]

keep = Keep()
logging.getLogger().addHandler(keep)
logging.getLogger().setLevel(logging.DEBUG)
"""


def run(body: str, *options: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
    program = PRELUDE + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=timeout, check=False
    )


def run_well(body: str, *options: str) -> str:
    done = run(body, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lines_appear_under_their_component_with_level_thread_and_time() -> None:
    run_well(
        """
        _lifecycle.ensure_drainer()
        before = time.time()
        _core.log_line(logging.WARNING, "pager", "a 100% plain line")
        eventually(lambda: keep.records)
        record, = keep.records
        assert (record.name, record.levelno) == ("vmthaw.pager", logging.WARNING)
        assert record.getMessage() == "a 100% plain line"
        assert record.thread == threading.get_native_id()
        assert abs(record.created - before) < 5
        """
    )


def test_lines_written_before_the_drainer_started_are_delivered_in_order() -> None:
    run_well(
        """
        expected = [f"line {i}" for i in range(1500)]
        for text in expected:
            _core.log_line(logging.INFO, "pager", text)
        _lifecycle.ensure_drainer()
        eventually(lambda: len(keep.records) >= 1500)
        assert keep.texts() == expected
        """
    )


def test_lost_lines_are_counted_and_reported() -> None:
    run_well(
        """
        for i in range(5000):
            _core.log_line(logging.INFO, "pager", "flood")
        lost = _core.log_dropped()
        assert lost > 0
        _lifecycle.ensure_drainer()
        eventually(lambda: any(f"{lost} lines were lost" in text for text in keep.texts()))
        assert keep.texts().count("flood") == 5000 - lost
        """
    )


def test_a_handler_that_raises_loses_neither_the_drainer_nor_later_lines() -> None:
    done = run(
        """
        class Bad(logging.Handler):
            def emit(self, record):
                if "poison" in record.getMessage():
                    raise {"poison exit": SystemExit, "poison": ZeroDivisionError}[record.getMessage()]
        logging.getLogger("vmthaw.pager").addHandler(Bad())
        _lifecycle.ensure_drainer()
        for text in ("poison", "good 1", "poison exit", "good 2"):
            _core.log_line(logging.ERROR, "pager", text)
        eventually(lambda: "good 2" in keep.texts())
        assert "good 1" in keep.texts()
        assert _lifecycle._state.drainer.thread.is_alive()
        """
    )
    assert done.returncode == 0, done.stderr
    assert "a logging handler raised" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_only_one_drainer_runs_and_it_blocks_signals() -> None:
    run_well(
        """
        for _ in range(3):
            _lifecycle.ensure_drainer()
        drainer, = [thread for thread in threading.enumerate() if thread.name == "vmthaw-drainer"]
        status = open(f"/proc/self/task/{drainer.native_id}/status").read()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        for number in (2, 15, 10, 17):
            assert blocked >> (number - 1) & 1, number
        for number in (11, 7, 4, 8):
            assert not blocked >> (number - 1) & 1, number
        """
    )


def test_a_watched_descriptor_calls_back_until_it_is_unwatched() -> None:
    run_well(
        """
        fd = os.eventfd(0, os.EFD_NONBLOCK)
        calls = []
        _lifecycle.watch(fd, lambda: calls.append(os.eventfd_read(fd)))
        os.eventfd_write(fd, 5)
        eventually(lambda: calls == [5])
        _lifecycle.unwatch(fd)
        _lifecycle.unwatch(fd)
        os.eventfd_write(fd, 1)
        other = os.eventfd(1, os.EFD_NONBLOCK)
        seen = []
        _lifecycle.watch(other, lambda: seen.append(os.eventfd_read(other)))
        eventually(lambda: seen)
        assert calls == [5]
        """
    )


def test_a_callback_that_raises_is_logged_and_called_again_without_spinning() -> None:
    run_well(
        """
        fd = os.eventfd(1, os.EFD_NONBLOCK)
        calls = []
        def bad():
            calls.append(time.monotonic())
            raise ValueError("not yet")
        _lifecycle.watch(fd, bad)
        eventually(lambda: len(calls) >= 3)
        assert calls[2] - calls[0] >= 0.09
        assert any("callback" in text and record.exc_info for text, record in zip(keep.texts(), keep.records))
        """
    )


def test_exit_with_a_running_drainer_is_prompt_and_flushes_the_last_lines() -> None:
    start = time.monotonic()
    done = run(
        """
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        _lifecycle.ensure_drainer()
        for i in range(1000):
            _core.log_line(logging.INFO, "pager", f"last {i}")
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"last {i}" for i in range(1000)]
    assert done.stderr == ""
    assert time.monotonic() - start < 5


def test_exit_does_not_wait_for_a_callback_that_hangs() -> None:
    done = run(
        """
        fd = os.eventfd(1)
        _lifecycle.watch(fd, threading.Event().wait)
        _lifecycle._JOIN_S = 0.2
        """,
        timeout=10,
    )
    assert done.returncode == 0, done.stderr
    assert "held up the drainer" in done.stderr


CLOSABLE = """
class Thing:
    def __init__(self, name): self.name = name
    def __repr__(self): return f"<Thing {self.name}>"
    def close_at_exit(self):
        print("closed", self.name)
        if "bad" in self.name: raise RuntimeError("cannot close")
"""


@pytest.mark.parametrize("options", [("-W", "always"), ("-W", "error")])
def test_forgotten_servers_are_named_and_closed_before_sources(options: tuple[str, ...]) -> None:
    body = CLOSABLE + textwrap.dedent(
        """
        things = [Thing("source"), Thing("bad server"), Thing("server"), Thing("stopped")]
        _lifecycle.register(things[0], _lifecycle.Stage.SOURCE)
        for thing in things[1:]: _lifecycle.register(thing)
        _lifecycle.unregister(things[3])
        _lifecycle.register(Thing("gone"))
        _lifecycle.ensure_drainer()
        """
    )
    done = run(body, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["closed bad server", "closed server", "closed source"]
    assert "ResourceWarning: <Thing server> still runs at interpreter exit" in done.stderr
    assert "cannot close" in done.stderr
    assert "<Thing stopped>" not in done.stderr


def test_a_forked_child_starts_with_no_drainer_no_registrations_and_its_own_log() -> None:
    out = run_well(
        CLOSABLE
        + textwrap.dedent(
            """
            import multiprocessing
            def child(queue):
                assert _lifecycle._state.drainer is None
                assert not _lifecycle._state.registered
                keep.records.clear()
                _lifecycle.ensure_drainer()
                _core.log_line(logging.INFO, "pager", "from the child")
                eventually(lambda: keep.records)
                queue.put(keep.texts())
            thing = Thing("parent's")
            _lifecycle.register(thing)
            _lifecycle.ensure_drainer()
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            process = context.Process(target=child, args=(queue,))
            process.start()
            assert queue.get(timeout=10) == ["from the child"]
            process.join(10)
            assert process.exitcode == 0
            _core.log_line(logging.INFO, "pager", "from the parent")
            eventually(lambda: "from the parent" in keep.texts())
            assert "from the child" not in keep.texts()
            _lifecycle.unregister(thing)
            """
        )
    )
    assert out == ""


def test_a_forked_child_flushes_its_last_lines_when_it_ends() -> None:
    out = run_well(
        """
        import multiprocessing
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        def child():
            _lifecycle.ensure_drainer()
            for i in range(100):
                _core.log_line(logging.INFO, "pager", f"child {i}")
        _lifecycle.ensure_drainer()
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(10)
        assert process.exitcode == 0
        """
    )
    assert out.splitlines() == [f"child {i}" for i in range(100)]


def test_nothing_starts_once_the_interpreter_is_exiting() -> None:
    out = run_well(
        """
        import atexit
        def late():
            try:
                _lifecycle.ensure_drainer()
            except _lifecycle.StateError as error:
                print(error)
        atexit._clear()
        atexit.register(late)
        atexit.register(_lifecycle._at_exit)
        _lifecycle.ensure_drainer()
        """
    )
    assert "the interpreter is exiting" in out


def test_ctrl_c_ends_a_wait_in_the_core() -> None:
    program = PRELUDE + textwrap.dedent(
        """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _lifecycle.ensure_drainer()
        fd = os.eventfd(0)
        try:
            print("waiting", flush=True)
            _core._wait_readable(fd)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert (out, process.returncode) == ("interrupted\n", 0)


def test_a_wait_in_the_core_keeps_its_time_out_and_lets_other_threads_run() -> None:
    run_well(
        """
        fd = os.eventfd(0)
        start = time.monotonic()
        assert _core._wait_readable(fd, 0.12) is False
        assert 0.12 <= time.monotonic() - start < 2
        assert _core._wait_readable(fd, 0) is False
        assert _core._wait_readable(fd, -1) is False
        threading.Thread(target=os.eventfd_write, args=(fd, 1)).start()
        assert _core._wait_readable(fd) is True
        try:
            _core._wait_readable(fd, float("nan"))
        except ValueError as error:
            assert "not a number" in str(error)
        else:
            raise AssertionError("nan was taken")
        """
    )
