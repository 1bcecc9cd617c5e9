"""struct kvm_run made by hand: a vCPU's mapping with one exit, for tests that need no KVM."""

from __future__ import annotations

import struct

from vmthaw.vcpu import Exit, ExitProfile, GuestArch, classify_exit

MAPPING = 12288
DATA_OFFSET = 4096  # where the elements of a port access lie here
X86, ARM = GuestArch.x86_64, GuestArch.aarch64
LENIENT, STRICT = ExitProfile.lenient, ExitProfile.strict

(UNKNOWN, IO, HLT, MMIO, SHUTDOWN, FAIL_ENTRY, INTERNAL_ERROR, SYSTEM_EVENT, MEMORY_FAULT) = (
    0, 2, 5, 6, 8, 9, 17, 24, 39,
)  # fmt: skip


def run_bytes(reason: int, payload: bytes = b"", *, at: dict[int, bytes] | None = None, size: int = MAPPING) -> bytes:
    """A vCPU's mapping: struct kvm_run with this exit, and bytes at other places of it."""
    mapping = bytearray(size)
    struct.pack_into("<I", mapping, 8, reason)
    mapping[32 : 32 + len(payload)] = payload
    for place, data in (at or {}).items():
        mapping[place : place + len(data)] = data
    return bytes(mapping)


def io_out(port: int, data: bytes, size: int = 1) -> bytes:
    """OUT of the elements in `data`, `size` bytes each."""
    packed = struct.pack("<BBHIQ", 1, size, port, len(data) // size, DATA_OFFSET)
    return run_bytes(IO, packed, at={DATA_OFFSET: data})


def io_in(port: int, size: int = 1, count: int = 1, before: bytes = b"") -> bytes:
    """IN; `before` is what the buffer holds until somebody answers."""
    return run_bytes(IO, struct.pack("<BBHIQ", 0, size, port, count, DATA_OFFSET), at={DATA_OFFSET: before})


def mmio_write(guest_address: int, data: bytes) -> bytes:
    return run_bytes(MMIO, struct.pack("<Q8sIB", guest_address, data, len(data), 1))


def mmio_read(guest_address: int, size: int = 4) -> bytes:
    return run_bytes(MMIO, struct.pack("<Q8sIB", guest_address, bytes(8), size, 0))


def event(kind: int) -> bytes:
    return run_bytes(SYSTEM_EVENT, struct.pack("<II", kind, 0))


def classify(profile: ExitProfile, arch: GuestArch, mapping: bytes, *, result: int = 0, errno: int = 0) -> Exit:
    return classify_exit(profile, arch, result, errno, mapping)
