"""The drainer's thread: it sleeps in epoll without the GIL and carries log lines and callbacks to Python."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vmthaw import _core

_LINES_PER_BATCH = 256
_MUTE_S = 0.05
JOIN_S = 2.0  # how long an end may take
_log = logging.getLogger("vmthaw.drainer")


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block all signals but those of faults, so that threads started inside inherit it and Ctrl-C stays with main."""
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # Runs the handler of a signal that came just now, which may raise: nothing may stay blocked then.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def report(what: str) -> None:
    """Prints the exception at hand as `logging` does with a handler's: when `logging.raiseExceptions` says so."""
    if not logging.raiseExceptions or sys.stderr is None:
        return
    try:
        print(f"vmthaw: {what}:", file=sys.stderr)
        traceback.print_exc()
    except (OSError, ValueError):
        pass  # a closed stderr


def _deliver(line: tuple[int, int, str, str, bool, str, int]) -> None:
    t_ns, level, component, text, truncated, thread_name, tid = line
    logger = logging.getLogger(f"vmthaw.{component}")
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(logger.name, level, "vmthaw core", 0, text + (" [cut]" if truncated else ""), (), None)
    age_s = (time.monotonic_ns() - t_ns) / 1e9
    record.created -= age_s
    record.msecs = float(int(record.created % 1 * 1000))
    record.relativeCreated -= age_s * 1000
    record.thread, record.threadName = tid, thread_name
    logger.handle(record)


class Drainer:
    """One thread, one epoll. Methods are for any thread; callbacks run on the drainer's, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._muted: dict[int, float] = {}
        self._dropped_reported = 0
        self._stopping = False
        self._abandoned = False
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._callbacks[self._wake_fd] = lambda: os.eventfd_read(self._wake_fd)
        self.watch(_core.log_fd(), self._drain_log)
        self.thread = threading.Thread(target=self._run, name="vmthaw-drainer", daemon=True)
        with blocked_signals():
            self.thread.start()

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        with self._lock:
            self._muted.pop(fd, None)
            self._callbacks[fd] = callback
            try:
                self._epoll.register(fd, select.EPOLLIN)
            except FileExistsError:
                self._epoll.modify(fd, select.EPOLLIN)
            except OSError:
                del self._callbacks[fd]
                raise

    def unwatch(self, fd: int) -> None:
        with self._lock:
            self._muted.pop(fd, None)
            if self._callbacks.pop(fd, None) is not None:
                with suppress(OSError):  # closed already, which took it out
                    self._epoll.unregister(fd)

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread after a last look at everything that waits. False when a callback holds it up."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def abandon(self) -> None:
        """In a forked child: the thread is not here, and the epoll instance is the parent's as well. Only close."""
        self._abandoned = True
        self._epoll.close()
        os.close(self._wake_fd)

    def _run(self) -> None:
        while not self._abandoned:
            try:
                stopping = self._stopping
                self._turn(0 if stopping else self._timeout_s())
                if stopping:
                    self._flush_log()
                    return
            except BaseException:
                if not self._abandoned:
                    report("the drainer goes on after an error")
                    time.sleep(_MUTE_S)

    def _timeout_s(self) -> float | None:
        with self._lock:
            if not self._muted:
                return None
            return max(0.0, min(self._muted.values()) - time.monotonic())

    def _turn(self, timeout_s: float | None) -> None:
        ready = self._epoll.poll(timeout_s)
        self._unmute()
        for fd, _events in ready:
            callback = self._callbacks.get(fd)
            if callback is None:
                continue  # unwatched since
            try:
                callback()
            except BaseException:
                if self._abandoned:
                    return
                self._mute(fd, callback)
                try:
                    _log.exception("the callback of descriptor %d raised", fd)
                except BaseException:
                    report("a logging handler raised")

    def _mute(self, fd: int, callback: Callable[[], object]) -> None:
        """A callback that raised may not have emptied its descriptor: look away for a moment instead of spinning."""
        with self._lock:
            if self._callbacks.get(fd) is callback:
                self._muted[fd] = time.monotonic() + _MUTE_S
                self._modify(fd, 0)

    def _unmute(self) -> None:
        with self._lock:
            now = time.monotonic()
            for fd in [fd for fd, until in self._muted.items() if until <= now]:
                del self._muted[fd]
                self._modify(fd, select.EPOLLIN)

    def _modify(self, fd: int, events: int) -> None:
        try:
            self._epoll.modify(fd, events)
        except OSError:
            self._callbacks.pop(fd, None)  # closed without unwatch()

    def _flush_log(self) -> None:
        deadline = time.monotonic() + JOIN_S  # somebody may go on writing
        while self._drain_log() > 0 and time.monotonic() < deadline:
            pass

    def _drain_log(self) -> int:
        """Delivers one batch and gives back its size; what is left keeps the descriptor readable."""
        lines = _core.drain_log(_LINES_PER_BATCH)
        for line in lines:
            try:
                _deliver(line)
            except BaseException:
                if self._abandoned:
                    return 0
                report("a logging handler raised")
        dropped = _core.log_dropped()
        if dropped != self._dropped_reported:
            lost, self._dropped_reported = dropped - self._dropped_reported, dropped
            _core.log_line(logging.WARNING, "log", f"{lost} lines were lost because they came faster than logged")
        return len(lines)
