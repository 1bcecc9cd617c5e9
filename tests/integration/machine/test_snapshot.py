"""Saving a guest, and restoring it in every way there is."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.integration.machine.conftest import MEMORY, SEED
from tests.support.eventually import eventually
from vmthaw import FileSource, PagerConfig, PageServer, PythonSource
from vmthaw.errors import SnapshotError, StateError, VmthawFileExistsError, VmthawTimeoutError, VmthawValueError
from vmthaw.machine import FIRST_WORK_PAGE, Lazy, Machine, MachineState

PAGES = MEMORY // 4096
WAYS: list[Lazy] = [False, "mapping", True]


@pytest.fixture
def copy(snapshot: Path, tmp_path: Path) -> Path:
    """A snapshot of one's own."""
    return Path(shutil.copytree(snapshot, tmp_path / "copy"))


def change(folder: Path, number: int, page: bytes, at: int = 0) -> bytes:
    """Writes into one page of memory.bin and gives what the whole page was."""
    with (folder / "memory.bin").open("r+b") as file:
        file.seek(number * 4096)
        before = file.read(4096)
        file.seek(number * 4096 + at)
        file.write(page)
    return before


def a_page_of_data(snapshot: Path) -> int:
    """The number of a page that is not zeros and was not rewritten."""
    memory = (snapshot / "memory.bin").read_bytes()
    return next(
        number for number in range(FIRST_WORK_PAGE + 50, PAGES) if memory[number * 4096 : number * 4096 + 8] != bytes(8)
    )


def assert_is_as_saved(machine: Machine) -> None:
    machine.check_vectors(31).check()
    report = machine.verify().check()
    assert report.pages == PAGES - FIRST_WORK_PAGE
    assert (machine.workload.seed, len(machine.workload.rewrites)) == (SEED, 1)


@pytest.mark.parametrize("lazy", WAYS)
def test_a_restored_guest_is_as_it_was_saved(lazy: Lazy, snapshot: Path, userfaultfd_available: None) -> None:
    with Machine.restore(snapshot, lazy=lazy) as machine:
        assert_is_as_saved(machine)


