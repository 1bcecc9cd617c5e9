"""The state file, written here by its description in machine_state.hpp: hostile content under good checksums."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from vmthaw.errors import SnapshotError
from vmthaw.machine import MachineState

MEMORY, GUEST, WORKLOAD, FIRST_PART = 1, 2, 3, 16
PARTS = {
    "cpuid": 40, "mp_state": 4, "regs": 144, "sregs": 312, "fpu": 416, "xsave": 4096, "xcrs": 392, "debugregs": 128,
    "msrs": 16, "vcpu_events": 64,
}  # fmt: skip
MIB = 1 << 20


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0xC96C5795D7870F42 if value & 1 else 0)
    return value


TABLE = [_crc_of_byte(value) for value in range(256)]


def crc64(data: bytes) -> int:
    """CRC-64/XZ: ECMA-182 reflected, all ones before and after."""
    crc = (1 << 64) - 1
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ ((1 << 64) - 1)


def sealed(data: bytes) -> bytes:
    return data + struct.pack("<Q", crc64(data))


@dataclass
class Section:
    kind: int
    index: int
    content: bytes

    def encode(self) -> bytes:
        return sealed(struct.pack("<IIQ", self.kind, self.index, len(self.content)) + self.content)


def memory(size: int = 8 * MIB, data_pages: int = 3, fingerprint: int = 77) -> Section:
    return Section(MEMORY, 0, struct.pack("<QQQ", size, data_pages, fingerprint))


def workload(rewrites: int = 1) -> Section:
    entries = [(7, 100, 256, 10)] * min(rewrites, 32) + [(0, 0, 0, 0)] * (32 - min(rewrites, 32))
    words = [number for entry in entries for number in entry]
    return Section(WORKLOAD, 0, struct.pack("<QQQ128Q", 5, 1000, rewrites, *words))


def vcpu(index: int = 0) -> list[Section]:
    return [Section(FIRST_PART + i, index, bytes([i]) * size) for i, size in enumerate(PARTS.values())]


def sections() -> list[Section]:
    return [memory(), Section(GUEST, 0, struct.pack("<QQ", 1, 9)), workload(), *vcpu()]


def state(
    parts: list[Section], *, version: int = 1, arch: int = 1, count: int | None = None, extra: bytes = b""
) -> bytes:
    body = b"".join(part.encode() for part in parts) + extra
    count = len(parts) if count is None else count
    return sealed(struct.pack("<8sIIQII", b"VMTHAWST", version, arch, 40 + len(body), count, 0)) + body


def field_of(data: bytes) -> str:
    with pytest.raises(SnapshotError, match="the state file cannot be restored") as info:
        MachineState.decode(data)
    return info.value.field


def test_the_checksum_is_that_of_the_catalogue() -> None:
    assert crc64(b"123456789") == 0x995DC9BBDF1939FA


def test_a_state_as_described_is_read() -> None:
    found = MachineState.decode(state(sections()))
    assert (found.memory_size, found.memory_data_pages, found.memory_fingerprint) == (8 * MIB, 3, 77)
    assert (found.busy, found.vcpu_count) == (True, 1)
    assert found.workload == (5, 1000, [(7, 100, 256, 10)])
    assert MachineState.decode(state([*sections(), *vcpu(1)])).vcpu_count == 2


def test_the_order_of_sections_does_not_matter() -> None:
    assert MachineState.decode(state(sections()[::-1])).memory_size == 8 * MIB


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "header"),
        (state(sections())[:39], "header"),
        (b"VMTHAWS2" + state(sections())[8:], "magic"),
        (state(sections(), version=2), "version"),
        (state(sections(), version=0), "version"),
        (state(sections(), arch=2), "architecture"),
        (state(sections())[:-1], "file size"),
        (state(sections()) + b"x", "file size"),
        (state(sections(), count=14), "section 13"),
        (state(sections(), count=12), "end"),
        (state(sections(), count=0xFFFFFFFF), "section 13"),
        (state(sections(), extra=b"x"), "end"),
    ],
)
def test_a_wrong_frame_is_refused_by_name(data: bytes, field: str) -> None:
    assert field_of(data) == field


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (memory(size=8 * MIB + 1), "memory"),
        (memory(size=MIB), "memory"),
        (memory(size=(1 << 64) - 4096), "memory"),
        (memory(data_pages=2049), "memory"),
        (Section(MEMORY, 0, bytes(23)), "memory"),
        (Section(GUEST, 0, struct.pack("<QQ", 2, 0)), "guest"),
        (Section(GUEST, 0, bytes(17)), "guest"),
        (workload(33), "workload"),
        (Section(WORKLOAD, 0, bytes(8)), "workload"),
        (Section(FIRST_PART, 0, bytes(39)), "vcpu 0 cpuid"),
        (Section(FIRST_PART + 1, 0, b""), "vcpu 0 mp_state"),
        (Section(FIRST_PART + 2, 0, bytes(288)), "vcpu 0 regs"),
        (Section(FIRST_PART + 5, 0, bytes(4095)), "vcpu 0 xsave"),
        (Section(FIRST_PART + 5, 0, bytes(MIB + 1)), "vcpu 0 xsave"),
        (Section(FIRST_PART + 8, 0, bytes(16 * 4097)), "vcpu 0 msrs"),
    ],
)
def test_a_section_that_cannot_be_is_refused_by_name(changed: Section, field: str) -> None:
    kept = [part for part in sections() if part.kind != changed.kind]
    assert field_of(state([*kept, changed])) == field


@pytest.mark.parametrize("kind", [MEMORY, GUEST, WORKLOAD, *range(FIRST_PART, FIRST_PART + 10)])
def test_each_section_is_needed_once(kind: int) -> None:
    names = dict(enumerate(PARTS, FIRST_PART))
    name = {MEMORY: "memory", GUEST: "guest", WORKLOAD: "workload"}.get(kind) or f"vcpu 0 {names[kind]}"
    assert field_of(state([part for part in sections() if part.kind != kind])) == name
    (twice,) = (part for part in sections() if part.kind == kind)
    assert field_of(state([*sections(), twice])) == name


def test_vcpus_without_a_gap_and_not_too_many() -> None:
    assert field_of(state([*sections(), *vcpu(2)])) == "vcpu 1 cpuid"
    assert field_of(state([*sections(), *vcpu(16)])) == "vcpu 16 cpuid"
    assert field_of(state([*sections(), *vcpu(0xFFFFFFFF)])) == "vcpu 4294967295 cpuid"
    assert field_of(state(sections()[:3])) == "vcpu 0"
    assert field_of(state([*sections(), Section(MEMORY, 1, memory().content)])) == "memory"


@pytest.mark.parametrize("kind", [0, 4, 15, 26, 0xFFFFFFFF])
def test_an_unknown_section_is_refused(kind: int) -> None:
    assert field_of(state([*sections(), Section(kind, 0, b"")])) == f"section of kind {kind}"


@pytest.mark.parametrize("size", [1, 1 << 32, (1 << 64) - 1])
def test_a_section_that_claims_more_than_there_is_is_refused(size: int) -> None:
    lying = sealed(struct.pack("<IIQ", MEMORY, 0, size))
    header = sealed(struct.pack("<8sIIQII", b"VMTHAWST", 1, 1, 40 + len(lying), 1, 0))
    assert field_of(header + lying) == "memory"


def test_a_section_with_a_wrong_checksum_is_named() -> None:
    data = bytearray(state(sections()))
    data[-1] ^= 1
    assert field_of(bytes(data)) == "vcpu 0 vcpu_events"
