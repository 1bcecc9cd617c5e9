"""Diff snapshots: what was written since, nothing of it lost, over the right base alone."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.machine.conftest import MEMORY
from vmthaw import PageServer
from vmthaw.errors import SnapshotError, StateError, VmthawFileExistsError, VmthawTimeoutError
from vmthaw.machine import FIRST_WORK_PAGE, Lazy, Machine, MachineState, memory_source

PAGES = MEMORY // 4096
WAYS: list[Lazy] = [False, "mapping", True]
RINGS = [pytest.param(0, id="log"), pytest.param(4096, id="ring")]


def memory_of(machine: Machine) -> bytes:
    return machine.read(0, machine.memory.size)


def changed_pages(folder: Path) -> set[int]:
    bits = MachineState.load(str(folder)).changed_pages
    return {byte * 8 + bit for byte, value in enumerate(bits) for bit in range(8) if value >> bit & 1}


def data_pages(file: Path) -> set[int]:
    """Pages that the file system says are no holes."""
    found: set[int] = set()
    with file.open("rb") as opened:
        end, at = file.stat().st_size, 0
        while at < end:
            try:
                start = os.lseek(opened.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(opened.fileno(), start, os.SEEK_HOLE)
            found.update(range(start // 4096, (at + 4095) // 4096))
    return found


@pytest.fixture(params=RINGS)
def filled(request: pytest.FixtureRequest, tmp_path: Path, kvm_available: None) -> Iterator[Machine]:
    """A filled machine that was saved as ``base``."""
    try:
        made = Machine(MEMORY, dirty_ring=request.param)
    except OSError as error:
        pytest.skip(f"this kernel has no dirty ring: {error}")
    with made:
        made.fill(7, zero_share=0.3)
        made.snapshot(tmp_path / "base")
        yield made


@pytest.mark.parametrize("lazy", WAYS)
def test_a_base_and_its_diff_are_the_machine(
    lazy: Lazy, filled: Machine, tmp_path: Path, userfaultfd_available: None
) -> None:
    filled.rewrite(8, share=0.1)
    filled.load_vectors(5)
    filled.snapshot(tmp_path / "diff", diff=True)
    saved = memory_of(filled)
    with Machine.restore(tmp_path / "diff", lazy=lazy) as machine:
        machine.check_vectors(5).check()
        machine.verify().check()
        assert machine.workload == filled.workload
        filled.check_vectors(5).check()
        filled.verify().check()
        # The mailbox pages and stacks of the payload have been used since.
        assert memory_of(machine)[1 << 20 :] == saved[1 << 20 :]


def test_a_diff_has_the_pages_that_were_written_and_no_others(filled: Machine, tmp_path: Path) -> None:
    before = memory_of(filled)
    filled.rewrite(8, share=0.1)
    filled.snapshot(tmp_path / "diff", diff=True)
    rewritten = {page for page in range(FIRST_WORK_PAGE, PAGES) if filled.workload.generation(page) == 1}
    changed = {page for page in rewritten if filled.workload.page(page) != before[page * 4096 : (page + 1) * 4096]}
    pages = changed_pages(tmp_path / "diff")
    # Zeros over zeros are only read by the guest, which some back ends take for writing.
    assert changed <= {page for page in pages if page >= FIRST_WORK_PAGE} <= rewritten
    assert len(changed) > 100
    assert len(pages - rewritten) < 10  # mailbox, stack, page tables
    assert data_pages(tmp_path / "diff" / "memory.diff") == pages
    assert (tmp_path / "diff" / "memory.diff").stat().st_size == MEMORY
    state = MachineState.load(str(tmp_path / "diff"))
    assert (state.depth, state.memory_data_pages) == (1, len(pages))
    assert state.base_id == MachineState.load(str(tmp_path / "base")).id
    assert os.fsdecode(state.base_path) == "../base"


def test_a_page_that_became_zero_is_zero_and_not_the_page_before(filled: Machine, tmp_path: Path) -> None:
    page = next(n for n in range(FIRST_WORK_PAGE, PAGES) if any(filled.workload.page(n)))
    filled.write(page * 4096, bytes(4096))
    filled.snapshot(tmp_path / "diff", diff=True)
    for lazy in (False, "mapping"):
        with Machine.restore(tmp_path / "diff", lazy=lazy) as machine:
            assert machine.read(page * 4096, 4096) == bytes(4096)
            assert machine.verify().wrong_page == page


def test_what_the_host_writes_is_in_the_diff(filled: Machine, tmp_path: Path) -> None:
    filled.write(300 * 4096 + 4090, b"across two pages")
    filled.memory.write(400 * 4096, b"x")
    filled.memory.mark_written(500 * 4096 + 4095, 2)  # through the host's addresses, say
    filled.snapshot(tmp_path / "diff", diff=True)
    assert changed_pages(tmp_path / "diff") >= {300, 301, 400, 500, 501}
    with Machine.restore(tmp_path / "diff", lazy=False) as machine:
        assert machine.read(300 * 4096 + 4090, 16) == b"across two pages"
    filled.snapshot(tmp_path / "next", diff=True)
    assert changed_pages(tmp_path / "next").isdisjoint({300, 301, 400, 500, 501})


@pytest.mark.parametrize("seed", range(4))
def test_a_full_snapshot_is_its_base_and_any_diffs(
    seed: int, filled: Machine, tmp_path: Path, userfaultfd_available: None
) -> None:
    draw = random.Random(seed)
    for number in range(draw.randint(2, 6)):
        for _ in range(draw.randint(0, 3)):
            first = draw.randrange(FIRST_WORK_PAGE, PAGES - 1)
            pages = draw.randint(1, PAGES - first)
            match draw.randrange(3):
                case 0:
                    filled.rewrite(draw.getrandbits(32), share=draw.random(), first_page=first, pages=pages)
                case 1:
                    size = draw.randint(1, min(20000, (PAGES - first) * 4096))
                    filled.write(first * 4096, draw.choice([bytes(size), draw.randbytes(size)]))
                case _:
                    filled.touch("random", count=20, seed=draw.getrandbits(16), first_page=first, pages=pages)
        filled.snapshot(tmp_path / f"d{number}", diff=True)
    last = tmp_path / f"d{number}"
    filled.snapshot(tmp_path / "full")
    whole = (tmp_path / "full" / "memory.bin").read_bytes()
    with memory_source(last) as source:
        assert source.read(0, MEMORY) == whole
    for lazy in WAYS:
        with Machine.restore(last, lazy=lazy, check_memory=lazy is False) as machine:
            assert memory_of(machine) == whole


def test_a_diff_over_a_restored_machine(tmp_path: Path, snapshot: Path, userfaultfd_available: None) -> None:
    with Machine.restore(snapshot, lazy=True, track_dirty=True) as machine:
        machine.rewrite(9, share=0.05)
        machine.snapshot(tmp_path / "a", diff=True)
        machine.rewrite(10, share=0.05)
        machine.snapshot(tmp_path / "b", diff=True)
        pages = len(changed_pages(tmp_path / "b"))
        assert pages < PAGES // 8
    with Machine.restore(tmp_path / "b", lazy=True, track_dirty=True) as machine:
        machine.verify().check()
        machine.rewrite(11, share=0.05)
        machine.snapshot(tmp_path / "c", diff=True)
    with Machine.restore(tmp_path / "c", lazy="mapping") as machine:
        machine.verify().check()
        assert len(machine.workload.rewrites) == 4
    assert MachineState.load(str(tmp_path / "c")).depth == 3


def test_a_server_in_another_place_serves_a_chain(
    filled: Machine, tmp_path: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    filled.rewrite(12, share=0.2)
    filled.snapshot(tmp_path / "diff", diff=True)
    with (
        PageServer(tmp_socket, memory_source(tmp_path / "diff")) as server,
        Machine.restore(tmp_path / "diff", lazy=tmp_socket) as machine,
    ):
        machine.verify().check()
        assert server.stats.installed > 100


def test_a_lost_dirty_page_is_found_by_the_guest(filled: Machine, tmp_path: Path) -> None:
    """The mutant: a page that was written comes from the base."""
    filled.rewrite(13, share=0.2)
    filled.snapshot(tmp_path / "diff", diff=True)
    page = max(changed_pages(tmp_path / "diff"))
    with memory_source(tmp_path / "base") as base, Machine.restore(tmp_path / "diff", lazy=False) as machine:
        before = base.read(page * 4096, 4096)
        assert machine.read(page * 4096, 4096) != before
        machine.write(page * 4096, before)
        assert machine.verify().wrong_page == page


def test_a_diff_needs_something_to_lie_over(tmp_path: Path, snapshot: Path) -> None:
    with Machine(MEMORY) as machine:
        assert machine.dirty_tracking == "none"
        with pytest.raises(StateError, match="save a full snapshot"):
            machine.snapshot(tmp_path / "a", diff=True)
    with Machine.restore(snapshot, lazy=False) as machine:
        with pytest.raises(StateError, match="track_dirty=True"):
            machine.snapshot(tmp_path / "b", diff=True)
        machine.snapshot(tmp_path / "c")
        machine.snapshot(tmp_path / "d", diff=True)
        assert machine.dirty_tracking in ("log", "manual_log")


def test_another_snapshot_in_the_place_of_the_base_is_refused(filled: Machine, tmp_path: Path) -> None:
    filled.rewrite(14, share=0.1)
    filled.snapshot(tmp_path / "diff", diff=True)
    filled.snapshot(tmp_path / "later")
    shutil.move(tmp_path / "base", tmp_path / "moved")
    with pytest.raises(SnapshotError, match=r"is not at .*base=") as info:
        Machine.restore(tmp_path / "diff", lazy=False)
    assert info.value.field == "base"
    with Machine.restore(tmp_path / "diff", lazy=False, base=tmp_path / "moved") as machine:
        machine.verify().check()
    shutil.move(tmp_path / "later", tmp_path / "base")
    for lazy in WAYS:
        with pytest.raises(SnapshotError, match=r"is not the base of the diff .*: it is snapshot") as info:
            Machine.restore(tmp_path / "diff", lazy=lazy)
        assert info.value.field == "base"
    with pytest.raises(SnapshotError, match="lies over no base"):
        Machine.restore(tmp_path / "base", lazy=False, base=tmp_path / "moved")
    state = tmp_path / "base" / "state.bin"
    state.write_bytes(state.read_bytes()[:100] + b"damage" + state.read_bytes()[106:])
    with pytest.raises(SnapshotError, match=r"base, the base of the diff .*: the state file cannot") as info:
        Machine.restore(tmp_path / "diff", lazy=False)
    assert info.value.field == "guest"


def test_a_stale_memory_file_below_a_diff_is_found(filled: Machine, tmp_path: Path) -> None:
    filled.rewrite(15, share=0.1)
    filled.snapshot(tmp_path / "diff", diff=True)
    with (tmp_path / "base" / "memory.bin").open("r+b") as file:
        file.seek(300 * 4096)
        file.write(b"stale")
    with pytest.raises(SnapshotError, match=r"base/memory\.bin is not the memory") as info:
        Machine.restore(tmp_path / "diff", lazy=False, check_memory=True)
    assert info.value.field == "memory fingerprint"


def test_a_flipped_byte_of_a_diff_is_found(filled: Machine, tmp_path: Path) -> None:
    filled.rewrite(15, share=0.1)
    filled.snapshot(tmp_path / "diff", diff=True)
    page = max(changed_pages(tmp_path / "diff"))
    with (tmp_path / "diff" / "memory.diff").open("r+b") as file:
        file.seek(page * 4096 + 77)
        byte = file.read(1)[0]
        file.seek(page * 4096 + 77)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(SnapshotError, match=r"memory\.diff is not the memory"):
        Machine.restore(tmp_path / "diff", lazy=False, check_memory=True)


@pytest.mark.parametrize("lazy", WAYS)
def test_a_copied_diff_without_its_holes_is_the_same_diff(
    lazy: Lazy, filled: Machine, tmp_path: Path, userfaultfd_available: None
) -> None:
    """Copies have other holes: the state says which pages a diff has."""
    filled.rewrite(16, share=0.2)
    filled.write(1000 * 4096, bytes(4096))
    filled.snapshot(tmp_path / "diff", diff=True)
    file = tmp_path / "diff" / "memory.diff"
    dense = file.read_bytes()
    file.write_bytes(dense)
    expected = memory_source(tmp_path / "diff").read(0, MEMORY)
    assert data_pages(file) == set(range(PAGES))
    with Machine.restore(tmp_path / "diff", lazy=lazy) as machine:
        assert memory_of(machine) == expected
        assert machine.read(1000 * 4096, 4096) == bytes(4096)
        assert machine.verify().wrong_page in (0, 1000)


def test_a_memory_file_that_is_missing_or_short_is_named(filled: Machine, tmp_path: Path) -> None:
    filled.snapshot(tmp_path / "diff", diff=True)
    os.truncate(tmp_path / "diff" / "memory.diff", MEMORY - 4096)
    for lazy in WAYS:
        with pytest.raises(SnapshotError, match=r"memory\.diff has") as info:
            Machine.restore(tmp_path / "diff", lazy=lazy)
        assert info.value.field == "memory size"
    (tmp_path / "diff" / "memory.diff").unlink()
    for lazy in WAYS:
        with pytest.raises(FileNotFoundError, match=r"memory\.diff"):
            Machine.restore(tmp_path / "diff", lazy=lazy)


def test_pages_of_a_diff_that_failed_are_in_the_next(filled: Machine, tmp_path: Path) -> None:
    filled.rewrite(17, share=0.1)
    (tmp_path / "broken" / "memory.diff").mkdir(parents=True)  # so that the renaming fails
    with pytest.raises(OSError, match="renaming"):
        filled.snapshot(tmp_path / "broken", diff=True)
    with pytest.raises(VmthawFileExistsError, match="holds one"):
        filled.snapshot(tmp_path / "base", diff=True)
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["memory.diff"]
    filled.snapshot(tmp_path / "diff", diff=True)
    with Machine.restore(tmp_path / "diff", lazy=False) as machine:
        machine.verify().check()


def test_a_diff_in_the_middle_of_a_command(filled: Machine, tmp_path: Path) -> None:
    with pytest.raises(VmthawTimeoutError):
        filled.spin(1 << 29, timeout=0.02)
    filled.snapshot(tmp_path / "diff", diff=True)
    with Machine.restore(tmp_path / "diff", lazy=False) as machine:
        assert machine.finish().iterations == 1 << 29
        machine.verify().check()


def test_memory_on_both_sides_of_the_gap_is_tracked(tmp_path: Path, kvm_available: None) -> None:
    edge = (3 << 30) // 4096
    with Machine((3 << 30) + (4 << 20)) as machine:
        machine.fill(1, first_page=edge - 4)
        machine.snapshot(tmp_path / "base")
        machine.rewrite(2, share=1.0, first_page=edge - 2, pages=5)
        machine.write(4 << 30, b"above the gap")
        machine.snapshot(tmp_path / "diff", diff=True)
    assert {page for page in changed_pages(tmp_path / "diff") if page >= FIRST_WORK_PAGE} == set(
        range(edge - 2, edge + 3)
    )
    with memory_source(tmp_path / "diff") as source:
        assert source.read(3 << 30, 13) == b"above the gap"


def test_a_memory_slot_that_is_replaced_loses_nothing(filled: Machine, tmp_path: Path) -> None:
    """Somebody lays a read-only page over the memory and takes it away again, as watching a page does."""
    filled.rewrite(18, share=0.1)
    vm = filled.core.vm()
    (slot,) = vm.memory_slots()
    vm.remove_memory_slot(slot.slot)
    vm.set_memory_slot(slot.slot, slot.guest_address, slot.host_address, slot.size)
    filled.snapshot(tmp_path / "diff", diff=True)
    with Machine.restore(tmp_path / "diff", lazy=False) as machine:
        machine.verify().check()
    filled.rewrite(19, share=0.1)
    filled.snapshot(tmp_path / "next", diff=True)
    with Machine.restore(tmp_path / "next", lazy=False) as machine:
        machine.verify().check()


def test_a_ring_smaller_than_what_is_written_loses_nothing(tmp_path: Path, kvm_available: None) -> None:
    size = 32 << 20
    try:
        made = Machine(size, dirty_ring=1024)
    except OSError as error:
        pytest.skip(f"this kernel has no dirty ring: {error}")
    with made as machine:
        machine.snapshot(tmp_path / "base")
        assert machine.dirty_tracking == "ring"
        machine.fill(3)
        machine.snapshot(tmp_path / "diff", diff=True)
        assert len(changed_pages(tmp_path / "diff")) >= size // 4096 - FIRST_WORK_PAGE
    with Machine.restore(tmp_path / "diff", lazy=False) as machine:
        machine.verify().check()
