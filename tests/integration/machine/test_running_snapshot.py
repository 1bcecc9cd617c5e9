"""Machines that are saved while they run: all vCPUs and the memory as of one moment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG, SPIN, out
from tests.integration.kvm.test_split_accesses import FAR, STORE
from tests.support.eventually import PATIENCE, eventually
from vmthaw import PageServer, PythonSource
from vmthaw.errors import FreezeTimeoutError, StateError
from vmthaw.machine import Machine, MachineState
from vmthaw.run_loop import RunEndKind
from vmthaw.vcpu import Exit

pytestmark = pytest.mark.usefixtures("kvm_available")

MEMORY = 2 << 20
CODE = 0x1000
VCPUS = 3
COUNT = b"\x40\x89\x07\xeb\xfb"  # again: inc ax; mov [bx], ax; jmp again


def place_of(vcpu: int) -> int:
    """Where that vCPU counts: a page of its own."""
    return 0x4000 + vcpu * 0x2000


def prepare(machine: Machine, code: bytes = COUNT) -> None:
    """Every vCPU begins with `code` in real mode."""
    machine.write(CODE, code)
    for index, vcpu in enumerate(machine.vcpus):
        vcpu.set_mp_state(0)
        segments = ("cs", "ds", "es", "ss")
        vcpu.set_sregs({f"{segment}.{part}": 0 for segment in segments for part in ("selector", "base")})
        vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2, "rbx": place_of(index), "rax": 0})


def counter(machine: Machine, vcpu: int) -> int:
    return int.from_bytes(machine.read(place_of(vcpu), 2), "little")


def has_moved(machine: Machine, before: list[int]) -> bool:
    return all(counter(machine, index) != value for index, value in enumerate(before))


@pytest.fixture(params=[pytest.param(0, id="log"), pytest.param(1024, id="ring")])
def counting(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Three vCPUs that count, each in a page of its own."""
    try:
        made = Machine(MEMORY, vcpus=VCPUS, payload=False, dirty_ring=request.param)
    except OSError as error:
        pytest.skip(f"this kernel has no dirty ring: {error}")
    with made as machine:
        prepare(machine)
        machine.start()
        eventually(lambda: has_moved(machine, [0] * VCPUS), LONG)
        yield machine


def assert_of_one_moment(machine: Machine) -> None:
    """What a vCPU has counted lies in its memory, but for the instruction that it is at."""
    for index in range(len(machine.vcpus)):
        registers = machine.registers(index)
        behind = (registers["rax"] - counter(machine, index)) & 0xFFFF
        assert behind == (1 if registers["rip"] == CODE + 1 else 0), index