def test_a_guest_served_through_a_socket_never_opens_its_memory_file(
    copy: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    elsewhere = copy.parent / "elsewhere"
    (copy / "memory.bin").rename(elsewhere)
    with (
        PageServer(tmp_socket, FileSource(elsewhere)) as server,
        Machine.restore(copy, lazy=tmp_socket) as machine,
    ):
        assert_is_as_saved(machine)
        machine.rewrite(8, share=0.3)
        machine.verify().check()
        assert server.stats.faults > 0
        assert server.stats.installed > 1000
        assert server.sessions[0].missing_pages() <= FIRST_WORK_PAGE  # the guest has seen all the rest


def test_restored_guests_go_on_alone(snapshot: Path, userfaultfd_available: None) -> None:
    with Machine.restore(snapshot, lazy=True) as one, Machine.restore(snapshot, lazy="mapping") as other:
        one.rewrite(77, share=0.5)
        other.rewrite(78, share=0.5)
        one.verify().check()
        other.verify().check()
        assert one.workload != other.workload
    with Machine.restore(snapshot, lazy=False) as again:
        assert_is_as_saved(again)


def test_the_memory_file_is_laid_out_as_memory_and_zero_pages_are_holes(snapshot: Path, tmp_path: Path) -> None:
    file = tmp_path / "s" / "memory.bin"  # not the one that others map: reading a mapped hole of a tmpfs fills it
    with Machine.restore(snapshot, lazy=False) as machine:
        machine.snapshot(file.parent)
        assert machine.read(0, MEMORY) == file.read_bytes()  # the size too
    state = MachineState.load(str(file.parent))
    assert state.memory_size == MEMORY
    assert (state.busy, state.vcpu_count) == (False, 1)
    zero_pages = PAGES - state.memory_data_pages
    assert zero_pages > 500
    assert file.stat().st_blocks * 512 <= MEMORY - zero_pages * 4096 + (64 << 10)


def test_memory_on_both_sides_of_the_gap_is_saved_and_served(
    tmp_path: Path, kvm_available: None, userfaultfd_available: None
) -> None:
    edge = (3 << 30) // 4096 - 4
    with Machine((3 << 30) + (4 << 20)) as machine:
        machine.fill(SEED, first_page=edge)
        machine.snapshot(tmp_path / "s")
    with Machine.restore(tmp_path / "s", lazy=True) as machine:
        machine.verify(first_page=edge).check()
        assert machine.read(4 << 30, 4096) == machine.workload.page(edge + 4)


@pytest.mark.parametrize("lazy", WAYS)
def test_a_wrong_byte_a_zero_page_and_a_neighbours_page_are_found_by_the_guest(
    lazy: Lazy, copy: Path, userfaultfd_available: None
) -> None:
    number = a_page_of_data(copy)
    good = (copy / "memory.bin").read_bytes()
    neighbour = good[(number + 7) * 4096 : (number + 8) * 4096]
    right = good[number * 4096 : (number + 1) * 4096]
    assert neighbour != right
    mutants = {
        "wrong byte": bytes([*right[:4095], right[4095] ^ 1]),
        "zero page": bytes(4096),
        "neighbour": neighbour,
    }
    for name, page in mutants.items():
        change(copy, number, page)
        with Machine.restore(copy, lazy=lazy) as machine:
            report = machine.verify()
        assert not report.ok, name
        assert report.wrong_page == number, name
        assert report.mismatches == (1 if name == "wrong byte" else 512), name
        change(copy, number, right)
    with Machine.restore(copy, lazy=lazy) as machine:
        machine.verify().check()


def test_a_stale_page_is_found_by_the_guest(copy: Path, tmp_path: Path) -> None:
    with Machine.restore(copy, lazy=False) as machine:
        machine.rewrite(99, share=0.2)
        machine.snapshot(tmp_path / "later")
        number = next(n for n in range(FIRST_WORK_PAGE, PAGES) if machine.workload.generation(n) == 2)
        older = (copy / "memory.bin").read_bytes()[number * 4096 : (number + 1) * 4096]
        assert older != machine.workload.page(number)
    with Machine.restore(tmp_path / "later", lazy="mapping") as machine:
        machine.verify().check()
    change(tmp_path / "later", number, older)
    with Machine.restore(tmp_path / "later", lazy="mapping") as machine:
        assert machine.verify().wrong_page == number


def test_a_page_server_that_serves_one_wrong_byte_is_found_out(
    snapshot: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    memory = bytearray((snapshot / "memory.bin").read_bytes())
    number = a_page_of_data(snapshot)
    memory[number * 4096 + 1234] ^= 0x80

    def read(offset: int, size: int) -> bytes:
        return bytes(memory[offset : offset + size])

    with (
        PageServer(tmp_socket, PythonSource(read, len(memory))),
        Machine.restore(snapshot, lazy=tmp_socket) as machine,
    ):
        report = machine.verify()
        assert (report.mismatches, report.wrong_page) == (1, number)
        assert report.wrong_address == number * 4096 + 1234 // 8 * 8


def test_saving_a_lazily_restored_guest_fetches_what_is_missing(
    snapshot: Path, tmp_path: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    with (
        PageServer(tmp_socket, FileSource(snapshot / "memory.bin"), config=PagerConfig()) as server,
        Machine.restore(snapshot, lazy=tmp_socket) as machine,
    ):
        machine.rewrite(12, share=0.1, first_page=FIRST_WORK_PAGE, pages=100)
        machine.snapshot(tmp_path / "second")
        machine.verify().check()
        assert server.sessions[0].missing_pages() == 0
        saved = machine.read(FIRST_WORK_PAGE * 4096, MEMORY - FIRST_WORK_PAGE * 4096)
    assert (tmp_path / "second" / "memory.bin").read_bytes()[FIRST_WORK_PAGE * 4096 :] == saved
    with Machine.restore(tmp_path / "second", lazy=False, check_memory=True) as machine:
        machine.verify().check()
        machine.check_vectors(31).check()


def test_a_guest_saved_in_the_middle_of_a_command_finishes_it_when_restored(
    tmp_path: Path, kvm_available: None
) -> None:
    with Machine(MEMORY) as machine:
        machine.fill(SEED)
        machine.load_vectors(3)
        with pytest.raises(VmthawTimeoutError):
            machine.spin(1 << 28, timeout=0.02)
        machine.snapshot(tmp_path / "s")
        assert machine.finish().iterations == 1 << 28
    with Machine.restore(tmp_path / "s", lazy="mapping") as machine:
        assert machine.busy
        with pytest.raises(StateError, match="still at its last command"):
            machine.ping()
        assert machine.finish().iterations == 1 << 28
        machine.verify().check()
        machine.check_vectors(3).check()


def test_registers_are_restored(tmp_path: Path, kvm_available: None) -> None:
    lstar = 0xC0000082
    with Machine(MEMORY) as machine:
        machine.ping()
        vcpu = machine.core.vcpu(0)
        vcpu.set_regs({"r13": 0x1122334455667788})
        vcpu.set_sregs({"fs.base": 0x7000, "cr2": 0x123000})
        vcpu.set_msrs({lstar: 0x4000})
        vcpu.drain()
        saved = vcpu.regs(), vcpu.sregs(), vcpu.xsave()
        machine.snapshot(tmp_path / "s")
    with Machine.restore(tmp_path / "s", lazy=False) as machine:
        vcpu = machine.core.vcpu(0)
        assert (vcpu.regs(), vcpu.sregs(), vcpu.xsave()) == saved
        assert vcpu.msrs([lstar]) == {lstar: 0x4000}
        assert vcpu.regs()["r13"] == 0x1122334455667788


def test_a_directory_that_holds_a_snapshot_is_refused(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with Machine.restore(copy, lazy=False) as machine:
        with pytest.raises(VmthawFileExistsError, match="holds one"):
            machine.snapshot(copy)
        machine.verify().check()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert before.keys() == {"memory.bin", "state.bin"}


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path, kvm_available: None) -> None:
    (tmp_path / "s" / "memory.bin").mkdir(parents=True)  # so that the renaming fails
    with Machine(MEMORY) as machine:
        with pytest.raises(OSError, match="renaming"):
            machine.snapshot(tmp_path / "s")
        machine.ping()
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["memory.bin"]


def test_two_that_save_in_one_directory_do_not_mix(tmp_path: Path, kvm_available: None) -> None:
    with Machine(64 << 20) as one, Machine(64 << 20) as other:
        for seed, machine in ((1, one), (2, other)):
            machine.fill(seed)
        outcomes: list[object] = []

        def save(machine: Machine) -> None:
            try:
                outcomes.append(machine.snapshot(tmp_path / "s"))
            except OSError as error:
                outcomes.append(error.errno)

        threads = [threading.Thread(target=save, args=(machine,)) for machine in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(isinstance(outcome, Path) for outcome in outcomes) == 1, outcomes
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["memory.bin", "state.bin"]
    with Machine.restore(tmp_path / "s", lazy=False, check_memory=True) as machine:
        machine.verify().check()


def test_a_flipped_bit_anywhere_in_the_state_is_refused(copy: Path) -> None:
    state = (copy / "state.bin").read_bytes()
    MachineState.decode(state)
    for place in range(len(state)):
        damaged = bytearray(state)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(SnapshotError) as info:
            MachineState.decode(bytes(damaged))
        assert info.value.field, place
    for length in range(0, len(state), 97):
        with pytest.raises(SnapshotError):
            MachineState.decode(state[:length])


def test_another_version_is_refused_by_name_before_anything_else_happens(copy: Path) -> None:
    state = bytearray((copy / "state.bin").read_bytes())
    state[8] = 3
    (copy / "state.bin").write_bytes(state)
    with pytest.raises(SnapshotError, match="version is 3; this vmthaw reads 2") as info:
        Machine.restore(copy)
    assert info.value.field == "version"


@pytest.mark.parametrize("lazy", WAYS)
@pytest.mark.parametrize("size", [MEMORY - 4096, MEMORY + 4096])
def test_a_memory_file_of_another_size_is_refused(
    lazy: Lazy, size: int, copy: Path, userfaultfd_available: None
) -> None:
    os.truncate(copy / "memory.bin", size)
    with pytest.raises(SnapshotError, match=f"has {size} bytes") as info:
        Machine.restore(copy, lazy=lazy)
    assert info.value.field == "memory size"


def test_check_memory_knows_the_memory_file_of_another_snapshot(copy: Path) -> None:
    with Machine.restore(copy, lazy=False, check_memory=True) as machine:
        machine.ping()
    right = change(copy, a_page_of_data(copy), b"\x00\x11", at=2000)
    assert len(right) == 4096
    with pytest.raises(SnapshotError, match="not the memory that was saved") as info:
        Machine.restore(copy, lazy=False, check_memory=True)
    assert info.value.field == "memory fingerprint"
    with pytest.raises(VmthawValueError, match="lazy=False only"):
        Machine.restore(copy, lazy=True, check_memory=True)


def test_what_is_missing_is_named(copy: Path, tmp_path: Path, tmp_socket: Path, userfaultfd_available: None) -> None:
    with pytest.raises(FileNotFoundError, match=r"state\.bin"):
        Machine.restore(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is the page server running"):
        Machine.restore(copy, lazy=tmp_socket)
    (copy / "memory.bin").unlink()
    for lazy in WAYS:
        with pytest.raises(FileNotFoundError, match=r"memory\.bin"):
            Machine.restore(copy, lazy=lazy)


def test_a_page_that_nobody_serves_ends_in_a_time_out_not_in_a_hang(
    snapshot: Path, tmp_path: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    asked = threading.Event()
    release = threading.Event()

    def read(offset: int, size: int) -> bytes:
        asked.set()
        release.wait(20)
        return bytes(size)

    with PageServer(tmp_socket, PythonSource(read, MEMORY)) as server:
        start = time.monotonic()
        with Machine.restore(snapshot, lazy=tmp_socket) as machine:
            with pytest.raises(TimeoutError, match="a page did not come"):
                machine.read(5 << 20, 10, timeout=0.1)
            with pytest.raises(TimeoutError):
                machine.snapshot(tmp_path / "never", timeout=0.1)
            with pytest.raises(StateError, match="another thread runs or saves"):
                machine.ping(timeout=0.1)
            assert time.monotonic() - start < 5.0
            assert asked.wait(5)
            release.set()
            server.stop("drain")
    eventually(lambda: list((tmp_path / "never").iterdir()) == [])
