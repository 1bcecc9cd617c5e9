"""Which places of memory slots no access can reach: found in this process's own mappings."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vmthaw._fault_candidates import candidates_text, fault_candidates

PAGE = 4096
GUEST = 0x10_0000


@dataclass(frozen=True)
class Slot:
    """As a `MemorySlot` of the core."""

    slot: int
    guest_address: int
    host_address: int
    size: int
    read_only: bool = False
    owner: object = None


def address_of(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def slot_of(mapping: mmap.mmap, *, read_only: bool = False) -> Slot:
    return Slot(3, GUEST, address_of(mapping), len(mapping), read_only, mapping)


@pytest.fixture
def short_file(tmp_path: Path) -> Path:
    path = tmp_path / "memory.bin"
    path.write_bytes(bytes(4 * PAGE))
    return path


def test_whole_memory_has_no_candidates() -> None:
    assert fault_candidates([slot_of(mmap.mmap(-1, 4 * PAGE))]) == []


def test_text_without_candidates_says_so() -> None:
    assert "no address" in candidates_text([slot_of(mmap.mmap(-1, 4 * PAGE))])


def test_pages_past_the_end_of_a_file_are_named_by_guest_address(short_file: Path) -> None:
    with short_file.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 4 * PAGE)
    with short_file.open("r+b") as file:
        file.truncate(PAGE + 1)
    slot = slot_of(mapping)
    (found,) = fault_candidates([slot])
    assert (
        found == f"slot 3, guest {GUEST + 2 * PAGE:#x} to {GUEST + 4 * PAGE:#x}: past the end of the file {short_file}"
    )


def test_the_end_of_a_replaced_file_is_not_taken_from_the_new_one(short_file: Path) -> None:
    with short_file.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 4 * PAGE)
    short_file.unlink()
    short_file.write_bytes(b"")
    assert fault_candidates([slot_of(mapping)]) == []


def test_a_read_only_mapping_is_a_candidate_unless_its_slot_is_read_only(short_file: Path) -> None:
    with short_file.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 4 * PAGE, access=mmap.ACCESS_READ)
    (found,) = fault_candidates([slot_of(mapping)])
    assert found.endswith("mapped read-only, and the slot is not")
    assert fault_candidates([slot_of(mapping, read_only=True)]) == []


def test_memory_without_any_access_is_a_candidate() -> None:
    (found,) = fault_candidates([slot_of(mmap.mmap(-1, 4 * PAGE, prot=0))])
    assert found == f"slot 3, guest {GUEST:#x} to {GUEST + 4 * PAGE:#x}: mapped without any access"


def test_holes_at_the_beginning_in_the_middle_and_at_the_end_are_candidates() -> None:
    mapping = mmap.mmap(-1, 8 * PAGE)
    host = address_of(mapping)
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (0, 3, 7):
        assert libc.munmap(ctypes.c_void_p(host + page * PAGE), ctypes.c_size_t(PAGE)) == 0
    try:
        found = fault_candidates([Slot(3, GUEST, host, 8 * PAGE)])
    finally:  # Python unmaps all of it at the end: nobody else may live there then
        for page in (0, 3, 7):
            back = libc.mmap(ctypes.c_void_p(host + page * PAGE), ctypes.c_size_t(PAGE), 3, 0x32, -1, 0)
            assert back != -1
    assert [text.split(": ")[0] for text in found] == [
        f"slot 3, guest {GUEST + page * PAGE:#x} to {GUEST + (page + 1) * PAGE:#x}" for page in (0, 3, 7)
    ]
    assert all(text.endswith("nothing is mapped there") for text in found)


def test_a_text_names_eight_places_and_counts_the_rest() -> None:
    mappings = [mmap.mmap(-1, PAGE, prot=0) for _ in range(10)]
    text = candidates_text([slot_of(mapping) for mapping in mappings])
    assert text.count("without any access") == 8
    assert text.endswith("; and 2 more")
