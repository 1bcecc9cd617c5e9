"""The state file, written here by its description in machine_state.hpp: hostile content under good checksums."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from vmthaw.errors import SnapshotError
from vmthaw.machine import MachineState

MEMORY, GUEST, WORKLOAD, IDENTITY, BASE, CHANGED, FIRST_VM_PART, FIRST_PART = 1, 2, 3, 4, 5, 6, 16, 32
NAMES = {
    MEMORY: "memory", GUEST: "guest", WORKLOAD: "workload", IDENTITY: "identity", BASE: "base",
    CHANGED: "changed pages",
}  # fmt: skip
VM_PARTS = {"pic_master": 520, "pic_slave": 520, "ioapic": 520, "pit": 112, "clock": 48}
PARTS = {
    "cpuid": 40, "mp_state": 4, "regs": 144, "sregs": 312, "fpu": 416, "xsave": 4096, "xcrs": 392, "debugregs": 128,
    "lapic": 1024, "msrs": 16, "vcpu_events": 64,
}  # fmt: skip
LAPIC = list(PARTS).index("lapic")
NAMES |= {FIRST_VM_PART + i: f"vm {name}" for i, name in enumerate(VM_PARTS)}
NAMES |= {FIRST_PART + i: f"vcpu 0 {name}" for i, name in enumerate(PARTS)}
MIB = 1 << 20
PAGES = 8 * MIB // 4096


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


def guest(busy: int = 1, sequence: int = 9, has_payload: int = 1) -> Section:
    return Section(GUEST, 0, struct.pack("<QQQ", busy, sequence, has_payload))


def identity() -> Section:
    return Section(IDENTITY, 0, bytes(range(16)))


def vm_parts(*, irqchip: bool = False) -> list[Section]:
    sizes = [size if irqchip or name == "clock" else 0 for name, size in VM_PARTS.items()]
    return [Section(FIRST_VM_PART + i, 0, bytes([i]) * size) for i, size in enumerate(sizes)]


def vcpu(index: int = 0, *, irqchip: bool = False) -> list[Section]:
    sizes = [size if irqchip or name != "lapic" else 0 for name, size in PARTS.items()]
    return [Section(FIRST_PART + i, index, bytes([i]) * size) for i, size in enumerate(sizes)]


def sections(*, irqchip: bool = False) -> list[Section]:
    return [memory(), guest(), workload(), identity(), *vm_parts(irqchip=irqchip), *vcpu(irqchip=irqchip)]


def base(depth: int = 1, path: bytes = b"../base") -> Section:
    return Section(BASE, 0, struct.pack("<Q16sQ", depth, bytes(range(16, 32)), 5) + path)


def changed(*pages: int, count: int = PAGES) -> Section:
    bits = bytearray((count + 63) // 64 * 8)
    for page in pages:
        bits[page // 8] |= 1 << page % 8
    return Section(CHANGED, 0, bytes(bits))


def diff_sections() -> list[Section]:
    return [*sections(), base(), changed(1, 63, 64)]


def state(
    parts: list[Section], *, version: int = 2, arch: int = 1, count: int | None = None, extra: bytes = b""
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
    assert (found.busy, found.has_payload, found.vcpu_count, found.has_irqchip) == (True, True, 1, False)
    assert found.workload == (5, 1000, [(7, 100, 256, 10)])
    assert (found.id, found.depth, found.base_id) == (bytes(range(16)).hex(), 0, "")
    assert MachineState.decode(state([*sections(), *vcpu(1)])).vcpu_count == 2
    assert MachineState.decode(state(sections(irqchip=True))).has_irqchip


def test_a_diff_says_what_it_lies_over_and_which_pages_it_has() -> None:
    found = MachineState.decode(state(diff_sections()))
    assert (found.depth, found.base_id, found.base_path) == (1, bytes(range(16, 32)).hex(), b"../base")
    assert found.changed_pages[:9] == bytes([2, 0, 0, 0, 0, 0, 0, 128, 1])
    assert len(found.changed_pages) == PAGES // 8


def test_a_diff_lies_over_one_snapshot_alone() -> None:
    """Its id and every byte of its state, which a CRC over the whole file would not see: each part carries its own."""
    full = MachineState.decode(state(sections()))
    other = MachineState.decode(state([*sections()[:1], guest(0), *sections()[2:]]))
    assert full.id == other.id
    checksums = struct.pack(f"<{len(sections())}Q", *(crc64(part.encode()[:-8]) for part in sections()))
    over = Section(BASE, 0, struct.pack("<Q16sQ", 1, bytes(range(16)), crc64(checksums)) + b"x")
    diff = MachineState.decode(state([*sections(), over, changed(1, 2, 3)]))
    assert diff.lies_over(full)
    assert not diff.lies_over(other)
    assert not MachineState.decode(state(diff_sections())).lies_over(full)


def test_the_order_of_sections_does_not_matter() -> None:
    assert MachineState.decode(state(sections()[::-1])).memory_size == 8 * MIB


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "header"),
        (state(sections())[:39], "header"),
        (b"VMTHAWS2" + state(sections())[8:], "magic"),
        (state(sections(), version=1), "version"),
        (state(sections(), version=3), "version"),
        (state(sections(), version=0), "version"),
        (state(sections(), arch=2), "architecture"),
        (state(sections())[:-1], "file size"),
        (state(sections()) + b"x", "file size"),
        (state(sections(), count=21), "section 20"),
        (state(sections(), count=19), "end"),
        (state(sections(), count=0xFFFFFFFF), "section 20"),
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
        (guest(busy=2), "guest"),
        (guest(has_payload=2), "guest"),
        (guest(busy=1, has_payload=0), "guest"),
        (Section(GUEST, 0, bytes(17)), "guest"),
        (Section(IDENTITY, 0, bytes(15)), "identity"),
        (base(depth=0), "base"),
        (base(depth=1025), "base"),
        (base(path=b""), "base"),
        (base(path=b"a\0b"), "base"),
        (base(path=b"x" * 4097), "base"),
        (Section(BASE, 0, bytes(31)), "base"),
        (changed(1, 2), "changed pages"),
        (changed(1, 2, 3, count=PAGES - 64), "changed pages"),
        (Section(CHANGED, 0, bytes(PAGES // 8 - 1)), "changed pages"),
        (Section(FIRST_VM_PART, 0, bytes(519)), "vm pic_master"),
        (Section(FIRST_VM_PART, 0, bytes(520)), "vm pic_slave"),
        (Section(FIRST_VM_PART + 3, 0, bytes(112)), "vm pit"),
        (Section(FIRST_VM_PART + 4, 0, bytes(47)), "vm clock"),
        (Section(FIRST_PART + LAPIC, 0, bytes(1024)), "vcpu 0 lapic"),
        (workload(33), "workload"),
        (Section(WORKLOAD, 0, bytes(8)), "workload"),
        (Section(FIRST_PART, 0, bytes(39)), "vcpu 0 cpuid"),
        (Section(FIRST_PART + 1, 0, b""), "vcpu 0 mp_state"),
        (Section(FIRST_PART + 2, 0, bytes(288)), "vcpu 0 regs"),
        (Section(FIRST_PART + 5, 0, bytes(4095)), "vcpu 0 xsave"),
        (Section(FIRST_PART + 5, 0, bytes(MIB + 1)), "vcpu 0 xsave"),
        (Section(FIRST_PART + 9, 0, bytes(16 * 4097)), "vcpu 0 msrs"),
    ],
)
def test_a_section_that_cannot_be_is_refused_by_name(changed: Section, field: str) -> None:
    kept = [part for part in diff_sections() if part.kind != changed.kind]
    assert field_of(state([*kept, changed])) == field


def test_pages_behind_the_last_are_refused() -> None:
    pages = PAGES + 1
    words = changed(1, 2, 3, count=pages).content
    diff = [memory(size=pages * 4096), *diff_sections()[1:-1]]
    assert MachineState.decode(state([*diff, Section(CHANGED, 0, words)])).memory_data_pages == 3
    behind = words[:-8] + struct.pack("<Q", 2)
    assert field_of(state([*diff, Section(CHANGED, 0, behind)])) == "changed pages"


def test_a_vcpu_without_its_part_of_the_interrupt_controller_is_refused() -> None:
    kept = [part for part in sections(irqchip=True) if part.kind != FIRST_PART + LAPIC]
    assert field_of(state([*kept, Section(FIRST_PART + LAPIC, 0, b"")])) == "vcpu 0 lapic"


@pytest.mark.parametrize("kind", NAMES)
def test_each_section_is_needed_once(kind: int) -> None:
    assert field_of(state([part for part in diff_sections() if part.kind != kind])) == NAMES[kind]
    (twice,) = (part for part in diff_sections() if part.kind == kind)
    assert field_of(state([*diff_sections(), twice])) == NAMES[kind]


def test_vcpus_without_a_gap_and_not_too_many() -> None:
    assert field_of(state([*sections(), *vcpu(2)])) == "vcpu 1 cpuid"
    assert field_of(state([*sections(), *vcpu(255)])) == "vcpu 255 cpuid"
    assert field_of(state([*sections(), *vcpu(0xFFFFFFFF)])) == "vcpu 4294967295 cpuid"
    assert field_of(state(sections()[:9])) == "vcpu 0"
    assert field_of(state([*sections(), Section(MEMORY, 1, memory().content)])) == "memory"


@pytest.mark.parametrize("kind", [0, 7, 15, 21, 31, 43, 0xFFFFFFFF])
def test_an_unknown_section_is_refused(kind: int) -> None:
    assert field_of(state([*sections(), Section(kind, 0, b"")])) == f"section of kind {kind}"


@pytest.mark.parametrize("size", [1, 1 << 32, (1 << 64) - 1])
def test_a_section_that_claims_more_than_there_is_is_refused(size: int) -> None:
    lying = sealed(struct.pack("<IIQ", MEMORY, 0, size))
    header = sealed(struct.pack("<8sIIQII", b"VMTHAWST", 2, 1, 40 + len(lying), 1, 0))
    assert field_of(header + lying) == "memory"


def test_a_section_with_a_wrong_checksum_is_named() -> None:
    data = bytearray(state(sections()))
    data[-1] ^= 1
    assert field_of(bytes(data)) == "vcpu 0 vcpu_events"
