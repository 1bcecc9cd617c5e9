"""What KVM does in each virtual machine, against what is known of it (facts/): whoever drives a vCPU builds on that.

`make test-vm` runs this. A difference to the facts is a mistake of the probe, or news about KVM, QEMU or the kernel.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.tree import ROOT

pytestmark = [
    pytest.mark.skipif("VMTHAW_TEST_MACHINES" not in os.environ, reason="needs the virtual machines of `make test-vm`"),
    pytest.mark.timeout(900),
]
HERE = Path(__file__).parent
COMPILERS = {"x86": "g++", "aarch64": "aarch64-linux-gnu-g++"}
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
SHARED = ["probe.cpp", "machine.cpp", "memory_questions.cpp"]


def build_probe(tier: str) -> Path:
    """Into the checkout: the machine for aarch64 sees nothing else."""
    program = ROOT / "build" / "vm" / "probes" / tier
    program.parent.mkdir(parents=True, exist_ok=True)
    sources = [HERE / "probes" / name for name in [*SHARED, f"{tier}.cpp"]]
    options = ["-std=c++20", "-O1", "-static", "-pthread", *WARNINGS]
    subprocess.run([COMPILERS[tier], *options, *sources, "-o", program], check=True)
    return program


def run_in_vm(tier: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HERE / "run_in_vm", tier, "--", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("tier", COMPILERS)
def test_kvm_does_what_is_known_of_it(tier: str) -> None:
    done = run_in_vm(tier, build_probe(tier))
    assert done.returncode == 0, done.stderr
    known = (HERE / "facts" / f"{tier}.txt").read_text(encoding="utf-8").splitlines()
    assert done.stdout.splitlines() == [line for line in known if not line.startswith("#")]


def test_a_command_gets_its_words_its_folder_and_its_status_back_from_a_whole_python() -> None:
    words = ["two words", "it's", "$HOME", ""]
    modules = "bz2, ctypes, curses, hashlib, lzma, mmap, os, readline, sqlite3, ssl, sys, uuid, zlib"
    program = f"import {modules}; print(sys.argv[1:], os.getcwd(), os.uname().machine); sys.exit(7)"
    done = run_in_vm("aarch64", "python3", "-c", program, *words)
    assert (done.returncode, done.stdout) == (7, f"{words} {ROOT} aarch64\n"), done.stderr


def test_a_command_that_is_not_there_is_no_machine_that_died() -> None:
    done = run_in_vm("x86", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stdout
