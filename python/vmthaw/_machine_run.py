"""A machine's vCPUs in a run loop: what `Machine` runs with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmthaw import _core
from vmthaw._core import Buses, Dispatcher, ExitProfile, GuestArch, RegisterSnapshot, RunEnd, Vcpu
from vmthaw._exit_feed import ExitFeed
from vmthaw._exit_functions import ExitFunctions, Place
from vmthaw.errors import StateError
from vmthaw.run_loop import RunLoop, VcpuStats
from vmthaw.watchpoints import Watchpoints

if TYPE_CHECKING:
    import numpy as np

    from vmthaw._lazy_memory import LazyMemory


class MachineRun(ExitFunctions):
    """Runs of all vCPUs, one after another; the machine is held by the run until its threads are gone."""

    _vcpu_count: int
    _buses: Buses
    _dispatcher: Dispatcher | None = None
    _exit_records: int
    _profile: ExitProfile
    _loop: RunLoop | None = None
    _hold: _core.MachineHold | None = None
    _watchpoints: Watchpoints | None = None
    _lazy: LazyMemory | None = None

    def _core_or_raise(self) -> _core.MachineCore:
        raise NotImplementedError

    def _init_run(self, vcpus: int, profile: ExitProfile, exit_records: int) -> None:
        self._vcpu_count = vcpus
        self._buses = Buses(GuestArch.x86_64)
        self._profile = profile
        self._exit_records = exit_records
        self._exit_feed = ExitFeed(exit_records)
        self._places: list[Place] = []

    def _check_may_register(self) -> None:
        self._core_or_raise()
        if self.running:
            raise StateError("the machine runs; functions are registered before")

    @property
    def vcpus(self) -> list[Vcpu]:
        """The vCPUs, by index."""
        core = self._core_or_raise()
        return [core.vcpu(index) for index in range(self._vcpu_count)]

    @property
    def buses(self) -> Buses:
        """Where devices are added, before the first run (StateError after it)."""
        return self._buses

    @property
    def watchpoints(self) -> Watchpoints:
        """The watchpoints of all runs (`start`, `run`), made when they are first asked for: before a run."""
        core = self._core_or_raise()
        if self._watchpoints is None:
            if self.running:
                raise StateError("the machine runs without watchpoints; ask for them before start()")
            self._watchpoints = Watchpoints(self.vcpus, memory=core.memory, vm=core.vm())
        return self._watchpoints

    @property
    def running(self) -> bool:
        """A run has begun, and its threads are not gone yet."""
        return self._loop is not None and self._loop.running

    def start(self) -> None:
        """Begins to run all vCPUs, each on a thread of its own. StateError when the machine is in use already."""
        core = self._core_or_raise()
        if self._hold is not None:
            self._let_go()
        hold = core.hold()
        try:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(self._profile, self._buses)
            loop = RunLoop(
                self.vcpus,
                self._dispatcher,
                exit_records=self._exit_records,
                functions=self._places,
                watchpoints=self._watchpoints,
            )
            loop._exit_feed = self._exit_feed
            loop.start()
        except BaseException:
            hold.release()
            raise
        self._loop, self._hold = loop, hold

    def _let_go(self) -> None:
        if self.running:
            raise StateError("the machine runs already; stop() it, or wait() for its end")
        if self._loop is not None:
            self._loop.close()
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def run(self, *, timeout: float | None = None) -> RunEnd:
        """Runs all vCPUs until the end of one ends all, and says how. Goes on waiting for a run that has begun.

        Raises TimeoutError after `timeout` seconds, or KeyboardInterrupt: the guest runs on then, until `stop`; what a
        function or device of yours raised; GuestError after a fatal end. Releases the GIL.
        """
        if not self.running:
            self.start()
        return self.wait(timeout=timeout)

    def wait(self, *, timeout: float | None = None) -> RunEnd:
        """How the run ended. As `run`; StateError before `start`."""
        loop = self._loop_or_raise()
        try:
            return loop.wait(timeout=timeout)
        finally:
            if not loop.running:
                self._let_go()

    def stop(self) -> RunEnd | None:
        """Ends a run and gives its end; None when nothing ran. What ended it otherwise is raised as by `wait`."""
        if self._hold is None or self._loop is None:
            return None
        self._loop.stop()
        return self.wait()

    def freeze(self, *, timeout: float = 30.0) -> list[RegisterSnapshot | None]:
        """Stops every running vCPU between two instructions, for `registers` and the like. As `RunLoop.freeze`."""
        return self._loop_or_raise().freeze(timeout=timeout)

    def thaw(self) -> None:
        """Lets frozen vCPUs go on."""
        self._loop_or_raise().thaw()

    def _frozen_hold(self) -> _core.MachineHold | None:
        return self._hold if self._loop is not None and self._loop.frozen else None

    @property
    def stats(self) -> list[VcpuStats]:
        """What each vCPU did in the last run; empty before one."""
        return [] if self._loop is None else self._loop.stats

    def take_exit_records(self, limit: int = 65536) -> np.ndarray[Any, np.dtype[np.void]]:
        """As `RunLoop.take_records`, of the last run; `exit_records` of the machine says how many are kept."""
        return self._loop_or_raise().take_records(limit)

    def _loop_or_raise(self) -> RunLoop:
        self._core_or_raise()
        if self._loop is None:
            raise StateError("the machine does not run; call start()")
        return self._loop

    def _end_run(self) -> None:
        if self._loop is not None:
            self._loop.close()
        self._let_go()
