"""The decoder of exits: pure, for either architecture on any host, and never led astray by what the bytes say."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.unit.vcpu.made import (
    ARM,
    FAIL_ENTRY,
    HLT,
    INTERNAL_ERROR,
    IO,
    MAPPING,
    MEMORY_FAULT,
    MMIO,
    SHUTDOWN,
    SYSTEM_EVENT,
    X86,
    run_bytes,
)
from vmthaw.vcpu import Exit, GuestArch, decode_exit, exit_reason_name

DEBUG = 4

# By number, from include/uapi/linux/kvm.h of Linux 6.18.
NAMES = [
    "UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "IRQ_WINDOW_OPEN", "SHUTDOWN", "FAIL_ENTRY",
    "INTR", "SET_TPR", "TPR_ACCESS", "S390_SIEIC", "S390_RESET", "DCR", "NMI", "INTERNAL_ERROR", "OSI", "PAPR_HCALL",
    "S390_UCONTROL", "WATCHDOG", "S390_TSCH", "EPR", "SYSTEM_EVENT", "S390_STSI", "IOAPIC_EOI", "HYPERV", "ARM_NISV",
    "X86_RDMSR", "X86_WRMSR", "DIRTY_RING_FULL", "AP_RESET_HOLD", "X86_BUS_LOCK", "XEN", "RISCV_SBI", "RISCV_CSR",
    "NOTIFY", "LOONGARCH_IOCSR", "MEMORY_FAULT", "TDX", "ARM_SEA", "ARM_LDST64B", "SNP_REQ_CERTS",
]  # fmt: skip


def decode(reason: int, payload: bytes = b"", *, arch: GuestArch = X86, at: dict[int, bytes] | None = None) -> Exit:
    return decode_exit(arch, 0, 0, run_bytes(reason, payload, at=at))


def test_all_reasons_up_to_43_have_their_name_and_none_beyond() -> None:
    assert [exit_reason_name(number) for number in range(len(NAMES))] == NAMES
    assert len(NAMES) == 44
    assert exit_reason_name(44) == ""
    assert [decode(number).name for number in range(len(NAMES))] == NAMES


def test_a_port_write_carries_port_count_and_its_bytes() -> None:
    found = decode(IO, struct.pack("<BBHIQ", 1, 2, 0x3F8, 3, 4096), at={4096: b"abcdef"})
    assert found.fields == {
        "is_write": True, "port": 0x3F8, "size_bytes": 2, "count": 3, "data_offset": 4096, "data": b"abcdef",
    }  # fmt: skip
    assert repr(found) == "<Exit IO out port 0x3f8, 3 x 2 bytes>"


def test_a_port_read_is_no_write() -> None:
    found = decode(IO, struct.pack("<BBHIQ", 0, 4, 0x60, 1, 8192))
    assert not found.fields["is_write"]
    assert (found.fields["size_bytes"], found.fields["data"]) == (4, bytes(4))


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ((2, 1, 0, 1, 4096), "direction"),
        ((0, 0, 0, 1, 4096), "io.size"),
        ((0, 3, 0, 1, 4096), "io.size"),
        ((0, 8, 0, 1, 4096), "io.size"),
        ((0, 1, 0, 0, 4096), "io.count"),
        ((0, 1, 0, 1, MAPPING), "leave the mapping"),
        ((0, 4, 0, 1, MAPPING - 3), "leave the mapping"),
        ((0, 1, 0, MAPPING - 4096 + 1, 4096), "leave the mapping"),
        ((0, 4, 0, 0xFFFFFFFF, 4096), "leave the mapping"),
        ((0, 1, 0, 1, 0xFFFFFFFFFFFFFFFF), "leave the mapping"),
    ],
)
def test_a_port_access_that_leads_outside_is_named_and_not_followed(
    payload: tuple[int, int, int, int, int], problem: str
) -> None:
    found = decode(IO, packed := struct.pack("<BBHIQ", *payload))
    assert problem in found.fields["problem"]
    assert found.fields["bytes"][:16] == packed
    assert "malformed" in repr(found)


def test_a_port_access_may_end_where_the_mapping_ends() -> None:
    assert decode(IO, struct.pack("<BBHIQ", 1, 4, 0, 2, MAPPING - 8)).fields["data"] == bytes(8)


@pytest.mark.parametrize("arch", [X86, ARM])
def test_mmio_is_the_same_on_both_architectures(arch: GuestArch) -> None:
    write = decode(MMIO, struct.pack("<Q8sIB", 0xC0000010, b"12345678", 4, 1), arch=arch)
    assert write.fields == {"is_write": True, "guest_address": 0xC0000010, "size_bytes": 4, "data": b"1234"}
    read = decode(MMIO, struct.pack("<Q8sIB", 0x9000000, bytes(8), 8, 0), arch=arch)
    assert not read.fields["is_write"]
    assert read.fields["size_bytes"] == 8


@pytest.mark.parametrize("length", [9, 255, 0xFFFFFFFF])
def test_an_impossible_length_of_mmio_is_malformed(length: int) -> None:
    found = decode(MMIO, struct.pack("<Q8sIB", 0x1000, bytes(8), length, 0))
    assert found.fields["problem"] == "mmio.len is more than 8"


def test_an_mmio_access_of_no_bytes_is_empty() -> None:
    found = decode(MMIO, struct.pack("<Q8sIB", 0x1000, b"old data", 0, 1))
    assert found.fields == {"is_write": True, "guest_address": 0x1000, "size_bytes": 0, "data": b""}


def test_mmio_is_a_read_or_a_write() -> None:
    assert "is_write" in decode(MMIO, struct.pack("<Q8sIB", 0x1000, bytes(8), 1, 2)).fields["problem"]


def test_halt_and_shutdown_carry_nothing() -> None:
    assert (decode(HLT).name, decode(HLT).fields) == ("HLT", {})
    assert (decode(SHUTDOWN).name, decode(SHUTDOWN).fields) == ("SHUTDOWN", {})


def test_a_failed_entry_keeps_reason_and_processor() -> None:
    found = decode(FAIL_ENTRY, struct.pack("<QI", 0x80000021, 3))
    assert found.fields == {"hardware_reason": 0x80000021, "cpu": 3}


def test_an_internal_error_keeps_sub_error_words_and_instruction() -> None:
    # suberror 1 (emulation), ndata 3: flags (bit 0: instruction bytes follow), u8 size, 15 bytes.
    payload = struct.pack("<IIQB15s", 1, 3, 1, 4, bytes.fromhex("0f0b90f4") + bytes(11))
    found = decode(INTERNAL_ERROR, payload)
    assert found.fields["suberror"] == 1
    assert len(found.fields["data"]) == 3
    assert found.fields["instruction"] == bytes.fromhex("0f0b90f4")
    assert "instruction 0f 0b 90 f4" in repr(found)


def test_an_internal_error_without_the_flag_or_of_another_kind_has_no_instruction() -> None:
    for suberror, ndata, flags in ((1, 3, 0), (1, 2, 1), (3, 3, 1)):
        payload = struct.pack("<IIQB15s", suberror, ndata, flags, 4, b"x" * 15)
        assert decode(INTERNAL_ERROR, payload).fields["instruction"] == b""


def test_an_instruction_has_at_most_15_bytes() -> None:
    payload = struct.pack("<IIQB15s", 1, 3, 1, 255, b"y" * 15)
    assert decode(INTERNAL_ERROR, payload).fields["instruction"] == b"y" * 15


@pytest.mark.parametrize("reason", [INTERNAL_ERROR, SYSTEM_EVENT])
def test_more_words_than_there_are_is_malformed(reason: int) -> None:
    words = struct.pack("<II16Q", 2, 16, *range(16))
    assert decode(reason, words).fields["data"] == list(range(16))
    assert "ndata is more than 16" in decode(reason, struct.pack("<II", 2, 17)).fields["problem"]


@pytest.mark.parametrize("arch", [X86, ARM])
def test_system_events_keep_type_and_data(arch: GuestArch) -> None:
    found = decode(SYSTEM_EVENT, struct.pack("<IIQ", 2, 1, 1), arch=arch)
    assert found.fields == {"type": 2, "data": [1]}


def test_debug_exits_differ_between_architectures() -> None:
    x86 = decode(DEBUG, struct.pack("<IIQQQ", 1, 0, 0x1234, 0xFFFF0FF2, 0xD0703))
    assert (x86.fields["exception"], x86.fields["instruction_pointer"]) == (1, 0x1234)
    assert (x86.fields["dr6"], x86.fields["dr7"]) == (0xFFFF0FF2, 0xD0703)
    arm = decode(DEBUG, struct.pack("<IIQ", 0xD2000022, 1, 0xFFFF000012345678), arch=ARM)
    assert (arm.fields["syndrome"], arm.fields["fault_address"]) == (0x1D2000022, 0xFFFF000012345678)
    assert arm.fields["instruction_pointer"] == 0


def test_exceptions_and_hypercalls_are_decoded() -> None:
    assert decode(1, struct.pack("<II", 14, 2)).fields == {"exception": 14, "error_code": 2}
    call = decode(3, struct.pack("<Q6QQQ", 12, *range(6), 77, 3), arch=ARM)
    assert call.fields == {"number": 12, "arguments": list(range(6)), "result": 77, "flags": 3}


@pytest.mark.parametrize(("number", "is_write"), [(29, False), (30, True)])
def test_model_specific_registers_have_index_value_and_reason(number: int, is_write: bool) -> None:
    found = decode(number, struct.pack("<B7xIIQ", 0, 4, 0xC0000082, 0x1234))
    assert found.fields == {"is_write": is_write, "index": 0xC0000082, "value": 0x1234, "reason": 4}
    assert ("register 0xc0000082 := 0x1234" in repr(found)) == is_write


# Reason, its payload by the layout of include/uapi/linux/kvm.h, and what comes of it.
NUMBERS: list[tuple[int, bytes, dict[str, object]]] = [
    (0, struct.pack("<Q", 0x33), {"hardware_exit_reason": 0x33}),
    (7, b"x" * 256, {}),
    (10, b"x" * 256, {}),
    (12, struct.pack("<QI", 0xFFFF800000001234, 1), {"instruction_pointer": 0xFFFF800000001234, "is_write": 1}),
    (13, struct.pack("<BxHI", 4, 0xB2, 0x1234567), {"icptcode": 4, "ipa": 0xB2, "ipb": 0x1234567}),
    (14, struct.pack("<Q", 9), {"flags": 9}),
    (15, struct.pack("<IIB", 1, 2, 1), {"dcrn": 1, "data": 2, "is_write": 1}),
    (16, b"x" * 256, {}),
    (18, struct.pack("<32Q", *range(32)), {"gprs": list(range(32))}),
    (19, struct.pack("<11Q", 1, 2, *range(9)), {"number": 1, "result": 2, "arguments": list(range(9))}),
    (20, struct.pack("<QI", 1, 2), {"trans_exc_code": 1, "pgm_code": 2}),
    (21, b"x" * 256, {}),
    (22, struct.pack("<HHIIIB", 1, 2, 3, 4, 5, 6),
     {"subchannel_id": 1, "subchannel_nr": 2, "io_int_parm": 3, "io_int_word": 4, "ipb": 5, "dequeued": 6}),
    (23, struct.pack("<I", 7), {"epr": 7}),
    (25, struct.pack("<QBBBBH", 1 << 40, 2, 99, 3, 4, 5),
     {"guest_address": 1 << 40, "ar": 2, "fc": 3, "sel1": 4, "sel2": 5}),
    (26, struct.pack("<B", 0x31), {"vector": 0x31}),
    (27, struct.pack("<IIIIQQQ", 1, 0, 0x40000080, 0, 2, 3, 4),
     {"type": 1, "msr": 0x40000080, "control": 2, "event_page": 3, "message_page": 4}),
    (27, struct.pack("<II4Q", 2, 0, 1, 2, 3, 4), {"type": 2, "input": 1, "result": 2, "params": [3, 4]}),
    (27, struct.pack("<IIIIQQQQQ", 3, 0, 0x400000F1, 0, 1, 2, 3, 4, 5),
     {"type": 3, "msr": 0x400000F1, "control": 1, "status": 2, "send_page": 3, "receive_page": 4, "pending_page": 5}),
    (27, struct.pack("<II6Q", 9, 0, *range(6)), {"type": 9, "words": list(range(6))}),
    (28, struct.pack("<QQ", 0x92000046, 0x9000000), {"esr_iss": 0x92000046, "guest_address": 0x9000000}),
    (31, b"x" * 256, {}),
    (32, b"x" * 256, {}),
    (34, struct.pack("<I4xIIQQ6Q", 1, 1, 3, 29, 0, *range(6)),
     {"type": 1, "long_mode": 1, "cpl": 3, "input": 29, "result": 0, "params": list(range(6))}),
    (35, struct.pack("<10Q", 1, 2, *range(6), 3, 4),
     {"extension_id": 1, "function_id": 2, "arguments": list(range(6)), "result": [3, 4]}),
    (36, struct.pack("<4Q", 1, 2, 3, 4), {"number": 1, "new_value": 2, "write_mask": 3, "result": 4}),
    (37, struct.pack("<I", 1), {"flags": 1}),
    (38, struct.pack("<Q8sIB", 5, b"abcdefgh", 4, 1),
     {"guest_address": 5, "data": list(b"abcdefgh"), "size_bytes": 4, "is_write": 1}),
    (40, struct.pack("<8Q", 1, 2, 3, *range(5)), {"flags": 1, "number": 2, "result": 3, "data": list(range(5))}),
    (41, struct.pack("<4Q", 1, 2, 3, 4), {"flags": 1, "syndrome": 2, "guest_virtual_address": 3, "guest_address": 4}),
    (42, struct.pack("<QQ", 1, 2), {"esr_iss": 1, "guest_address": 2}),
    (43, struct.pack("<3Q", 1 << 32, 4, 5), {"guest_address": 1 << 32, "pages": 4, "result": 5}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "payload", "fields"), NUMBERS, ids=lambda value: value if isinstance(value, int) else ""
)
def test_every_other_reason_has_its_numbers(number: int, payload: bytes, fields: dict[str, object]) -> None:
    found = decode(number, payload)
    assert (found.reason, found.name, found.fields) == (number, NAMES[number], fields)


def test_every_known_reason_has_a_decoder() -> None:
    for number in range(len(NAMES)):
        payload = struct.pack("<BBHIQ", 0, 1, 0, 1, 4096) if number == IO else b""
        assert "bytes" not in decode(number, payload).fields, NAMES[number]


def test_a_bus_lock_and_a_set_tpr_lie_in_the_header() -> None:
    assert decode(33, at={14: b"\x02\x00"}).fields == {"flags": 2}
    assert decode(11, at={16: struct.pack("<Q", 0xB)}).fields == {"cr8": 0xB}


@pytest.mark.parametrize("number", [44, 77, 0xFFFFFFFF])
def test_numbers_that_nobody_knows_survive_with_their_bytes(number: int) -> None:
    payload = bytes(range(256))
    found = decode(number, payload)
    assert (found.reason, found.name, found.fields) == (number, f"reason {number}", {"bytes": payload})


def test_an_internal_error_keeps_registers_that_the_mapping_has() -> None:
    registers = struct.pack("<18Q", *range(100, 118))
    synced = {288: struct.pack("<Q", 1), 304: registers}
    found = decode(INTERNAL_ERROR, struct.pack("<II", 1, 0), at=synced)
    assert found.fields["registers"]["rax"] == 100
    assert (found.fields["registers"]["rip"], found.fields["registers"]["rflags"]) == (116, 117)
    assert "rip 0x74" in repr(found)
    assert decode(INTERNAL_ERROR, struct.pack("<II", 1, 0), at={304: registers}).fields["registers"] is None
    assert decode(INTERNAL_ERROR, struct.pack("<II", 1, 0), at=synced, arch=ARM).fields["registers"] is None
    short = decode_exit(X86, 0, 0, run_bytes(INTERNAL_ERROR, struct.pack("<II", 1, 0), at={288: b"\x01"}, size=296))
    assert short.fields["registers"] is None


@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_interrupted_means_again_and_the_old_reason_is_not_read(error: int) -> None:
    found = decode_exit(X86, -1, error, run_bytes(SHUTDOWN))
    assert found.is_interrupted
    assert (found.reason, found.name, found.errno, found.fields) == (None, "error", error, {})


@pytest.mark.parametrize("error", [errno.EFAULT, errno.ENOEXEC, errno.EINVAL])
def test_an_error_leaves_no_reason(error: int) -> None:
    found = decode_exit(X86, -1, error, run_bytes(MMIO, struct.pack("<Q8sIB", 0x1000, bytes(8), 255, 0)))
    assert not found.is_interrupted
    assert (found.reason, found.errno) == (None, error)


@pytest.mark.parametrize("error", [errno.EFAULT, 133])
def test_a_memory_fault_comes_with_an_error(error: int) -> None:
    found = decode_exit(X86, -1, error, run_bytes(MEMORY_FAULT, struct.pack("<QQQ", 8, 0x40000000, 4096)))
    assert (found.name, found.errno) == ("MEMORY_FAULT", error)
    assert found.fields == {"flags": 8, "guest_address": 0x40000000, "size_bytes": 4096}


def test_a_memory_fault_with_another_error_is_an_old_one() -> None:
    assert decode_exit(X86, -1, errno.EINTR, run_bytes(MEMORY_FAULT)).reason is None


@pytest.mark.parametrize("size", [0, 8, 12, 287])
def test_a_mapping_shorter_than_its_structure_is_malformed(size: int) -> None:
    found = decode_exit(X86, 0, 0, bytes(size))
    assert found.reason is None
    assert "shorter than struct kvm_run" in found.fields["problem"]