def test_a_running_machine_is_saved_as_of_one_moment_and_runs_on(counting: Machine, tmp_path: Path) -> None:
    previous = None
    for number in range(4):
        folder = tmp_path / str(number)
        counting.snapshot(folder, diff=number > 0, timeout=LONG)
        assert counting.running
        assert counting.snapshot_pause_ns
        before = [counter(counting, index) for index in range(VCPUS)]
        eventually(lambda before=before: has_moved(counting, before), LONG)  # type: ignore[misc]
        with Machine.restore(folder, lazy=False) as machine:
            assert len(machine.vcpus) == VCPUS
            assert_of_one_moment(machine)
            counts = [counter(machine, index) for index in range(VCPUS)]
            assert counts != previous
            previous = counts
    bits = MachineState.load(str(folder)).changed_pages
    changed = {page for page in range(MEMORY // 4096) if bits[page // 8] >> page % 8 & 1}
    places = {place_of(index) // 4096 for index in range(VCPUS)}
    assert places <= changed
    if len(changed) == MEMORY // 4096:
        assert counting.dirty_tracking == "ring"  # which a kernel that emulates every instruction overruns
    else:
        assert changed <= places | {CODE // 4096}  # which some back ends take for written, as it is read


def test_a_restored_machine_goes_on_where_all_vcpus_were(counting: Machine, tmp_path: Path) -> None:
    counting.snapshot(tmp_path / "a", timeout=LONG)
    counting.snapshot(tmp_path / "b", diff=True, timeout=LONG)
    with Machine.restore(tmp_path / "b", lazy=False, track_dirty=True) as machine:
        before = [counter(machine, index) for index in range(VCPUS)]
        machine.start()
        eventually(lambda: has_moved(machine, before), LONG)
        machine.snapshot(tmp_path / "c", diff=True, timeout=LONG)
        machine.stop()
    with Machine.restore(tmp_path / "c", lazy=False) as machine:
        assert_of_one_moment(machine)


def test_a_frozen_machine_is_saved_and_stays_frozen(counting: Machine, tmp_path: Path) -> None:
    counting.freeze(timeout=LONG)
    before = [counter(counting, index) for index in range(VCPUS)]
    counting.snapshot(tmp_path / "a")
    counting.snapshot(tmp_path / "b", diff=True)
    assert [counter(counting, index) for index in range(VCPUS)] == before
    assert MachineState.load(str(tmp_path / "b")).memory_data_pages == 0
    counting.thaw()
    eventually(lambda: has_moved(counting, before), LONG)


def test_two_that_save_at_once_lose_no_page(counting: Machine, tmp_path: Path) -> None:
    counting.snapshot(tmp_path / "base", timeout=LONG)
    outcomes: list[object] = []

    def save(number: int) -> None:
        try:
            outcomes.append(counting.snapshot(tmp_path / f"d{number}", diff=True, timeout=LONG))
        except StateError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saved = [outcome for outcome in outcomes if isinstance(outcome, Path)]
    assert saved
    assert all("saves this machine" in text or "frozen" in text for text in outcomes if isinstance(text, str)), outcomes
    for folder in saved:
        with Machine.restore(folder, lazy=False, check_memory=True) as machine:
            assert_of_one_moment(machine)


def test_a_machine_that_has_halted_is_saved(tmp_path: Path) -> None:
    with Machine(MEMORY, payload=False) as machine:
        prepare(machine, out(0x80, 7) + HLT + out(0x81, 8) + HLT)
        assert machine.run(timeout=LONG).kind is RunEndKind.halted
        machine.snapshot(tmp_path / "a")
    with Machine.restore(tmp_path / "a", lazy=False) as machine:
        seen: list[Exit] = []
        machine.on_port(0x81)(seen.append)
        assert machine.run(timeout=LONG).kind is RunEndKind.halted
        assert len(seen) == 1


def test_a_guest_within_an_access_of_several_parts_is_saved_after_it(tmp_path: Path) -> None:
    with Machine(MEMORY, payload=False) as machine:
        prepare(machine, STORE)  # 16 bytes, of which an exit carries 8
        vcpu = machine.vcpus[0]
        vcpu.set_sregs({"ds.base": FAR, "cr4": vcpu.sregs()["cr4"] | 0x600})  # OSFXSR, OSXMMEXCPT
        first = machine.run_to_exit(timeout=LONG)
        with pytest.raises(StateError, match="run it to its next exit, then save it"):
            machine.snapshot(tmp_path / "a")
        assert list((tmp_path / "a").iterdir()) == []
        second = machine.run_to_exit(timeout=LONG)
        assert (first.fields["guest_address"], second.fields["guest_address"]) == (FAR + 0x10, FAR + 0x18)
        machine.snapshot(tmp_path / "a")
    with Machine.restore(tmp_path / "a", lazy=False) as machine:
        assert machine.run(timeout=LONG).kind is RunEndKind.halted


def test_a_vcpu_that_does_not_park_makes_the_snapshot_fail_and_nothing_else(tmp_path: Path) -> None:
    asked, release = threading.Event(), threading.Event()
    with Machine(MEMORY, payload=False) as machine:
        prepare(machine, out(0x80, 7) + SPIN)

        @machine.on_port(0x80)
        def stuck(_access: Exit) -> None:
            asked.set()
            release.wait(LONG)

        machine.start()
        assert asked.wait(LONG)
        with pytest.raises(FreezeTimeoutError):
            machine.snapshot(tmp_path / "a", timeout=0.2)
        assert list((tmp_path / "a").iterdir()) == []
        release.set()
        machine.snapshot(tmp_path / "a", timeout=LONG)
        machine.stop()


class LatePage:
    """A saved machine, restored from a server that gives its last page when it is told to."""

    SIZE = 8 << 20

    def __init__(self, folder: Path, socket: Path) -> None:
        self.asked, self.release = threading.Event(), threading.Event()
        with Machine(self.SIZE, payload=False) as machine:
            prepare(machine)
            machine.snapshot(folder)
        self._memory = (folder / "memory.bin").read_bytes()
        self._folder, self._socket = folder, socket

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size == self.SIZE:
            self.asked.set()
            self.release.wait(LONG * PATIENCE)
        return self._memory[offset : offset + size]

    @contextlib.contextmanager
    def running(self) -> Iterator[Machine]:
        """The machine, which has begun to count."""
        with (
            PythonSource(self._read, self.SIZE, threads=2, timeout=LONG * PATIENCE) as source,
            PageServer(self._socket, source),
            Machine.restore(self._folder, lazy=self._socket, timeout=LONG) as machine,
        ):
            try:
                machine.start()
                eventually(lambda: counter(machine, 0) > 0, LONG)
                yield machine
            finally:
                self.release.set()


def test_a_guest_stands_still_until_its_last_page_is_saved(
    tmp_path: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    late = LatePage(tmp_path / "base", tmp_socket)
    with late.running() as machine:
        saver = threading.Thread(target=machine.snapshot, args=(tmp_path / "a",), kwargs={"timeout": LONG * PATIENCE})
        saver.start()
        assert late.asked.wait(LONG * PATIENCE)
        with pytest.raises(StateError, match="thaw it when `snapshot` is done"):
            machine.thaw()
        before = counter(machine, 0)
        late.release.set()
        saver.join()
        eventually(lambda: counter(machine, 0) != before, LONG)
    with Machine.restore(tmp_path / "a", lazy=False, check_memory=True) as machine:
        assert counter(machine, 0) == before


def test_a_save_that_nobody_waits_for_any_more_has_the_machine_until_it_is_over(
    tmp_path: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    late = LatePage(tmp_path / "base", tmp_socket)
    with late.running() as machine:
        with pytest.raises(TimeoutError):
            machine.snapshot(tmp_path / "a", timeout=2 * PATIENCE)
        assert late.asked.is_set()
        before = counter(machine, 0)
        eventually(lambda: counter(machine, 0) != before, LONG)
        machine.stop()
        with pytest.raises(StateError, match="another thread"):
            machine.start()
        with pytest.raises(StateError, match="another thread"):
            machine.snapshot(tmp_path / "b")
        late.release.set()
        eventually(lambda: not list((tmp_path / "a").iterdir()), LONG)

        def can_start() -> bool:
            try:
                machine.start()
            except StateError:
                return False
            return True

        eventually(can_start, LONG)
        machine.snapshot(tmp_path / "b", timeout=LONG * PATIENCE)
    with Machine.restore(tmp_path / "b", lazy=False, check_memory=True):
        pass


def test_interrupt_controllers_timer_and_clock_are_restored(tmp_path: Path) -> None:
    with Machine(MEMORY, vcpus=2, payload=False, irqchip=True) as machine:
        prepare(machine)
        year_ns = 365 * 86400 * 10**9
        machine.core.vm().set_clock(year_ns.to_bytes(8, "little") + bytes(40))
        redirection = machine.core.vm().irqchip(2)
        changed = bytearray(redirection)
        changed[8 + 24 + 8] = 0x31  # the vector of the IOAPIC's second pin
        machine.core.vm().set_irqchip(bytes(changed))
        lapic = bytearray(machine.vcpus[1].lapic())
        lapic[0x80] = 0x40  # task priority
        machine.vcpus[1].set_lapic(bytes(lapic))
        machine.vcpus[1].set_mp_state(1)
        pit = machine.core.vm().pit()
        machine.snapshot(tmp_path / "a")
        saved = [machine.core.vm().irqchip(chip) for chip in range(3)]
        assert saved[2] != redirection
    state = MachineState.load(str(tmp_path / "a"))
    assert state.has_irqchip
    with Machine.restore(tmp_path / "a", lazy=False) as machine:
        assert [machine.core.vm().irqchip(chip) for chip in range(3)] == saved
        assert machine.vcpus[1].lapic()[0x80] == 0x40
        assert machine.vcpus[1].mp_state() == 1
        assert machine.core.vm().pit()[:12] == pit[:12]
        assert int.from_bytes(machine.core.vm().clock()[:8], "little") > year_ns
