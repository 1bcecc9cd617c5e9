"""The C++ core on aarch64, cross-built: its tests under user-mode emulation, and live guests in a virtual machine.

`make test-aarch64` builds and runs this. User-mode emulation has no KVM and no userfaultfd: what needs them skips.
What drives a guest is a program of its own (the .cpp files beside this one), and runs where KVM is at EL2.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import gtest

WANTED = "VMTHAW_TEST_AARCH64" in os.environ
pytestmark = [
    pytest.mark.skipif(not WANTED, reason="needs what `make test-aarch64` builds"),
    pytest.mark.timeout(900),
]
EMULATOR = ["qemu-aarch64-static"]
CORE = gtest.executable("aarch64")
LIVE = gtest.ROOT / "build" / "aarch64" / "vmthaw_aarch64_tests"
RUN_IN_VM = gtest.ROOT / "tests" / "vm" / "run_in_vm"
# Tests of the kernel itself, which user-mode emulation only imitates, and explorations that would take an hour in it.
WITHOUT = (
    "*Userfaultfd*",
    "CaptureFailures",
    "RunLoopFailures",
    "SourceResidency",
    "Thread",
    "FreezeHazards",
    "FreezeInterleavings*",
    "WatchHazards",
    "WatchInterleavings",
)


def core_suites() -> list[str]:
    """The suites of the core that user-mode emulation can run."""
    found = gtest.suites(CORE, EMULATOR) if WANTED else []
    return [suite for suite in found if not any(fnmatch.fnmatchcase(suite, pattern) for pattern in WITHOUT)]


def listed(names: list[str]) -> list[str]:
    """Something to skip where nothing is built."""
    return names or ["none"]


@pytest.mark.parametrize("suite", listed(core_suites()))
def test_core_suite_passes_under_user_mode_emulation(suite: str) -> None:
    assert CORE.exists(), f"{CORE} is missing: run `make test-aarch64`"
    result = gtest.run(CORE, f"{suite}.*-*Terabyte*", prefix=EMULATOR, timeout=850)
    assert result.ok, f"{suite}: {result.failed or f'status {result.status}'}\n{result.account}"
    if result.skipped and not result.passed:
        pytest.skip(result.skip_reason)


@pytest.fixture(scope="module")
def live() -> gtest.Result:
    """All tests with a live guest, in one virtual machine: starting it takes longer than they do."""
    command: list[str | Path] = [RUN_IN_VM, "--timeout", "800", "aarch64", "--", LIVE, "--gtest_color=no"]
    done = subprocess.run(command, cwd=gtest.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return gtest.read_output(done.returncode, done.stdout.decode(errors="replace"))


@pytest.mark.parametrize("name", listed(gtest.cases(LIVE, EMULATOR) if WANTED else []))
def test_live_guest(name: str, live: gtest.Result) -> None:
    if name in live.skipped:
        pytest.skip(live.skipped[name])
    assert name in live.passed_names, live.account
    assert live.status == 0, live.account
