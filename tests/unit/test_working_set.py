"""`WorkingSet` and its file: from records, with others, to disk and back, and from hostile files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vmthaw import PrewarmList, WorkingSet
from vmthaw.errors import VmthawValueError, WorkingSetFileError

PAGE, HUGE = 4096, 2 << 20
DEMAND, AROUND, PREFETCH, PREWARM, REMOVE = range(5)
INSTALLED, PRESENT, DEFERRED, FAILED = range(4)
DATA, ZERO, REMOVED = range(3)
FIELDS = [
    ("t_fault_ns", "<u8"), ("guest_address", "<u8"), ("session", "<u4"), ("pages", "<u4"), ("page_size_log2", "u1"),
    ("kind", "u1"), ("page_class", "u1"), ("outcome", "u1"),
]  # fmt: skip


def records(*rows: dict[str, int]) -> NDArray[Any]:
    """Fault records, a nanosecond apart where no time is said."""
    found = np.zeros(len(rows), dtype=FIELDS)
    for number, row in enumerate(rows):
        for name, value in ({"t_fault_ns": number, "pages": 1, "page_size_log2": 12, "session": 1} | row).items():
            found[number][name] = value
    return found


def at(page: int, **more: int) -> dict[str, int]:
    return {"guest_address": page * PAGE, **more}


def numbers(working_set: WorkingSet) -> list[int]:
    return [int(page) // working_set.page_size for page in working_set.pages]


def test_pages_are_aligned_and_stand_once_in_the_order_of_their_first_touch() -> None:
    working_set = WorkingSet([9 * PAGE + 5, 2 * PAGE, 9 * PAGE, 3 * PAGE])
    assert numbers(working_set) == [9, 2, 3]
    assert (len(working_set), working_set.nbytes) == (3, 3 * PAGE)
    assert 9 * PAGE + 77 in working_set
    assert 4 * PAGE not in working_set
    assert "x" not in working_set
    assert not working_set.pages.flags.writeable


def test_runs_are_by_address_and_joined() -> None:
    runs = WorkingSet([9 * PAGE, 2 * PAGE, 10 * PAGE, 4 * PAGE, 3 * PAGE]).runs()
    assert runs.tolist() == [[2 * PAGE, 3 * PAGE], [9 * PAGE, 2 * PAGE]]
    assert runs.dtype == np.uint64
    assert WorkingSet([]).runs().shape == (0, 2)


@pytest.mark.parametrize("page_size", [0, 2048, 6000, 2 << 30])
def test_wrong_page_sizes_are_refused(page_size: int) -> None:
    with pytest.raises(VmthawValueError, match="page_size"):
        WorkingSet([0], page_size)


@pytest.mark.parametrize("pages", [[-1], [1 << 64], ["x"], np.zeros((2, 2), np.uint64), np.array([-1]), np.zeros(2)])
def test_what_are_no_addresses_is_refused(pages: Any) -> None:
    with pytest.raises(VmthawValueError):
        WorkingSet(pages)


def test_from_trace_keeps_what_faults_asked_for_in_their_order() -> None:
    trace = records(
        at(7, t_fault_ns=30), at(3, t_fault_ns=10), at(8, t_fault_ns=31, kind=AROUND, pages=4), at(3, t_fault_ns=40),
        at(20, t_fault_ns=20, pages=0, outcome=PRESENT, page_class=REMOVED), at(30, kind=PREFETCH, pages=2),
        at(31, kind=PREWARM), at(40, outcome=FAILED), at(41, page_class=REMOVED),
        at(42, page_class=ZERO, t_fault_ns=50),
    )  # fmt: skip
    assert numbers(WorkingSet.from_trace(trace)) == [3, 20, 7, 42]
    assert WorkingSet.from_trace(SimpleNamespace(records=trace)) == WorkingSet.from_trace(trace)
    more = WorkingSet.from_trace(trace, include=("demand", "fault_around", "prefetch", "prewarm"))
    assert sorted(numbers(more)) == [3, 7, 8, 9, 10, 11, 20, 30, 31, 42]


def test_from_trace_picks_one_session_of_several() -> None:
    trace = records(at(1, session=4), at(2, session=5), at(3, session=4))
    assert numbers(WorkingSet.from_trace(trace, session=4)) == [1, 3]


def test_from_trace_counts_mixed_pages_in_the_smallest() -> None:
    trace = records({"guest_address": HUGE, "page_size_log2": 21}, at(3))
    working_set = WorkingSet.from_trace(trace)
    assert numbers(working_set) == [*range(512, 1024), 3]
    huge = WorkingSet.from_trace(trace[:1])
    assert (huge.page_size, huge.pages.tolist()) == (HUGE, [HUGE])


def test_from_trace_of_nothing_is_empty_and_of_other_arrays_an_error() -> None:
    assert len(WorkingSet.from_trace(records())) == 0
    with pytest.raises(VmthawValueError, match="no fault records"):
        WorkingSet.from_trace(np.zeros(3))
    with pytest.raises(VmthawValueError, match="include holds"):
        WorkingSet.from_trace(records(), include=("remove",))


def test_records_that_claim_endless_pages_are_refused_before_memory_is_asked_for() -> None:
    with pytest.raises(VmthawValueError, match="at most"):
        WorkingSet.from_trace(records(*[at(0, kind=AROUND, pages=2**32 - 1)] * 4), include=("fault_around",))
    with pytest.raises(VmthawValueError, match="page sizes"):
        WorkingSet.from_trace(records(at(0, page_size_log2=63)))


def test_prewarm_list_from_trace_holds_the_first_pages() -> None:
    trace = records(at(7, t_fault_ns=9), at(3, t_fault_ns=1), at(5, t_fault_ns=2))
    assert PrewarmList.from_trace(trace).pages == [3 * PAGE, 5 * PAGE, 7 * PAGE]
    assert PrewarmList.from_trace(trace, limit=2).pages == [3 * PAGE, 5 * PAGE]
    with pytest.raises(VmthawValueError, match="limit"):
        PrewarmList.from_trace(trace, limit=-1)


def test_intersection_and_union_keep_the_first_ones_order() -> None:
    one, two = WorkingSet([5 * PAGE, 1 * PAGE, 9 * PAGE]), WorkingSet([9 * PAGE, 5 * PAGE, 2 * PAGE])
    three = WorkingSet([5 * PAGE])
    assert numbers(one & two) == [5, 9]
    assert numbers(one.intersection(two, three)) == [5]
    assert numbers(one | two) == [5, 1, 9, 2]
    assert one.intersection() == one == one.union()


def test_sets_of_different_page_sizes_meet_in_the_smaller() -> None:
    huge, small = WorkingSet([HUGE], HUGE), WorkingSet([HUGE + 3 * PAGE, 7 * PAGE])
    assert numbers(huge & small) == [515]
    assert len(huge | small) == 513
    assert small.with_page_size(HUGE).pages.tolist() == [HUGE, 0]


def test_a_saved_set_comes_back_the_same(tmp_path: Path) -> None:
    for working_set in (WorkingSet([9 * PAGE, 1 << 40, 0]), WorkingSet([]), WorkingSet([HUGE * 3, 0], HUGE)):
        working_set.save(tmp_path / "ws")
        assert WorkingSet.load(tmp_path / "ws") == working_set
    assert [path.name for path in tmp_path.iterdir()] == ["ws"]


def test_every_changed_or_missing_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ws"
    WorkingSet([9 * PAGE, 3 * PAGE, 77 * PAGE]).save(path)
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        with pytest.raises(WorkingSetFileError):
            WorkingSet.load(path)
        path.write_bytes(good[:position])
        with pytest.raises(WorkingSetFileError):
            WorkingSet.load(path)
    path.write_bytes(good + b"x")
    with pytest.raises(WorkingSetFileError, match="payload"):
        WorkingSet.load(path)


def forged(payload: bytes, *, count: int, log2: int = 12, version: int = 1, size: int | None = None) -> bytes:
    size = len(payload) if size is None else size
    head = struct.Struct("<8sHHIQQ")
    checksum = zlib.crc32(payload, zlib.crc32(head.pack(b"VMTHAWWS", version, log2, 0, count, size)))
    return head.pack(b"VMTHAWWS", version, log2, checksum, count, size) + payload


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "header"),
        (forged(zlib.compress(bytes(8)), count=1, version=2), "version 2"),
        (forged(zlib.compress(bytes(8)), count=1, log2=60), "page size"),
        (forged(zlib.compress(bytes(8)), count=1 << 40), "pages"),
        (forged(zlib.compress(bytes(8)), count=1, size=1 << 60), "too long"),
        (forged(b"no zlib", count=1), "unpacked"),
        (forged(zlib.compress(bytes(16)), count=1), "does not hold 1"),
        (forged(zlib.compress(bytes(1 << 26)), count=8192), "does not hold 8192"),
        (forged(zlib.compress(bytes(16)), count=2), "twice"),
        (forged(zlib.compress(b"\xff" * 8), count=1), "too large"),
    ],
)
def test_hostile_files_are_refused_with_what_is_wrong(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "ws"
    path.write_bytes(content)
    with pytest.raises(WorkingSetFileError, match=what):
        WorkingSet.load(path)


def test_a_notebook_sees_what_it_is() -> None:
    shown = WorkingSet([2 * PAGE, 3 * PAGE, 9 * PAGE])._repr_html_()
    assert "3 of 4,096 bytes" in shown
    assert "2, on average 1.5 pages" in shown
    assert "0x2000 and 0x9fff" in shown
    assert "0.0 MiB" in WorkingSet([])._repr_html_()
