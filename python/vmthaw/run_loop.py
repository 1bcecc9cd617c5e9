"""Run a guest: a thread for each vCPU, exits answered in C++ or by functions of yours.

::

    loop = RunLoop([vcpu], Dispatcher(ExitProfile.strict, buses))

    @loop.on_port(0x500)
    def answer(access: Exit) -> bytes | None:
        return None if access.fields["is_write"] else bytes([42])

    end = loop.run(timeout=10.0)

A function that is registered for a port, an address or an exit reason is called on the vCPU's thread, with the GIL,
before the dispatcher sees the exit. It gives an `ExitAction` (or its kind), bytes that answer a read, or None: then the
dispatcher decides. What it raises ends the run, and comes out of `wait`.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmthaw import _core, _drainer, _lifecycle
from vmthaw._closing import Closing
from vmthaw._core import Dispatcher, RegisterSnapshot, RunEnd, RunEndKind, Vcpu
from vmthaw._exit_feed import ExitFeed
from vmthaw._exit_functions import Answer, ExitFunction, ExitFunctions, Place
from vmthaw._fault_candidates import candidates_text
from vmthaw.errors import ForkedError, GuestError, StateError, VmthawValueError

if TYPE_CHECKING:
    import numpy as np

    from vmthaw.watchpoints import Watchpoints

__all__ = ["Answer", "ExitFunction", "RunEnd", "RunEndKind", "RunLoop", "VcpuStats"]

_END_S = 5.0


@dataclass(frozen=True)
class VcpuStats:
    """What one vCPU did so far."""

    exits: Mapping[str, int]
    """By the reason's name; ``other`` are failed runs and reasons without a name."""
    handled: int
    """Exits for which a function of yours was called."""
    interruptions: int
    """KVM_RUNs that came back without an exit: kicks and signals."""
    guest_ns: int
    """Time in KVM_RUN."""
    host_ns: int
    """Time in which exits were answered."""


