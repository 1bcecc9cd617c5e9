"""The decoder of exits: pure, for either architecture on any host, and never led astray by what the bytes say."""

from __future__ import annotations

import errno
import struct

import pytest

from vmthaw.kvm import Exit, GuestArch, decode_exit, exit_reason_name

MAPPING = 12288
X86, ARM = GuestArch.x86_64, GuestArch.aarch64
IO, DEBUG, HLT, MMIO, SHUTDOWN, FAIL_ENTRY, INTERNAL_ERROR, SYSTEM_EVENT, MEMORY_FAULT = 2, 4, 5, 6, 8, 9, 17, 24, 39

# By number, from include/uapi/linux/kvm.h of Linux 6.18.
NAMES = [
    "UNKNOWN", "EXCEPTION", "IO", "HYPERCALL", "DEBUG", "HLT", "MMIO", "IRQ_WINDOW_OPEN", "SHUTDOWN", "FAIL_ENTRY",
    "INTR", "SET_TPR", "TPR_ACCESS", "S390_SIEIC", "S390_RESET", "DCR", "NMI", "INTERNAL_ERROR", "OSI", "PAPR_HCALL",
    "S390_UCONTROL", "WATCHDOG", "S390_TSCH", "EPR", "SYSTEM_EVENT", "S390_STSI", "IOAPIC_EOI", "HYPERV", "ARM_NISV",
    "X86_RDMSR", "X86_WRMSR", "DIRTY_RING_FULL", "AP_RESET_HOLD", "X86_BUS_LOCK", "XEN", "RISCV_SBI", "RISCV_CSR",
    "NOTIFY", "LOONGARCH_IOCSR", "MEMORY_FAULT", "TDX", "ARM_SEA", "ARM_LDST64B", "SNP_REQ_CERTS",
]  # fmt: skip


def run_bytes(reason: int, payload: bytes = b"", *, at: dict[int, bytes] | None = None, size: int = MAPPING) -> bytes:
    """A vCPU's mapping: struct kvm_run with this exit, and bytes at other places of it."""
    mapping = bytearray(size)
    struct.pack_into("<I", mapping, 8, reason)
    mapping[32 : 32 + len(payload)] = payload
    for place, data in (at or {}).items():
        mapping[place : place + len(data)] = data
    return bytes(mapping)


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


@pytest.mark.parametrize("length", [0, 9, 255, 0xFFFFFFFF])
def test_an_impossible_length_of_mmio_is_malformed(length: int) -> None:
    found = decode(MMIO, struct.pack("<Q8sIB", 0x1000, bytes(8), length, 0))
    assert found.fields["problem"] == "mmio.len is not 1 to 8"


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
    assert decode(3, struct.pack("<Q6Q", 12, *range(6))).fields == {"number": 12, "arguments": list(range(6))}


@pytest.mark.parametrize("number", [0, 7, 29, 42, 44, 77, 0xFFFFFFFF])
def test_reasons_without_a_decoder_survive_with_their_bytes(number: int) -> None:
    payload = bytes(range(256))
    found = decode(number, payload)
    assert found.reason == number
    assert found.fields == {"bytes": payload}
    assert found.name == (NAMES[number] if number < len(NAMES) else f"reason {number}")


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
