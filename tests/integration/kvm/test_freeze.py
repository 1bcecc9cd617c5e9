"""FreezeCoordinator with real vCPUs, each on a Python thread."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from tests.integration.kvm.support import CODE, TinyGuest
from tests.support.eventually import PATIENCE
from vmthaw.errors import ForkedError, FreezeTimeoutError, StateError, VmthawValueError
from vmthaw.freeze import FreezeCoordinator, VcpuThread
from vmthaw.kvm import Vcpu

pytestmark = pytest.mark.usefixtures("kvm_available")

# loop: incw (%bx); dec %cx; jnz loop; out %al, $0x80; jmp loop
COUNT = b"\xff\x07\x49\x75\xfb\xe6\x80\xeb\xf7"
COUNTERS = 0x4000
LONG = 30.0 * PATIENCE


class Counting:
    """vCPUs that count in memory, each at its own address, exit after every 65536 counts, and are run by threads."""

    def __init__(self, vcpus: int) -> None:
        self.guest = TinyGuest(COUNT)
        self.vcpus: list[Vcpu] = [self.guest.vcpu]
        self.vcpus += [self.guest.vm.create_vcpu(index) for index in range(1, vcpus)]
        zeroed = {f"{segment}.{part}": 0 for segment in ("cs", "ds", "es", "ss") for part in ("selector", "base")}
        for index, vcpu in enumerate(self.vcpus):
            vcpu.set_sregs(zeroed)
            vcpu.set_regs({"rip": CODE, "rbx": COUNTERS + 64 * index, "rsp": 0x8000, "rflags": 2, "rcx": 0})
        self.coordinator = FreezeCoordinator(self.vcpus)
        self.exits = [0] * vcpus
        self.attached = threading.Semaphore(0)
        self.on_exit: Callable[[int], None] = lambda index: None
        self.threads = [threading.Thread(target=self._run, args=(index,)) for index in range(vcpus)]
        for thread in self.threads:
            thread.start()
        for _ in self.threads:
            assert self.attached.acquire(timeout=LONG)

    def _run(self, index: int) -> None:
        with self.coordinator.attach(index) as thread:
            self.attached.release()
            while thread.run(None) is not None:
                self.exits[index] += 1
                self.on_exit(index)

    def counters(self) -> list[bytes]:
        return [self.guest.memory.read(COUNTERS + 64 * index, 2) for index in range(len(self.vcpus))]

    def wait_for_exits(self) -> None:
        before = list(self.exits)
        deadline = time.monotonic() + LONG
        while any(now == then for now, then in zip(self.exits, before, strict=True)):
            assert time.monotonic() < deadline, "a vCPU does not run"
            time.sleep(0.001)

    def end(self) -> None:
        self.coordinator.kill()
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()


def run_on(attached: VcpuThread, timeout: float) -> NoReturn:
    """Runs, exit after exit, until an exception ends it."""
    while True:
        attached.run(timeout)


@pytest.fixture
def counting() -> Iterator[Callable[[int], Counting]]:
    """`counting(n)` runs n vCPUs until the test ends."""
    made: list[Counting] = []

    def make(vcpus: int) -> Counting:
        made.append(Counting(vcpus))
        return made[-1]

    yield make
    for guests in made:
        guests.end()


def test_frozen_vcpus_stand_still_where_their_snapshots_say(counting: Callable[[int], Counting]) -> None:
    guests = counting(2)
    for _ in range(20):
        snapshots = guests.coordinator.freeze(LONG)
        assert guests.coordinator.is_parked(0)
        first = guests.counters()
        time.sleep(0.002)
        assert guests.counters() == first
        for snapshot, vcpu in zip(snapshots, guests.vcpus, strict=True):
            assert snapshot is not None
            assert CODE <= snapshot.instruction_pointer < CODE + len(COUNT)
            assert snapshot.instruction_pointer == vcpu.regs()["rip"]
        guests.coordinator.thaw()
    guests.wait_for_exits()
    assert not guests.coordinator.is_parked(1)


@pytest.mark.timeout(300)
def test_four_vcpus_are_frozen_again_and_again_while_they_run_and_exit(counting: Callable[[int], Counting]) -> None:
    guests = counting(4)
    for _ in range(int(os.environ.get("VMTHAW_FREEZE_CYCLES", "300"))):
        snapshots = guests.coordinator.freeze(LONG)
        assert all(snapshot is not None for snapshot in snapshots)
        guests.coordinator.thaw()
    guests.wait_for_exits()


def test_a_vcpu_that_is_busy_with_an_exit_is_named_and_the_guest_runs_on(counting: Callable[[int], Counting]) -> None:
    guests = counting(2)
    busy, go_on = threading.Event(), threading.Event()

    def hold(index: int) -> None:
        if index == 1 and not go_on.is_set():
            busy.set()
            go_on.wait(LONG)

    guests.on_exit = hold
    assert busy.wait(LONG)
    with pytest.raises(FreezeTimeoutError, match="vCPU 1 did not park") as caught:
        guests.coordinator.freeze(0.5)
    assert caught.value.not_parked == "1"
    assert isinstance(caught.value, TimeoutError)
    before = guests.exits[0]
    deadline = time.monotonic() + LONG
    while guests.exits[0] == before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    go_on.set()
    guests.coordinator.freeze(LONG)
    guests.coordinator.thaw()


def test_each_park_is_one_edge_on_the_eventfd() -> None:
    guest = TinyGuest(COUNT)
    guest.vcpu.set_regs({"rbx": COUNTERS})
    coordinator = FreezeCoordinator([guest.vcpu])
    edges = coordinator.parked_fileno()
    with coordinator.attach(0) as attached:
        assert select.select([edges], [], [], 0)[0] == []
        with pytest.raises(FreezeTimeoutError):
            coordinator.freeze(0.0)  # nobody runs, so nobody parks
        assert select.select([edges], [], [], 0)[0] == []
        thread = threading.Thread(target=coordinator.freeze, args=(LONG,))
        thread.start()
        with pytest.raises(TimeoutError, match="parked"):
            run_on(attached, 0.05)
        thread.join(LONG)
        attached.close()
        with contextlib.suppress(BlockingIOError):
            os.read(edges, 8)  # unless the freeze did
        with coordinator.attach(0) as again, pytest.raises(TimeoutError, match="parked"):
            again.run(0.0)
        assert os.read(edges, 8) == (1).to_bytes(8, "little")
        coordinator.thaw()


def test_states_that_do_not_fit_are_refused(counting: Callable[[int], Counting]) -> None:
    guests = counting(1)
    with pytest.raises(StateError, match="not frozen"):
        guests.coordinator.thaw()
    guests.coordinator.freeze(LONG)
    with pytest.raises(StateError, match="thaw"):
        guests.coordinator.freeze(LONG)
    with pytest.raises(StateError, match="has a thread"):
        guests.coordinator.attach(0)
    with pytest.raises(VmthawValueError, match="no vCPU 7"):
        guests.coordinator.attach(7)
    guests.coordinator.thaw()
    guests.coordinator.kill()
    with pytest.raises(StateError, match="killed"):
        guests.coordinator.freeze(LONG)
    assert guests.coordinator.killed


def test_a_kill_wakes_the_parked(counting: Callable[[int], Counting]) -> None:
    guests = counting(2)
    guests.coordinator.freeze(LONG)
    guests.end()


def test_a_vcpu_belongs_to_the_thread_that_attached() -> None:
    guest = TinyGuest(b"\xf4")
    coordinator = FreezeCoordinator([guest.vcpu])
    errors: list[Exception] = []
    with coordinator.attach(0) as attached:

        def steal() -> None:
            try:
                attached.run(1.0)
            except StateError as error:
                errors.append(error)

        thread = threading.Thread(target=steal)
        thread.start()
        thread.join()
        found = attached.run(5.0)
        assert found is not None
        assert found.name == "HLT"
    assert "another thread" in str(errors[0])
    with pytest.raises(StateError, match="closed"):
        attached.run(1.0)
    assert coordinator.freeze(1.0) == [None]  # without a thread nobody runs it


def test_ctrl_c_ends_a_parked_run_on_the_main_thread() -> None:
    guest = TinyGuest(COUNT)
    guest.vcpu.set_regs({"rbx": COUNTERS})
    coordinator = FreezeCoordinator([guest.vcpu])
    thawed = threading.Event()

    def freeze_and_interrupt() -> None:
        coordinator.freeze(LONG)
        os.kill(os.getpid(), signal.SIGINT)
        thawed.wait(LONG)
        coordinator.thaw()

    with coordinator.attach(0) as attached:
        thread = threading.Thread(target=freeze_and_interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_on(attached, LONG)
        assert coordinator.is_parked(0)
        frozen = guest.vcpu.regs()
        with pytest.raises(TimeoutError, match="parked"):
            attached.run(0.01)
        assert guest.vcpu.regs() == frozen
        thawed.set()
        found = attached.run(LONG)  # parked until the thaw, then in the guest
        assert found is not None
        assert found.name == "IO"
        thread.join(LONG)
    assert not coordinator.is_parked(0)


def test_a_parked_thread_may_leave_its_vcpu_to_another() -> None:
    guest = TinyGuest(COUNT)
    guest.vcpu.set_regs({"rbx": COUNTERS})
    coordinator = FreezeCoordinator([guest.vcpu])
    attached = coordinator.attach(0)
    frozen = threading.Thread(target=coordinator.freeze, args=(LONG,))
    frozen.start()
    with pytest.raises(TimeoutError, match="parked"):
        run_on(attached, 0.05)
    attached.close()
    frozen.join(LONG)
    assert not coordinator.is_parked(0)
    with coordinator.attach(0) as again:
        with pytest.raises(TimeoutError, match="parked"):
            again.run(0.01)
        coordinator.thaw()
        assert again.run(LONG) is not None


def test_ctrl_c_ends_a_freeze_and_the_guest_runs_on(counting: Callable[[int], Counting]) -> None:
    guests = counting(1)
    busy, go_on = threading.Event(), threading.Event()

    def hold(index: int) -> None:
        busy.set()
        go_on.wait(LONG)

    guests.on_exit = hold
    assert busy.wait(LONG)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        guests.coordinator.freeze(LONG)
    timer.join()
    go_on.set()
    guests.coordinator.freeze(LONG)
    guests.coordinator.thaw()


def test_a_forked_child_finds_it_inert(counting: Callable[[int], Counting]) -> None:
    guests = counting(1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            guests.coordinator.freeze(1.0)
        except ForkedError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    guests.coordinator.freeze(LONG)
    guests.coordinator.thaw()
