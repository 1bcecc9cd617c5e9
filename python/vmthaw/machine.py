"""A guest of our own: run it, let it check its memory, save it, restore it lazily.

The guest is a small program that fills its memory with a seeded pattern and verifies every word of it by itself::

    with Machine(512 << 20) as machine:
        machine.fill(seed=1, zero_share=0.5)
        machine.snapshot("snapshot")
    with Machine.restore("snapshot", lazy=True) as machine:
        machine.verify().check()

A second snapshot may be a diff, ``snapshot("later", diff=True)``: the pages that were written since.

`VmmProcess` does the same in a process of its own, as an orchestrator sees a VMM. x86-64 only.
"""

from __future__ import annotations

import os
import time

from vmthaw import _core
from vmthaw._closing import Closing
from vmthaw._core import Exit, ExitProfile, GuestMemory, MachineState
from vmthaw._lazy_memory import LazyMemory
from vmthaw._machine_capture import MachineCapture
from vmthaw._machine_snapshot import Lazy, MachineSnapshot, memory_source
from vmthaw.errors import ForkedError, StateError, VmthawValueError
from vmthaw.machine_values import (
    FIRST_WORK_PAGE,
    ORDERS,
    GuestReport,
    Operation,
    Order,
    Workload,
    share_of,
)
from vmthaw.vmm_process import VmmProcess

__all__ = [
    "FIRST_WORK_PAGE",
    "GuestMemory",
    "GuestReport",
    "Lazy",
    "Machine",
    "MachineState",
    "Operation",
    "VmmProcess",
    "Workload",
    "memory_source",
]


