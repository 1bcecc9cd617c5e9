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
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Protocol

from vmthaw import _core
from vmthaw._drainer import JOIN_S, Drainer, report
from vmthaw.errors import StateError


class Closable(Protocol):
    """What `register` takes: an object that can be taken down at interpreter exit within its own time-outs."""

    def close_at_exit(self) -> None:
        """Ends the object's threads and descriptors. Called once, on the main thread, and must not wait for ever."""


class Stage(enum.IntEnum):
    """The order of taking down: guests first, then the servers that have their memory, then what those read from, and
    at last the threads of other libraries that read for these."""

    GUEST = 0
    SERVER = 1
    SOURCE = 2
    FOREIGN = 3


class _State:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.drainer: Drainer | None = None
        self.registered: dict[int, tuple[Stage, weakref.ref[Closable]]] = {}
        self.exiting = False


_state = _State()


def ensure_drainer() -> None:
    """Start the drainer unless it runs. Any thread.

    Raises OSError without descriptors or threads left, `StateError` when the interpreter is exiting.
    """
    _ensure()


def _ensure() -> Drainer:
    state = _state
    with state.lock:
        if state.exiting:
            raise StateError("the interpreter is exiting; nothing can be started any more")
        _core.set_log_level(logging.getLogger("vmthaw").getEffectiveLevel())
        if state.drainer is None or not state.drainer.thread.is_alive():
            state.drainer = Drainer()
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

    Holds no reference. A forgotten guest or server is named in a `ResourceWarning`. Any thread.
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
        report("a guest or server was forgotten")


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
                if stage < Stage.SOURCE:
                    _warn_forgotten(obj)
                obj.close_at_exit()
            except BaseException:
                report("closing at exit failed")
    state.registered.clear()
    _shut_down_runtime()
    if drainer is not None and not drainer.stop(JOIN_S):
        _report_stuck()


def _shut_down_runtime() -> None:
    """Joins the core's threads before the interpreter is torn down round them: what they log still finds a logger."""
    if "vmthaw.server" not in sys.modules:
        return  # nothing has started them
    try:
        if not _core._shutdown_runtime(JOIN_S) and sys.stderr is not None:
            print(f"vmthaw: a page source has held up a thread for {JOIN_S:.0f} s; exiting without it", file=sys.stderr)
    except BaseException:
        report("ending the core's threads failed")


def _report_stuck() -> None:
    if sys.stderr is not None:
        print(
            f"vmthaw: a callback or a logging handler has held up the drainer for {JOIN_S:.0f} s; exiting without it",
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
