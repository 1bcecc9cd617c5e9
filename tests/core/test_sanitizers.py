"""The same core tests under address and undefined-behaviour sanitizers, and under the thread sanitizer."""

from __future__ import annotations

import platform
import subprocess

import pytest

from tests.support import gtest

OPTIONS = {
    "asan-ubsan": {
        "ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1:detect_stack_use_after_return=1:strict_init_order=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    },
    "tsan": {"TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1"},
}


def without_address_randomization() -> list[str]:
    """The thread sanitizer's shadow collides with mappings where vm.mmap_rnd_bits is large: none, where allowed."""
    prefix = ["setarch", platform.machine(), "-R"]
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if allowed else []


# They run in test_core.py. A terabyte does not fit into a sanitizer's address space; and the undefined sanitizer asks a
# pipe whether an object is readable, which a test without descriptors cannot have (descriptor_limit.hpp: the names).
WITHOUT = {
    "asan-ubsan": "-*Terabyte*:*OutOfDescriptors*",
    "tsan": "-*Terabyte*",
}


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("preset", OPTIONS)
def test_core_tests_pass_under_sanitizers(preset: str) -> None:
    build = subprocess.run(
        [gtest.ROOT / "scripts" / "build", preset, "vmthaw_core_tests"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout
    result = gtest.run(
        gtest.executable(preset),
        WITHOUT[preset],
        prefix=without_address_randomization() if preset == "tsan" else [],
        environment=OPTIONS[preset],
        timeout=900,
    )
    assert result.ok, f"{result.failed or f'status {result.status}'}\n{result.account}"
    if result.skipped:
        pytest.skip(result.skip_reason)
