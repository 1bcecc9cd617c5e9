"""The process-wide thread that carries news from the core to Python, and the orderly end of everything.

`ensure_drainer()` starts one daemon thread, "vmthaw-drainer". It sleeps in epoll without the GIL, hands the core's log
lines to ``logging.getLogger("vmthaw.<component>")`` and calls the callbacks of watched descriptors. `register()` keeps
weak references to what has to be taken down when the interpreter exits. After ``fork()`` the child starts with neither.
"""

from __future__ import annotations

import atexit
import enum
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from vmthaw import _core
from vmthaw.errors import StateError

_LINES_PER_BATCH = 256
_MUTE_S = 0.05
_JOIN_S = 2.0
_log = logging.getLogger("vmthaw.drainer")


class Closable(Protocol):
    """What `register` takes: an object that can be taken down at interpreter exit within its own time-outs."""

    def close_at_exit(self) -> None:
        """Ends the object's threads and descriptors. Called once, on the main thread, and must not wait for ever."""


class Stage(enum.IntEnum):
    """The order of taking down: servers first, then the sources they read from."""

    SERVER = 0
    SOURCE = 1


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block all signals but those of faults, so that threads started inside inherit it and Ctrl-C stays with main."""
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _report(what: str) -> None:
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


class _Drainer:
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
                    _report("the drainer goes on after an error")
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
                    _report("a logging handler raised")

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
        deadline = time.monotonic() + _JOIN_S  # somebody may go on writing
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
                _report("a logging handler raised")
        dropped = _core.log_dropped()
        if dropped != self._dropped_reported:
            lost, self._dropped_reported = dropped - self._dropped_reported, dropped
            _core.log_line(logging.WARNING, "log", f"{lost} lines were lost because they came faster than logged")
        return len(lines)


class _State:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.drainer: _Drainer | None = None
        self.registered: dict[int, tuple[Stage, weakref.ref[Closable]]] = {}
        self.exiting = False


_state = _State()


def ensure_drainer() -> None:
    """Start the drainer unless it runs. Any thread.

    Raises OSError without descriptors or threads left, `StateError` when the interpreter is exiting.
    """
    _ensure()


def _ensure() -> _Drainer:
    state = _state
    with state.lock:
        if state.exiting:
            raise StateError("the interpreter is exiting; nothing can be started any more")
        _core.set_log_level(logging.getLogger("vmthaw").getEffectiveLevel())
        if state.drainer is None or not state.drainer.thread.is_alive():
            state.drainer = _Drainer()
            _hook_child_process_exit()
        return state.drainer


def watch(fd: int, callback: Callable[[], object]) -> None:
    """Calls `callback` on the drainer's thread, with the GIL, whenever `fd` is readable; starts the drainer if need be.

    The callback must empty the descriptor (it is called again while it is readable), must not block, and may be called
    without need. When it raises, that is logged and the descriptor rests for 50 ms. Watching again replaces it.
    """
    _ensure().watch(fd, callback)


def unwatch(fd: int) -> None:
    """Ends `watch`; nothing happens when the descriptor is not watched. Call it before closing the descriptor.

    Does not wait: a call on the drainer's thread that is under way when this returns still ends in its own time.
    """
    drainer = _state.drainer
    if drainer is not None:
        drainer.unwatch(fd)


def register(obj: Closable, stage: Stage = Stage.SERVER) -> None:
    """Has `obj.close_at_exit()` called when the interpreter exits, unless it is gone or unregistered by then.

    Holds no reference. A forgotten server is named in a `ResourceWarning`. Any thread.
    """
    key = id(obj)
    state = _state
    state.registered[key] = (stage, weakref.ref(obj, lambda _ref: state.registered.pop(key, None)))


def unregister(obj: Closable) -> None:
    """Ends `register`: the object has been stopped properly. Idempotent. Any thread."""
    _state.registered.pop(id(obj), None)


def _warn_forgotten(obj: Closable) -> None:
    try:
        warnings.warn(
            f"{obj!r} still runs at interpreter exit; call stop() or use it in a with statement",
            ResourceWarning,
            stacklevel=1,
            source=obj,
        )
    except Warning:  # -W error
        _report("a server was forgotten")


def _at_exit() -> None:
    """Takes everything down in order. Bounded by each object's own time-outs; raises nothing."""
    state = _state
    with state.lock:
        state.exiting = True
        drainer, state.drainer = state.drainer, None
    for stage in Stage:
        for object_stage, reference in list(state.registered.values()):
            obj = reference()
            if object_stage is not stage or obj is None:
                continue
            try:
                if stage is Stage.SERVER:
                    _warn_forgotten(obj)
                obj.close_at_exit()
            except BaseException:
                _report("closing at exit failed")
    state.registered.clear()
    _shut_down_runtime()
    if drainer is not None and not drainer.stop(_JOIN_S):
        _report_stuck()


def _shut_down_runtime() -> None:
    """Joins the core's threads before the interpreter is torn down round them: what they log still finds a logger."""
    if "vmthaw.server" not in sys.modules:
        return  # nothing has started them
    try:
        if not _core._shutdown_runtime(_JOIN_S) and sys.stderr is not None:
            print(
                f"vmthaw: a page source has held up a thread for {_JOIN_S:.0f} s; exiting without it", file=sys.stderr
            )
    except BaseException:
        _report("ending the core's threads failed")


def _report_stuck() -> None:
    if sys.stderr is not None:
        print(
            f"vmthaw: a callback or a logging handler has held up the drainer for {_JOIN_S:.0f} s; exiting without it",
            file=sys.stderr,
        )


def _hook_child_process_exit() -> None:
    """A process of `multiprocessing` ends without atexit; its own finalizers run, so hook into those there."""
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _at_exit, exitpriority=100)


def _after_fork_in_child() -> None:
    global _state
    inherited, _state = _state, _State()
    inherited.registered.clear()
    if inherited.drainer is not None:
        inherited.drainer.abandon()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
