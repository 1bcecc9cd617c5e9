"""What an exit costs the host beside the kernel: classifying it, alone."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from tests.benchmarks.bench import Bench, Case, Sample
from vmthaw import _core
from vmthaw.vcpu import ExitProfile, GuestArch, classify_exit

_CALLS = 1 << 20
_CALLS_FROM_PYTHON = 1 << 17


def _mapping(reason: int, payload: bytes) -> bytes:
    """A vCPU's mapping with one exit."""
    mapping = bytearray(12288)
    struct.pack_into("<I", mapping, 8, reason)
    mapping[32 : 32 + len(payload)] = payload
    return bytes(mapping)


PORT_WRITE = _mapping(2, struct.pack("<BBHIQ", 1, 1, 0x3F8, 1, 4096))
MMIO_READ = _mapping(6, struct.pack("<Q8sIB", 0xC0000000, bytes(8), 4, 0))


def in_cpp(mapping: bytes) -> Callable[[Bench], Sample]:
    """`touched` are calls, so "us/page" is what one of them costs."""

    def measure(_: Bench) -> Sample:
        ns = _core._classify_exit_ns(ExitProfile.strict, GuestArch.x86_64, mapping, _CALLS)
        return Sample(ns * _CALLS / 1e9, _CALLS)

    return measure


def in_python(mapping: bytes) -> Callable[[Bench], Sample]:
    def measure(_: Bench) -> Sample:
        profile, arch = ExitProfile.strict, GuestArch.x86_64
        start = time.perf_counter()
        for _call in range(_CALLS_FROM_PYTHON):
            classify_exit(profile, arch, 0, 0, mapping)
        return Sample(time.perf_counter() - start, _CALLS_FROM_PYTHON)

    return measure


def exit_cases() -> list[Case]:
    return [
        Case("exits/port", in_cpp(PORT_WRITE), "classify_exit of a port write, from C++"),
        Case("exits/mmio", in_cpp(MMIO_READ), "the same of an MMIO read"),
        Case("exits/port-python", in_python(PORT_WRITE), "classify_exit of a port write, from Python"),
        Case("exits/mmio-python", in_python(MMIO_READ), "the same of an MMIO read"),
    ]
