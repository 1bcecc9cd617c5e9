"""Model-specific registers that KVM leaves to user space (KVM_CAP_X86_USER_SPACE_MSR), by a live guest."""

from __future__ import annotations

import fcntl
import struct

import pytest

from tests.integration.kvm.support import CODE, TinyGuest
from tests.integration.kvm.test_run_loop import HLT, LONG
from vmthaw.devices import Buses
from vmthaw.run_loop import RunEndKind, RunLoop
from vmthaw.vcpu import Dispatcher, Exit, ExitActionKind, ExitProfile, GuestArch

pytestmark = pytest.mark.usefixtures("kvm_available")

# Source: include/uapi/linux/kvm.h.
KVM_ENABLE_CAP = 0x4068AEA3
KVM_CAP_X86_USER_SPACE_MSR = 188
UNKNOWN_REGISTER = 2  # KVM_MSR_EXIT_REASON_UNKNOWN
NOBODYS = 0x12345678


@pytest.fixture
def guest() -> TinyGuest:
    # mov $NOBODYS, %ecx; rdmsr; mov $0x9abc, %ax; wrmsr; hlt
    guest = TinyGuest(b"\x66\xb9" + NOBODYS.to_bytes(4, "little") + b"\x0f\x32\xb8\xbc\x9a\x0f\x30" + HLT)
    if guest.kvm.check_extension(KVM_CAP_X86_USER_SPACE_MSR) == 0:
        pytest.skip("this KVM leaves no model-specific register to user space")
    request = struct.pack("<II4Q64x", KVM_CAP_X86_USER_SPACE_MSR, 0, UNKNOWN_REGISTER, 0, 0, 0)
    fcntl.ioctl(guest.vm.fileno(), KVM_ENABLE_CAP, request)
    return guest


def test_a_read_and_a_write_come_out_with_index_value_and_reason(guest: TinyGuest) -> None:
    read = guest.vcpu.run(LONG)
    assert (read.name, read.reason) == ("X86_RDMSR", 29)
    assert (read.fields["is_write"], read.fields["index"], read.fields["reason"]) == (False, NOBODYS, UNKNOWN_REGISTER)
    guest.vcpu.drain()
    assert guest.vcpu.regs()["rip"] == CODE + 8
    write = guest.vcpu.run(LONG)
    assert (write.name, write.reason) == ("X86_WRMSR", 30)
    assert write.fields["value"] & 0xFFFF == 0x9ABC
    assert (write.fields["is_write"], write.fields["index"]) == (True, NOBODYS)
    assert guest.vcpu.run(LONG).name == "HLT"


def test_they_end_a_run_unless_a_function_decides(guest: TinyGuest) -> None:
    regs, sregs = guest.vcpu.regs(), guest.vcpu.sregs()
    with RunLoop([guest.vcpu], Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64))) as loop:
        end = loop.run(timeout=LONG)
    assert end.kind is RunEndKind.unhandled
    assert end.exit is not None
    assert end.exit.name == "X86_RDMSR"
    guest.vcpu.drain()
    guest.vcpu.set_sregs(sregs)
    guest.vcpu.set_regs(regs)
    loop = RunLoop([guest.vcpu], Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64)))
    seen: list[int] = []

    @loop.on_reason("X86_RDMSR")
    def read(_found: Exit) -> ExitActionKind:
        return ExitActionKind.continue_

    @loop.on_reason("X86_WRMSR")
    def write(found: Exit) -> ExitActionKind:
        seen.append(found.fields["value"] & 0xFFFF)
        return ExitActionKind.continue_

    with loop:
        assert loop.run(timeout=LONG).kind is RunEndKind.halted
    assert seen == [0x9ABC]
