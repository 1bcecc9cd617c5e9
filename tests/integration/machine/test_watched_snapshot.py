"""Snapshots of machines with watchpoints: read-only pages, and vCPUs frozen to change a slot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.kvm.watching import DATA, HLT, LONG, store32
from tests.integration.machine.test_diff_snapshot import RINGS, changed_pages, memory_of
from vmthaw import watchpoints
from vmthaw.machine import Machine
from vmthaw.run_loop import RunEndKind

pytestmark = pytest.mark.usefixtures("kvm_available")

MEMORY = 2 << 20
PAGES = MEMORY // 4096
CODE = 0x1000
FAR = DATA + 0x3000


@pytest.fixture(autouse=True)
def read_only_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchpoints are served as where debug registers do not fire."""
    ability = watchpoints.probe_watchpoints()
    if not ability["read_only_page"]:
        pytest.skip("this KVM has no read-only memory slots")
    monkeypatch.setattr(watchpoints, "_ability", lambda: {**ability, "data_slots": 0})


@pytest.fixture(params=RINGS)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of 2 MiB that begins at CODE, in real mode."""
    try:
        made = Machine(MEMORY, payload=False, dirty_ring=request.param)
    except OSError as error:
        pytest.skip(f"this kernel has no dirty ring: {error}")
    with made:
        (vcpu,) = made.vcpus
        vcpu.set_sregs({f"{segment}.{part}": 0 for segment in ("cs", "ds") for part in ("selector", "base")})
        vcpu.set_regs({"rip": CODE, "rflags": 2})
        yield made


def halt(machine: Machine) -> None:
    assert machine.run(timeout=LONG).kind is RunEndKind.halted


def assert_is_saved(machine: Machine, folder: Path) -> None:
    with Machine.restore(folder, lazy=False, check_memory=True) as restored:
        assert memory_of(restored) == memory_of(machine)


def test_a_store_that_the_host_applied_is_in_the_next_diff(machine: Machine, tmp_path: Path) -> None:
    machine.write(CODE, store32(DATA, 7) + HLT + store32(DATA, 8) + store32(FAR, 9) + HLT)
    machine.watchpoints.set(1, DATA)
    machine.snapshot(tmp_path / "base")
    halt(machine)
    (event,) = machine.watchpoints.take_events()
    assert event.backend is watchpoints.WatchBackend.read_only_page
    machine.snapshot(tmp_path / "first", diff=True)
    pages = changed_pages(tmp_path / "first")
    assert DATA // 4096 in pages
    assert pages <= {DATA // 4096, CODE // 4096} or machine.dirty_tracking == "ring"  # see the README
    assert_is_saved(machine, tmp_path / "first")
    halt(machine)
    machine.snapshot(tmp_path / "second", diff=True)
    assert changed_pages(tmp_path / "second") >= {DATA // 4096, FAR // 4096}
    assert_is_saved(machine, tmp_path / "second")


def test_watching_a_page_of_a_tracked_machine_loses_no_write(machine: Machine, tmp_path: Path) -> None:
    machine.write(CODE, b"".join(store32(DATA, value) + store32(FAR, value) + HLT for value in range(1, 7)))
    machine.snapshot(tmp_path / "0")
    steps: list[Callable[[], object]] = [
        lambda: machine.watchpoints.set(1, DATA),
        lambda: machine.watchpoints.set(2, FAR),
        lambda: machine.watchpoints.disarm(1),
        lambda: machine.watchpoints.set(2, FAR + 0x1000),
        lambda: machine.watchpoints.disarm(2),
        lambda: None,
    ]
    for number, step in enumerate(steps, 1):
        # What was written before the slots changed, and after.
        halt(machine)
        step()
        machine.snapshot(tmp_path / str(number), diff=True)
        assert_is_saved(machine, tmp_path / str(number))
    assert len(machine.watchpoints.take_events()) == 4
    assert not any(slot.read_only for slot in machine.core.vm().memory_slots())
    assert all(slot.log_dirty_pages for slot in machine.core.vm().memory_slots())
    last = changed_pages(tmp_path / str(len(steps)))
    assert len(last) < PAGES or machine.dirty_tracking == "ring"


def test_a_page_that_was_watched_before_the_first_snapshot_is_tracked_after(machine: Machine, tmp_path: Path) -> None:
    machine.write(CODE, b"".join(store32(DATA, value) + HLT for value in (1, 2, 3)))
    machine.watchpoints.set(1, DATA)
    machine.snapshot(tmp_path / "base")
    halt(machine)
    machine.watchpoints.disarm(1)
    machine.snapshot(tmp_path / "first", diff=True)
    assert_is_saved(machine, tmp_path / "first")
    halt(machine)
    machine.snapshot(tmp_path / "second", diff=True)
    assert DATA // 4096 in changed_pages(tmp_path / "second")
    assert_is_saved(machine, tmp_path / "second")


def test_a_machine_stays_frozen_while_it_is_saved_though_watchpoints_change(machine: Machine, tmp_path: Path) -> None:
    # loop: inc ax; mov ax, DATA; mov ax, FAR; jmp loop
    code = b"\x40\xa3" + DATA.to_bytes(2, "little") + b"\xa3" + FAR.to_bytes(2, "little") + b"\xeb\xf7"
    machine.write(CODE, code)
    watched = machine.watchpoints
    machine.start()
    done = threading.Event()
    failures: list[BaseException] = []

    def change() -> None:
        try:
            while not done.is_set():
                watched.set(1, DATA + 0x1000, physical=DATA + 0x1000, timeout=LONG)
                watched.disarm(1, timeout=LONG)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for number in range(30):
            folder = tmp_path / str(number)
            machine.snapshot(folder, diff=number > 0, timeout=LONG)
            with Machine.restore(folder, lazy=False, check_memory=True) as restored:
                registers = restored.registers()
                counts = [int.from_bytes(restored.read(place, 2), "little") for place in (DATA, FAR)]
                behind = [(registers["rax"] - count) & 0xFFFF for count in counts]
                assert behind == {0: [0, 0], 1: [1, 1], 4: [0, 1], 7: [0, 0]}[registers["rip"] - CODE], number
    finally:
        done.set()
        changer.join()
    machine.stop()
    assert failures == []
