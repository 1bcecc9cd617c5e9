"""Core dumps as a real gdb reads them, and memory as the guest's page tables show it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.kvm.support import CODE, TinyGuest
from vmthaw.errors import TranslationError
from vmthaw.machine import FIRST_WORK_PAGE, Machine
from vmthaw.registers import CoreAddresses, capture_full, mapped_ranges, write_core_dump

SEED = 5


def gdb(core: Path, *commands: str) -> str:
    if shutil.which("gdb") is None:
        pytest.skip("needs gdb (scripts/setup installs it)")
    arguments = [part for command in commands for part in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-batch", "-nx", "-ex", f"core-file {core}", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "DEBUGINFOD_URLS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(output: str) -> list[int]:
    """The numbers of x/gx."""
    return [int(word, 16) for line in output.splitlines() if re.match(r"0x\w+:", line)
            for word in line.split(":", 1)[1].split()]  # fmt: skip


@pytest.fixture
def filled(machine: Machine) -> Machine:
    machine.fill(SEED, zero_share=0.5)
    machine.load_vectors(31)
    return machine


@pytest.mark.parametrize("addresses", CoreAddresses)
def test_gdb_finds_the_registers_and_the_memory(filled: Machine, tmp_path: Path, addresses: CoreAddresses) -> None:
    core = tmp_path / "guest.core"
    report = filled.write_core_dump(core, addresses=addresses)
    assert report.is_complete
    full = filled.registers()
    address = FIRST_WORK_PAGE * 4096
    pages = [filled.workload.page(FIRST_WORK_PAGE + page) for page in range(20)]
    expected = [int.from_bytes(page[56:64], "little") for page in pages]
    shown = gdb(
        core,
        *(f'printf "{name}=%lx\\n", ${name}' for name in ("rip", "rsp", "rdi", "r12", "rax")),
        'printf "eflags=%lx\\n", $eflags',
        'printf "xmm3=%lx\\n", $xmm3.v2_int64[0]',
        *(f"x/1gx {address + page * 4096 + 56}" for page in range(20)),
    )
    found = dict(re.findall(r"^(\w+)=([0-9a-f]+)$", shown, re.MULTILINE))
    assert {name: int(found[name], 16) for name in ("rip", "rsp", "rdi", "r12", "rax")} == {
        name: full[name] for name in ("rip", "rsp", "rdi", "r12", "rax")
    }
    assert int(found["eflags"], 16) == full["rflags"]
    assert int(found["xmm3"], 16) == full["xmm3"] & (2**64 - 1) != 0
    assert words(shown) == expected
    assert any(expected)
    assert 0 in expected  # zero pages are holes, and are there


def test_the_file_has_the_memory_once_and_zero_pages_as_holes(filled: Machine, tmp_path: Path) -> None:
    core = tmp_path / "guest.core"
    report = filled.write_core_dump(core)
    image = core.read_bytes()
    memory = filled.read(0, filled.memory.size)
    assert image[-len(memory) :] == memory
    assert report.data_pages == sum(any(memory[at : at + 4096]) for at in range(0, len(memory), 4096))
    assert core.stat().st_blocks * 512 < len(memory)
    assert core.stat().st_mode & 0o777 == 0o600


def test_every_vcpu_is_a_thread_with_its_own_registers(kvm_available: None, tmp_path: Path) -> None:
    guest = TinyGuest(b"\xf4")
    second = guest.vm.create_vcpu(1)
    guest.vcpu.set_regs({"rbx": 0x1111})
    second.set_regs({"rbx": 0x2222, "rip": 0x1234})
    core = tmp_path / "two.core"
    vcpus = [capture_full(guest.kvm, vcpu) for vcpu in (guest.vcpu, second)]
    report = write_core_dump(str(core), guest.memory, vcpus)
    assert report.segments == 1  # no paging: physical addresses
    shown = gdb(core, "thread 1", 'printf "first=%lx\\n", $rbx', "thread 2", 'printf "second=%lx %lx\\n", $rbx, $rip')
    assert "first=1111" in shown
    assert "second=2222 1234" in shown
    assert words(gdb(core, f"x/1gx {CODE}"))[0] & 0xFF == 0xF4


def test_gdb_finds_the_wide_registers_of_a_guest_that_uses_them(kvm_available: None, tmp_path: Path) -> None:
    # mov %cr4, %eax; or $OSXSAVE, %eax; mov %eax, %cr4; xor %ecx, %ecx; xor %edx, %edx; mov $7, %eax; xsetbv; hlt
    guest = TinyGuest(
        b"\x0f\x20\xe0\x66\x0d\0\0\x04\0\x0f\x22\xe0\x66\x31\xc9\x66\x31\xd2\x66\xb8\x07\0\0\0\x0f\x01\xd1\xf4"
    )
    guest.vcpu.set_supported_cpuid(guest.kvm)
    assert guest.vcpu.run(5.0).name == "HLT"
    area = bytearray(guest.vcpu.xsave())
    area[160 + 16 * 3 : 160 + 16 * 4] = bytes(range(1, 17))  # XMM3
    area[512] |= 7  # XSTATE_BV: x87, SSE, AVX
    area[576 + 16 * 3 : 576 + 16 * 4] = bytes(range(17, 33))  # the upper half of YMM3
    guest.vcpu.set_xsave(bytes(area))
    full = capture_full(guest.kvm, guest.vcpu)
    assert (full["xcr0"], full["ymm3h"]) == (7, int.from_bytes(bytes(range(17, 33)), "little"))
    core = tmp_path / "wide.core"
    write_core_dump(str(core), guest.memory, [full])
    shown = gdb(core, *(f'printf "part=%lx\\n", $ymm3.v4_int64[{part}]' for part in range(4)))
    expected = [int.from_bytes(bytes(range(at, at + 8)), "little") for at in (1, 9, 17, 25)]
    assert [int(part, 16) for part in re.findall(r"^part=([0-9a-f]+)$", shown, re.MULTILINE)] == expected


def test_a_dump_does_not_overwrite_and_leaves_nothing_behind(filled: Machine, tmp_path: Path) -> None:
    core = tmp_path / "guest.core"
    core.write_text("precious")
    with pytest.raises(FileExistsError):
        filled.write_core_dump(core)
    assert core.read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        filled.write_core_dump(tmp_path / "nowhere" / "guest.core")


def test_guest_virtual_memory_is_read_through_the_guests_tables(filled: Machine) -> None:
    rip = filled.registers()["rip"]
    assert filled.read_guest_virtual(rip, 16) == filled.read(rip, 16)  # its tables map everything onto itself
    ranges, complete = mapped_ranges(filled.registers().paging_state(), filled.memory)
    assert complete
    assert ranges == [(0, 0, filled.memory.size)]
    with pytest.raises(TranslationError, match="not present"):
        filled.read_guest_virtual(filled.memory.size - 8, 16)
    with pytest.raises(TranslationError, match="not canonical"):
        filled.read_guest_virtual(1 << 60, 1)