class Machine(MachineSnapshot, MachineCapture, Closing):
    """A guest in this process: the payload on one vCPU, or a program of yours.

    `memory` is its size in bytes (a multiple of 4096, 2 MiB to 64 GiB; the first MiB is the payload's own) or a
    `GuestMemory`. Pages are numbered by their offset in a memory file; `first_page` and `pages` default to all of the
    work area. With ``payload=False`` memory is zero and vCPUs are as after a reset: write a program, set registers, add
    devices to `buses`, register functions, and `run`. Exits are answered by `profile`; `exit_records` is the capacity
    of the ring behind `take_exit_records` and a `TraceRecorder`. `irqchip` puts interrupt controllers and the interval
    timer into the kernel. `dirty_ring`, a power of two of entries, has a ring for each vCPU tell what was written since
    the last snapshot (KVM_CAP_DIRTY_LOG_RING), instead of KVM's dirty log. One thread at a time may run or save it;
    `read` and `write` are anybody's. Waits release the GIL, end with Ctrl-C, and raise TimeoutError after `timeout`
    seconds: a command then goes on with `finish`. Raises OSError (no KVM, no memory), StateError, and GuestError when
    the guest stops instead of answering.
    """

    def __init__(
        self,
        memory: int | GuestMemory,
        *,
        vcpus: int = 1,
        payload: bool = True,
        profile: ExitProfile = ExitProfile.strict,
        exit_records: int = 0,
        irqchip: bool = False,
        dirty_ring: int = 0,
    ) -> None:
        if payload and vcpus != 1:
            raise VmthawValueError(
                f"the payload runs on one vCPU, not on {vcpus}; payload=False is for programs of yours"
            )
        own = GuestMemory.anonymous(memory) if isinstance(memory, int) else memory
        self._init(own, vcpus, profile, exit_records, irqchip, dirty_ring)
        if payload:
            self._core_or_raise().load_payload()

    def _init(
        self,
        memory: GuestMemory,
        vcpus: int,
        profile: ExitProfile = ExitProfile.strict,
        exit_records: int = 0,
        irqchip: bool = False,
        dirty_ring: int = 0,
    ) -> None:
        self._memory = memory
        self._workload = Workload()
        self._pid = os.getpid()
        self._lazy: LazyMemory | None = None
        self._operation: Operation | None = None
        self._core: _core.MachineCore | None = _core.MachineCore(memory, vcpus, irqchip, dirty_ring)
        self._init_run(vcpus, profile, exit_records)

    def _core_or_raise(self) -> _core.MachineCore:
        if os.getpid() != self._pid:
            raise ForkedError("the Machine was made before fork(); it is inert in the child")
        if self._core is None:
            raise StateError("the machine is closed")
        return self._core

    def close(self) -> None:
        """Ends the guest and lets its memory go: lazily restored, it is not what it was where it was never touched.

        Idempotent. Does nothing in a forked child.
        """
        if os.getpid() != self._pid:
            return
        if self._core is not None:
            self._end_run()
        self._core = None
        lazy, self._lazy = self._lazy, None
        if lazy is not None:
            lazy.close()

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory."""
        return self._memory

    @property
    def workload(self) -> Workload:
        """What the guest's pages must hold, after all that was filled and rewritten here or before the snapshot."""
        return self._workload

    @property
    def pages(self) -> int:
        """Pages of the whole memory; the work area begins at FIRST_WORK_PAGE."""
        return self._memory.size // 4096

    @property
    def busy(self) -> bool:
        """The guest is at a command that has not been answered."""
        return self._core_or_raise().busy

    @property
    def core(self) -> _core.MachineCore:
        """The core's machine, for `vm()` and `vcpu(0)`."""
        return self._core_or_raise()

    def read(self, guest_address: int, size: int, *, timeout: float = 30.0) -> bytes:
        """Bytes of guest memory; missing pages are waited for, without the GIL. VmthawValueError outside it."""
        self._core_or_raise()
        return self._memory.read(guest_address, size, timeout)

    def write(self, guest_address: int, data: bytes, *, timeout: float = 30.0) -> None:
        """Writes into guest memory. As `read`."""
        self._core_or_raise()
        self._memory.write(guest_address, data, timeout)

    def run_to_exit(self, *, vcpu: int = 0, timeout: float | None = None) -> Exit:
        """Runs one vCPU on this thread until an exit, which it gives, whatever it is."""
        return self._core_or_raise().run(vcpu, timeout)

    def ping(self, *, timeout: float = 30.0) -> GuestReport:
        """The smallest round trip."""
        return self._command(Operation.PING, timeout)

    def fill(
        self,
        seed: int = 0,
        *,
        zero_share: float = 0.0,
        first_page: int = FIRST_WORK_PAGE,
        pages: int | None = None,
        timeout: float = 60.0,
    ) -> GuestReport:
        """The guest writes every page of the range anew: the share `zero_share` of them zeros, the rest seeded words.

        This begins a new workload: pages outside the range do not hold what `verify` expects from then on.
        """
        workload = Workload(seed, share_of(zero_share, "zero_share"))
        return self._command(Operation.FILL, timeout, first_page, pages, workload=workload)

    def verify(
        self, *, first_page: int = FIRST_WORK_PAGE, pages: int | None = None, timeout: float = 60.0
    ) -> GuestReport:
        """The guest compares every word of every page with what it must hold. `check()` the report."""
        return self._command(Operation.VERIFY, timeout, first_page, pages)

    def touch(
        self,
        order: Order = "sequential",
        *,
        count: int | None = None,
        seed: int = 0,
        one_word: bool = False,
        first_page: int = FIRST_WORK_PAGE,
        pages: int | None = None,
        timeout: float = 60.0,
    ) -> GuestReport:
        """The guest visits and verifies `count` pages (default: as many as there are) of a range.

        ``random`` is a seeded permutation; ``zipf`` draws pages with a probability of about 1 / rank, repeating.
        `one_word` reads and compares a single word of each page instead of all 512.
        """
        if order not in ORDERS:
            raise VmthawValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        span = self.pages - first_page if pages is None else pages
        return self._command(
            Operation.TOUCH, timeout, first_page, span, span if count is None else count, ORDERS[order], seed, one_word
        )

    def rewrite(
        self,
        seed: int,
        *,
        share: float = 0.1,
        first_page: int = FIRST_WORK_PAGE,
        pages: int | None = None,
        timeout: float = 60.0,
    ) -> GuestReport:
        """The guest writes a seeded share of the pages anew; `verify` expects the new content from then on."""
        span = self.pages - first_page if pages is None else pages
        if len(self._workload.rewrites) >= 32:
            raise VmthawValueError("a workload has at most 32 rewritings; fill() begins a new one")
        before = self._workload
        added = (seed, share_of(share, "share"), first_page, span)
        workload = Workload(before.seed, before.zero_share, (*before.rewrites, added))
        return self._command(Operation.REWRITE, timeout, first_page, span, workload=workload)

    def spin(self, iterations: int = 0, *, timeout: float = 30.0) -> GuestReport:
        """The guest counts to `iterations`, or for ever (0)."""
        return self._command(Operation.SPIN, timeout, count=iterations)

    def load_vectors(self, seed: int, *, timeout: float = 30.0) -> GuestReport:
        """Puts seeded numbers into the guest's vector registers (XMM0 to XMM15), which nothing else there uses."""
        return self._command(Operation.LOAD_VECTORS, timeout, seed=seed)

    def check_vectors(self, seed: int, *, timeout: float = 30.0) -> GuestReport:
        """The guest compares its vector registers with what `load_vectors` put there."""
        return self._command(Operation.CHECK_VECTORS, timeout, seed=seed)

    def finish(self, *, timeout: float = 60.0) -> GuestReport:
        """Waits for the answer to a command whose wait ended early, also one under way when a snapshot was taken."""
        start = time.monotonic_ns()
        answer = self._core_or_raise().finish(timeout)
        name = self._operation.name.lower() if self._operation is not None else "finish"
        return GuestReport(name, duration_ns=time.monotonic_ns() - start, **answer)

    def _refuse_busy(self) -> None:
        if self.busy:
            raise StateError("the guest is still at its last command; wait for it with finish()")

    def _command(
        self,
        operation: Operation,
        timeout: float,
        first_page: int = FIRST_WORK_PAGE,
        pages: int | None = 0,
        count: int = 0,
        order: int = 0,
        seed: int = 0,
        one_word: bool = False,
        workload: Workload | None = None,
    ) -> GuestReport:
        core = self._core_or_raise()
        self._refuse_busy()
        span = self.pages - first_page if pages is None else pages
        holds = workload if workload is not None else self._workload
        start = time.monotonic_ns()
        try:
            core.start(
                operation.value, first_page, max(span, 0), count, order, seed, one_word, holds.as_tuple(), timeout
            )
        finally:
            # Also when Ctrl-C ended the wait: the guest has the command as soon as the machine is busy.
            if core.busy:
                self._operation, self._workload = operation, holds
        left = timeout - (time.monotonic_ns() - start) / 1e9
        answer = core.finish(max(left, 0.0))
        return GuestReport(operation.name.lower(), duration_ns=time.monotonic_ns() - start, **answer)
