"""Guest memory that cannot be reached: a back end ends KVM_RUN without an address, sends SIGBUS, or makes MMIO of it.

Which one is up to the back end (a software one: MMIO; kvm_amd: the others). The run survives all and says where.
"""

from __future__ import annotations

import mmap
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG
from tests.support.tree import ROOT
from vmthaw.errors import GuestError
from vmthaw.machine import Machine
from vmthaw.run_loop import RunEndKind
from vmthaw.userfaultfd import REGISTER_MISSING, Feature, UserfaultfdFactory
from vmthaw.vcpu import Exit, ExitActionKind

pytestmark = pytest.mark.usefixtures("kvm_available")

CODE = 0x1000
FAR = 0x8000
PAGE = 4096
# mov FAR, %al; mov %al, 0x3000; hlt
READ_FAR = b"\xa0" + FAR.to_bytes(2, "little") + b"\xa2\x00\x30" + HLT
WRITE_FAR = b"\xa2" + FAR.to_bytes(2, "little") + HLT


def machine_with(code: bytes) -> Machine:
    """Code and result in one slot, and nothing at FAR yet."""
    machine = Machine(2 << 20, payload=False)
    machine.write(CODE, code)
    (vcpu,) = machine.vcpus
    vcpu.set_sregs({f"{segment}.{part}": 0 for segment in ("cs", "ds", "es", "ss") for part in ("selector", "base")})
    vcpu.set_regs({"rip": CODE, "rsp": 0x2000, "rflags": 2, "rax": 0x55})
    vm = machine.core.vm()
    (slot,) = vm.memory_slots()
    vm.remove_memory_slot(0)
    vm.set_memory_slot(0, 0, slot.host_address, FAR)
    return machine


def host_address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def run_or_error(machine: Machine) -> str | None:
    """The text of the error, or None where the back end made MMIO of it."""
    try:
        end = machine.run(timeout=LONG)
    except GuestError as error:
        assert not machine.running
        return str(error)
    assert end.kind is RunEndKind.halted
    assert machine.stats[0].exits["MMIO"] == 1
    return None


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_poisoned_page_ends_the_run_and_not_the_process() -> None:
    if Feature.poison not in UserfaultfdFactory.probe():
        pytest.skip("this kernel's userfaultfd has no UFFDIO_POISON")
    far = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with UserfaultfdFactory(required=Feature.poison).create() as userfaultfd, machine_with(READ_FAR) as machine:
        userfaultfd.register_range(host_address(far), PAGE, REGISTER_MISSING)
        assert userfaultfd.poison(host_address(far), PAGE).done_bytes == PAGE
        machine.core.vm().set_memory_slot(1, FAR, host_address(far), PAGE)
        text = run_or_error(machine)
        if text is None:
            assert machine.read(0x3000, 1) == b"\xff"
        else:
            assert "MEMORY_FAULT" in text
            assert f"{FAR:#x}" in text
        machine.core.vm().remove_memory_slot(1)


def read_poison_in_a_function() -> None:
    """The body of a process: a function of the run loop reads a poisoned page itself, on the vCPU's thread."""
    far = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with (
        UserfaultfdFactory(required=Feature.poison).create() as userfaultfd,
        machine_with(b"\xe6\x80" + HLT) as machine,  # out %al, $0x80
    ):
        userfaultfd.register_range(host_address(far), PAGE, REGISTER_MISSING)
        userfaultfd.poison(host_address(far), PAGE)

        @machine.on_port(0x80)
        def read(_access: Exit) -> ExitActionKind:
            far.read(1)
            return ExitActionKind.continue_

        machine.run()


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_function_that_reads_a_poisoned_page_ends_the_process_and_does_not_read_it_for_ever() -> None:
    if Feature.poison not in UserfaultfdFactory.probe():
        pytest.skip("this kernel's userfaultfd has no UFFDIO_POISON")
    program = f"from {__name__} import read_poison_in_a_function as body; body()"
    ended = subprocess.run([sys.executable, "-c", program], timeout=LONG, check=False, cwd=ROOT)
    assert ended.returncode == -signal.SIGBUS


def test_memory_past_the_end_of_its_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "far"
    path.write_bytes(bytes(PAGE))
    with path.open("r+b") as file:
        far = mmap.mmap(file.fileno(), PAGE)
        file.truncate(0)
    with machine_with(READ_FAR) as machine:
        machine.core.vm().set_memory_slot(1, FAR, host_address(far), PAGE)
        text = run_or_error(machine)
        assert text is None or f"slot 1, guest {FAR:#x} to {FAR + PAGE:#x}: past the end of the file {path}" in text
        machine.core.vm().remove_memory_slot(1)


def test_a_write_to_a_read_only_mapping_is_named() -> None:
    far = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
    with machine_with(WRITE_FAR) as machine:
        machine.core.vm().set_memory_slot(1, FAR, host_address(far), PAGE)
        text = run_or_error(machine)
        assert text is None or f"slot 1, guest {FAR:#x} to {FAR + PAGE:#x}: mapped read-only" in text
        assert far[0] == 0
        machine.core.vm().remove_memory_slot(1)
