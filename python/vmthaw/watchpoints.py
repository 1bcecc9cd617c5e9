"""Watch a guest's memory: four slots of four bytes each, instruction breakpoints, single step.

::

    watchpoints = machine.watchpoints  # or Watchpoints([vcpu], memory=memory, vm=vm) of a RunLoop
    watchpoints.set(1, 0x4000)  # stores to 0x4000 to 0x4003
    machine.run()
    if watchpoints.hit(1):
        print(watchpoints.take_events()[0])

A slot fires into three things: its hit, which is set once until `clear_hit`; one edge on its eventfd for that; and an
event each time. Slots 1 to 3 are yours. Slot 0 is gated: it fires only when the u32 at its gate, in guest memory, is at
or above a threshold, looked at when the store is done.

The debug registers serve all this where they work. A KVM may take them and never fire (kvm_pvm), so it is found out by
running a tiny guest; there a read-only memory slot over the page serves stores, and the host applies each for the
guest. Every store to such a page costs an exit, and an atomic instruction is not atomic there for other vCPUs. A page
that holds page tables, or the stack that interrupts come in on, cannot be watched so, and an instruction that KVM
cannot emulate ends the run as a GuestError. A machine whose writes are tracked for diffs has all pages in the next one
after a page was made read-only, or writable again; a slot that logs dirty pages for anybody else is refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vmthaw import _core
from vmthaw._closing import Closing
from vmthaw._core import GuestMemory, Kvm, Vcpu, Vm, WatchBackend, WatchEventKind, WatchKind
from vmthaw.errors import FreezeTimeoutError, StateError, VmthawValueError
from vmthaw.registers import capture_full, translate

__all__ = [
    "WatchBackend",
    "WatchEvent",
    "WatchEventKind",
    "WatchKind",
    "WatchReport",
    "Watchpoints",
    "probe_watchpoints",
]

SLOTS = 4
GATE_THRESHOLD = 1024
"""What slot 0's gate must hold at least."""
_WORD = 4
_FREEZE_S = 30.0


def probe_watchpoints(kvm: Kvm | None = None) -> dict[str, Any]:
    """What works here, by running tiny guests in VMs of their own.

    Gives ``data_slots`` (a bitmap), ``execute``, ``single_step``, ``read_only_page``. Some milliseconds, without the
    GIL; raises OSError without KVM.
    """
    return _core.probe_watchpoints(kvm or Kvm())


@functools.cache
def _ability() -> dict[str, Any]:
    return probe_watchpoints()


@dataclass(frozen=True)
class WatchEvent:
    """One firing of a slot, or one instruction of `Watchpoints.step`."""

    kind: WatchEventKind
    vcpu: int
    slot: int
    """0 of a step."""
    address: int
    """The slot's address; 0 of a step."""
    before: bytes | None
    """The four bytes before the store; of x86-64's debug registers, when they were last looked at. None: not known."""
    after: bytes | None
    instruction_pointer: int | None
    """Behind the store; of a breakpoint at its instruction, which is not executed yet; behind a step's instruction."""
    t_ns: int
    """The clock of all records (CLOCK_MONOTONIC), when the host saw it."""
    backend: WatchBackend
    latched: bool
    """This one set the hit."""


@dataclass(frozen=True)
class WatchReport:
    """What was asked for, what is in force, and whether that works."""

    requested: tuple[int, ...]
    """Slots."""
    armed: tuple[int, ...]
    """Slots that are in force on every vCPU. A vCPU takes them on before it next enters the guest."""
    verified: bool
    """Tiny guests have shown that what serves the requested slots (without any: stores) fires."""
    backend: WatchBackend
    """What serves stores."""


