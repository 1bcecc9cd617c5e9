"""Register snapshots and the page-table walk as Python sees them; no KVM needed."""

from __future__ import annotations

import json
import struct

import pytest

from vmthaw.errors import TranslationError, VmthawValueError
from vmthaw.registers import (
    PagingState,
    RegisterSnapshot,
    aarch64_register_name,
    mapped_ranges,
    read_guest_virtual,
    translate,
)

LONG_MODE = PagingState.x86_64(cr0=0x8000_0001, cr3=0x1000, cr4=0x20, efer=0xD00)


class Tables:
    """Memory with the page tables of one 4 KiB page at 0x400000, whose frame is 0x5000."""

    def __init__(self) -> None:
        self.memory = bytearray(0x6000)
        for at, entry in ((0x1000, 0x2007), (0x2000, 0x3007), (0x3010, 0x4007), (0x4000, 0x5005 | 1 << 63)):
            struct.pack_into("<Q", self.memory, at, entry)
        self.memory[0x5000:0x5005] = b"hello"

    def __call__(self, guest_physical: int, size: int) -> bytes | None:
        if guest_physical + size > len(self.memory):
            return None
        return bytes(self.memory[guest_physical : guest_physical + size])


def test_a_snapshot_has_its_text_form() -> None:
    snapshot = RegisterSnapshot(0x1234, 0x7FFE, 0x1000, user_page_table_root=0xABC, tcr_el1=7)
    assert str(snapshot) == (
        "ip=0x0000000000001234 sp=0x0000000000007ffe ptroot=0x0000000000001000 uptroot=0x0000000000000abc"
    )
    assert "uptroot" not in str(RegisterSnapshot(1, 2, 3))


@pytest.mark.parametrize("optional", [{}, {"user_page_table_root": 0}, {"tcr_el1": 1}, {"user_page_table_root": 5}])
def test_a_snapshot_comes_back_from_json(optional: dict[str, int]) -> None:
    snapshot = RegisterSnapshot(2**64 - 1, 2, 3, **optional)
    found = json.loads(snapshot.to_json())
    assert found == {"instruction_pointer": 2**64 - 1, "stack_pointer": 2, "page_table_root": 3, **optional}
    assert RegisterSnapshot.from_json(snapshot.to_json()) == snapshot
    assert hash(RegisterSnapshot.from_json(snapshot.to_json())) == hash(snapshot)
    assert snapshot != RegisterSnapshot(1, 2, 3)
    assert snapshot != "a snapshot"


def test_json_that_is_wrong_names_the_field() -> None:
    with pytest.raises(VmthawValueError, match="stack_pointer"):
        RegisterSnapshot.from_json('{"instruction_pointer": 1, "page_table_root": 3}')


def test_an_address_is_translated_with_what_the_tables_allow() -> None:
    page = translate(LONG_MODE, Tables(), 0x400003)
    assert (page.guest_physical, page.page_bytes) == (0x5003, 4096)
    assert (page.writable, page.user, page.kernel_executable, page.user_executable) == (False, True, False, False)
    assert not page.accessed
    assert read_guest_virtual(LONG_MODE, Tables(), 0x400001, 4) == b"ello"
    assert mapped_ranges(LONG_MODE, Tables()) == ([(0x400000, 0x5000, 4096)], True)


def test_what_is_not_mapped_says_where_the_walk_ended() -> None:
    with pytest.raises(TranslationError, match="not present") as caught:
        read_guest_virtual(LONG_MODE, Tables(), 0x400FFF, 2)
    error = caught.value
    assert isinstance(error, LookupError)
    assert (error.address, error.reason, error.level, error.entry_address, error.entry) == (
        0x401000, "not present", 1, 0x4008, 0,
    )  # fmt: skip


def test_a_reader_may_fail_or_lie() -> None:
    def fail(guest_physical: int, size: int) -> bytes | None:
        raise KeyError("no such page")

    with pytest.raises(KeyError, match="no such page"):
        translate(LONG_MODE, fail, 0x400000)
    with pytest.raises(VmthawValueError, match="1 bytes of guest memory instead of 8"):
        translate(LONG_MODE, lambda *_: b"x", 0x400000)
    with pytest.raises(TranslationError, match="no memory"):
        translate(LONG_MODE, lambda *_: None, 0x400000)


def test_an_aarch64_capture_gives_its_paging_state() -> None:
    memory = bytearray(0x2000)
    struct.pack_into("<Q", memory, 0x1000 + 8 * 1, 0x4000_0000 | 0x401)  # a block of 1 GiB
    snapshot = RegisterSnapshot(0, 0, page_table_root=0, user_page_table_root=0x1000, tcr_el1=25 | 25 << 16 | 2 << 30)
    state = PagingState.of_aarch64(snapshot)
    page = translate(state, lambda at, size: bytes(memory[at : at + size]), 0x4000_1234)
    assert (page.guest_physical, page.page_bytes) == (0x4000_1234, 1 << 30)
    with pytest.raises(VmthawValueError, match="tcr_el1"):
        PagingState.of_aarch64(RegisterSnapshot(0, 0, 0))


def test_aarch64_registers_have_names() -> None:
    assert aarch64_register_name(0x6030000000100040) == "pc"
    assert aarch64_register_name(0x603000000013C102) == "s3_0_c2_c0_2"