class RunLoop(ExitFunctions, Closing):
    """One run of the given vCPUs, until the end of one ends all.

    Register functions first, then `start` (or `run`); a run that ended does not begin again: make another.
    `functions` are some that were registered elsewhere.
    `exit_records` is the capacity of a ring of records, one an exit, read by `take_records` or a `TraceRecorder`;
    `record_registers` completes and captures the vCPU after each exit for them. `watchpoints`, made for the same vCPUs,
    are armed before the guest runs and see its exits first; a function for the reason DEBUG is then called after them,
    on the vCPU's thread, and may look around (its None lets the guest go on). Any thread may stop, wait, freeze and
    thaw; waits release the GIL and end with Ctrl-C. Inert in a forked child (ForkedError).
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        dispatcher: Dispatcher,
        *,
        exit_records: int = 0,
        record_registers: bool = False,
        functions: Sequence[Place] = (),
        watchpoints: Watchpoints | None = None,
    ) -> None:
        if not vcpus:
            raise VmthawValueError("a run loop needs at least one vCPU")
        self._vcpus = list(vcpus)
        self._dispatcher = dispatcher
        self._records = exit_records
        self._registers = record_registers
        self._places = list(functions)
        self._watchpoints = watchpoints
        self._exit_feed = ExitFeed(exit_records)
        self._pid = os.getpid()
        self._core: _core.RunLoopCore | None = None
        self._threads: list[threading.Thread] = []
        self._thread_errors: list[BaseException] = []

    def _check_may_register(self) -> None:
        if self._core is not None:
            raise StateError("the run has begun; functions are registered before")

    def start(self) -> None:
        """Begins: one thread a vCPU. StateError when it has begun already; OSError without threads left."""
        self._check_process()
        if self._core is not None:
            raise StateError("the run has begun already; make another RunLoop for another run")
        watched = self._watchpoints
        self._core = _core.RunLoopCore(
            self._vcpus,
            self._dispatcher,
            self._places,
            self._records,
            self._registers,
            None if watched is None else watched.core,
        )
        if watched is not None:
            watched.attach(self._core)
        self._exit_feed.begin(self._core)
        _lifecycle.register(self, _lifecycle.Stage.GUEST)
        try:
            for index in range(len(self._vcpus)):
                thread = threading.Thread(
                    target=self._run_vcpu, args=(self._core, index), name=f"vmthaw-vcpu{index}", daemon=True
                )
                with _drainer.blocked_signals():
                    thread.start()
                self._threads.append(thread)
            self._core.wait_begun()  # a freeze that came before a vCPU has its thread would pass it over
        except BaseException:
            self.stop()
            raise

    def _run_vcpu(self, core: _core.RunLoopCore, index: int) -> None:
        try:
            core.run_vcpu(index)
        except BaseException as error:
            self._thread_errors.append(error)
            core.stop()

    def run(self, *, timeout: float | None = None) -> RunEnd:
        """`start` and `wait`. When the time is over, or Ctrl-C comes, the guest runs on: `wait` again, or `stop`."""
        self.start()
        return self.wait(timeout=timeout)

    def wait(self, *, timeout: float | None = None) -> RunEnd:
        """How the run ended. Raises TimeoutError after `timeout` seconds, what a function or a device of yours raised,
        and GuestError after a fatal end; StateError before `start`."""
        core = self._core_or_raise()
        if not core.wait(timeout):
            raise TimeoutError(f"the guest still runs after {timeout} s")
        for thread in self._threads:
            thread.join()
        _lifecycle.unregister(self)
        if self._thread_errors:
            raise self._thread_errors[0]
        if core.error is not None:
            raise core.error
        end = core.end
        assert end is not None
        if end.kind is RunEndKind.fatal:
            raise _guest_error(end, self._vcpus[end.vcpu])
        return end

    def stop(self) -> None:
        """Ends the run, if nothing else has; `wait` gives its end. Idempotent; nothing before `start`."""
        self._check_process()
        if self._core is not None:
            self._core.stop()

    def close(self) -> None:
        """Ends the run and waits for its threads, at most 5 s. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._pid or self._core is None:
            return
        self._core.stop()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_S)
        _lifecycle.unregister(self)

    def close_at_exit(self) -> None:
        """For `_lifecycle`."""
        self.close()

    def freeze(self, *, timeout: float = 30.0) -> list[RegisterSnapshot | None]:
        """Stops every vCPU between two instructions and gives their registers (None: they could not be read).

        Raises FreezeTimeoutError when one did not park (it is in a function of yours); StateError when frozen already,
        not begun, or ended.
        """
        return self._core_or_raise().freeze(timeout)

    def thaw(self) -> None:
        """Lets frozen vCPUs go on. StateError when they are not frozen."""
        self._core_or_raise().thaw()

    @property
    def frozen(self) -> bool:
        """All vCPUs are parked, until `thaw`."""
        return self._core is not None and self._core.frozen

    @property
    def running(self) -> bool:
        """It has begun and has not ended."""
        return self._core is not None and self._core.end is None

    @property
    def stats(self) -> list[VcpuStats]:
        """What each vCPU did so far; empty before `start`."""
        core = self._core
        return [] if core is None else [VcpuStats(**core.stats(index)) for index in range(len(self._vcpus))]

    def take_records(self, limit: int = 65536) -> np.ndarray[Any, np.dtype[np.void]]:
        """Takes at most `limit` exit records, oldest first: a structured array without a copy. Loads numpy.

        StateError before `start`, and while a `TraceRecorder` takes them.
        """
        core = self._core_or_raise()
        self._exit_feed.check_free()
        return core.take_records(limit)

    @property
    def dropped_records(self) -> int:
        """Records lost because nobody took them in time."""
        return self._core_or_raise().dropped_records()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError("the RunLoop was made before fork(); it is inert in the child")

    def _core_or_raise(self) -> _core.RunLoopCore:
        self._check_process()
        if self._core is None:
            raise StateError("the run has not begun; call start()")
        return self._core

    def __repr__(self) -> str:
        core = self._core
        state = "not started" if core is None else "running" if core.end is None else core.end.kind.name
        return f"<RunLoop of {len(self._vcpus)} vCPUs: {state}>"


def _guest_error(end: RunEnd, vcpu: Vcpu) -> GuestError:
    found = end.exit
    assert found is not None
    device = f", for the device {end.device!r}" if end.device else ""
    # With exit MEMORY_FAULT beside it, the kernel names the address itself.
    where = f"; {candidates_text(vcpu.memory_slots())}" if found.errno == errno.EFAULT and found.reason is None else ""
    error = GuestError(f"vCPU {end.vcpu} cannot go on: {found} ({end.action}){device}{where}")
    error.exit, error.description = found.name, str(found)
    return error