class Watchpoints(Closing):
    """Four slots for all vCPUs of one guest.

    `memory` (the guest's) and `vm` are needed for the bytes in events, for gates, and where read-only pages serve. Give
    it to a `RunLoop`, and change slots at any time, from any thread but a function of that loop: the vCPUs see a change
    before they next enter the guest, and are brought there. `backend` None is what works here; a debug register that
    never fires is what `WatchBackend.hardware` may get you. Slot 0 fires while its gate is at least `gate_threshold`.
    `events` is the capacity of the ring that `take_events` empties. `close` (or the end of a ``with`` block) disarms
    all: pages stay read-only otherwise, and the stores of a run without these watchpoints do not arrive there. Raises
    VmthawValueError for what cannot be; inert in a forked child (ForkedError).
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        *,
        memory: GuestMemory | None = None,
        vm: Vm | None = None,
        backend: WatchBackend | None = None,
        gate_threshold: int = GATE_THRESHOLD,
        events: int = 1024,
    ) -> None:
        self._vcpus = list(vcpus)
        self._memory = memory
        self._vm = vm
        self._asked = backend
        self._core = _core.WatchpointsCore(len(self._vcpus), memory, vm, gate_threshold, events)
        self._pid = os.getpid()
        self._loop: _core.RunLoopCore | None = None
        self._changing = threading.Lock()  # a freeze of one call is no ground to stand on for another

    @property
    def backend(self) -> WatchBackend:
        """What serves stores. Found out at the first use, by `probe_watchpoints`, once for each process."""
        if self._asked is not None:
            return self._asked
        ability = _ability()
        if ability["data_slots"] == (1 << SLOTS) - 1:
            return WatchBackend.hardware
        has_pages = ability["read_only_page"] and self._vm is not None and self._memory is not None
        return WatchBackend.read_only_page if has_pages else WatchBackend.none

    def set(
        self,
        slot: int,
        address: int,
        *,
        kind: WatchKind = WatchKind.write,
        physical: int | None = None,
        gate: int | None = None,
        timeout: float = _FREEZE_S,
    ) -> None:
        """Watches `address`, as the guest's code sees it (linear), instead of what the slot had.

        `physical` is the guest physical address of the same bytes; without it vCPU 0's page tables say. `gate`, of slot
        0 alone and needed there, is the guest physical address of a u32. Both want `memory`. Where the page becomes
        read-only, or page tables are read, the vCPUs are frozen for a moment (at most `timeout` seconds:
        FreezeTimeoutError; StateError while another thread freezes them). VmthawValueError for an address that is 0,
        not a multiple of 4, or nowhere; TranslationError. After an error the slot has what it had.
        """
        if slot == 0 and gate is None:
            raise VmthawValueError("slot 0 is gated: give gate=, the guest physical address of a u32; 1 to 3 need none")
        if slot != 0 and gate is not None:
            raise VmthawValueError(f"slot {slot} has no gate; only slot 0 is gated")
        backend = self.backend if kind is WatchKind.write else WatchBackend.hardware
        if kind is WatchKind.execute and self._asked is None and not _ability()["execute"]:
            raise StateError("instruction breakpoints do not fire on this KVM (probe_watchpoints)")
        wants_bytes = kind is WatchKind.write and self._memory is not None
        in_place = not self._core.has_page(slot) and backend is not WatchBackend.read_only_page
        if in_place and (physical is not None or not wants_bytes):
            self._publish(slot, address, kind, backend, physical, gate)
        else:
            with self._still(timeout):
                if physical is None and wants_bytes:
                    physical = self._translate(address)
                self._publish(slot, address, kind, backend, physical, gate)
        self._nudge()

    def _publish(
        self, slot: int, address: int, kind: WatchKind, backend: WatchBackend, physical: int | None, gate: int | None
    ) -> None:
        if self._memory is not None:
            for place in (physical, gate):
                if place is not None:
                    self._memory.read(place, _WORD)  # a page that is still to come comes here, where a time-out ends it
        self._core.set(slot, address, kind, backend, physical, gate)

    def disarm(self, slot: int, *, timeout: float = _FREEZE_S) -> None:
        """The slot watches nothing any more, and its hit is gone. As `set` where a page becomes writable again."""
        if self._core.has_page(slot):
            with self._still(timeout):
                self._core.disarm(slot)
        else:
            self._core.disarm(slot)
        self._nudge()

    def latch(self, slot: int) -> bool:
        """Sets the hit by hand, whatever the slot watches; True for the call that did. A slot beyond 3 does nothing."""
        return self._core.latch(slot) if slot >= 0 else False

    def hit(self, slot: int) -> bool:
        """Whether the slot has fired since it was set or cleared."""
        return self._core.hit(slot)

    def clear_hit(self, slot: int) -> None:
        """Makes the slot hit again for the next store. Takes the edge away first."""
        self._core.clear_hit(slot)

    def hit_eventfd(self, slot: int) -> int:
        """The descriptor that becomes readable when the slot's hit is set, one edge each. It stays this object's."""
        return self._core.hit_eventfd(slot)

    @property
    def any_armed(self) -> bool:
        """Something was asked for once; never False again."""
        return self._core.any_armed

    def step(self, vcpu: int, instructions: int = 1) -> None:
        """So many more instructions of that vCPU are an event each (`WatchEventKind.step`)."""
        if instructions < 1:
            raise VmthawValueError(f"{instructions} instructions cannot be stepped; at least 1")
        if self._asked is None and not _ability()["single_step"]:
            raise StateError("single step does not work on this KVM (probe_watchpoints)")
        self._core.step(vcpu, instructions)
        self._nudge()

    def steps_left(self, vcpu: int) -> int:
        """Instructions that `step` still asks for."""
        return self._core.steps_left(vcpu)

    def wait_armed(self, *, timeout: float | None = 10.0) -> bool:
        """Waits until every vCPU has taken on all that is asked for; False after `timeout` seconds. Ctrl-C ends it."""
        return self._core.wait_armed(timeout)

    def foreign(self, vcpu: int) -> int:
        """Debug exits of that vCPU that were not for a slot: the guest's own."""
        return self._core.foreign(vcpu)

    def is_disarmed(self, vcpu: int) -> bool:
        """A debug exception of the guest's own has taken the slots from that vCPU, until one is set anew (aarch64)."""
        return self._core.is_disarmed(vcpu)

    def take_events(self, limit: int = 1024) -> list[WatchEvent]:
        """Takes at most `limit` events, oldest first."""
        return [_event(*fields) for fields in self._core.take_events(limit)]

    @property
    def dropped_events(self) -> int:
        """Events that were lost because nobody took them in time."""
        return self._core.dropped_events()

    def verify(self) -> WatchReport:
        """Probes by function, in a VM of its own, whether what serves the slots fires. Some milliseconds."""
        ability = probe_watchpoints()
        stores, breakpoints = (self._core.requested(kind) for kind in (WatchKind.write, WatchKind.execute))
        if self.backend is WatchBackend.hardware:
            wanted = stores or 1
            works = ability["data_slots"] & wanted == wanted
        else:
            works = self.backend is WatchBackend.read_only_page and ability["read_only_page"]
        if breakpoints:
            works = ability["execute"] and (works or not stores)
        return WatchReport(_slots(stores | breakpoints), _slots(self._core.armed()), works, self.backend)

    def close(self) -> None:
        """Disarms every slot, as `disarm`. Idempotent. Does nothing in a forked child."""
        if os.getpid() == self._pid:
            for slot in range(SLOTS):
                self.disarm(slot)

    @property
    def core(self) -> _core.WatchpointsCore:
        """For `RunLoop`."""
        return self._core

    def attach(self, loop: _core.RunLoopCore) -> None:
        """For `RunLoop`, before its threads begin."""
        with self._changing:
            self._loop = loop

    def unchanged(self) -> contextlib.AbstractContextManager[Any]:
        """For `Machine`: while the block lasts no other thread freezes or thaws the guest to change a slot."""
        return self._changing

    @contextlib.contextmanager
    def _still(self, timeout: float) -> Iterator[None]:
        """While no vCPU runs: not begun, ended, frozen by the caller already, or frozen here."""
        with self._changing:
            loop = self._loop
            if loop is None or loop.frozen or not _freeze(loop, timeout):
                yield
                return
            try:
                yield
            finally:
                loop.thaw()

    def _translate(self, address: int) -> int:
        assert self._memory is not None
        state = capture_full(Kvm(), self._vcpus[0]).paging_state()
        return translate(state, self._memory, address).guest_physical

    def _nudge(self) -> None:
        if self._loop is not None:
            self._loop.nudge()

    def __repr__(self) -> str:
        return f"<Watchpoints: slots {_slots(self._core.requested())} of {len(self._vcpus)} vCPUs>"


def _freeze(loop: _core.RunLoopCore, timeout: float) -> bool:
    """False when the run has ended: then its threads are gone afterwards."""
    try:
        loop.freeze(timeout)
        return True
    except StateError:
        if loop.end is None:
            raise
    if not loop.wait(timeout):
        raise FreezeTimeoutError(f"the run has ended, but not every vCPU came out within {timeout} s")
    return False


def _slots(bitmap: int) -> tuple[int, ...]:
    return tuple(slot for slot in range(SLOTS) if bitmap >> slot & 1)


def _event(
    kind: WatchEventKind,
    vcpu: int,
    slot: int,
    address: int,
    before: int | None,
    after: int | None,
    instruction_pointer: int | None,
    t_ns: int,
    backend: WatchBackend,
    latched: bool,
) -> WatchEvent:
    def as_bytes(word: int | None) -> bytes | None:
        return None if word is None else word.to_bytes(_WORD, "little")

    return WatchEvent(
        kind, vcpu, slot, address, as_bytes(before), as_bytes(after), instruction_pointer, t_ns, backend, latched
    )
