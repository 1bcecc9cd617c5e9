"""Instructions whose access takes several exits (one carries 8 bytes), completed as far as it goes in between."""

from __future__ import annotations

import pytest

from tests.integration.kvm.support import TinyGuest
from tests.support.eventually import PATIENCE
from vmthaw.devices import Buses
from vmthaw.registers import capture_registers
from vmthaw.run_loop import RunEndKind, RunLoop
from vmthaw.vcpu import Dispatcher, Exit, ExitActionKind, ExitProfile, GuestArch

pytestmark = pytest.mark.usefixtures("kvm_available")

FAR = 0x1000_0000  # where the guest has no memory
HLT = b"\xf4"


class WideGuest(TinyGuest):
    """A guest whose first instruction moves 16 bytes between %xmm0 and FAR + 0x10."""

    def __init__(self, code: bytes) -> None:
        super().__init__(code)
        self.vcpu.set_sregs({"ds.base": FAR, "cr4": self.vcpu.sregs()["cr4"] | 0x600})  # OSFXSR, OSXMMEXCPT
        area = bytearray(self.vcpu.xsave())
        area[160:176] = bytes(range(1, 17))  # xmm0
        area[512] |= 2  # XSTATE_BV: SSE
        self.vcpu.set_xsave(bytes(area))

    def loop(self, *, record_registers: bool = False) -> RunLoop:
        dispatcher = Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64))
        return RunLoop([self.vcpu], dispatcher, exit_records=16, record_registers=record_registers)


# movups %xmm0, 0x10
STORE = b"\x0f\x11\x06\x10\x00" + HLT
# movups 0x10, %xmm0
LOAD = b"\x0f\x10\x06\x10\x00" + HLT


@pytest.mark.parametrize("drained_by", ["records", "a capture", "nothing"])
def test_every_part_of_a_wide_store_comes_out(drained_by: str) -> None:
    guest = WideGuest(STORE)
    stored: dict[int, bytes] = {}
    with guest.loop(record_registers=drained_by == "records") as loop:

        @loop.on_mmio(FAR, FAR + 0xFFF)
        def keep(access: Exit) -> ExitActionKind:
            stored[access.fields["guest_address"]] = access.fields["data"]
            if drained_by == "a capture":
                capture_registers(guest.vcpu)
            return ExitActionKind.continue_

        assert loop.run(timeout=30.0 * PATIENCE).kind is RunEndKind.halted
    assert b"".join(data for _, data in sorted(stored.items())) == bytes(range(1, 17))
    assert min(stored) == FAR + 0x10


def test_every_part_of_a_wide_load_is_answered_though_registers_are_recorded_between() -> None:
    guest = WideGuest(LOAD)
    with guest.loop(record_registers=True) as loop:

        @loop.on_mmio(FAR, FAR + 0xFFF)
        def answer(access: Exit) -> bytes:
            first = access.fields["guest_address"] - FAR
            return bytes(range(first, first + access.fields["size_bytes"]))

        assert loop.run(timeout=30.0 * PATIENCE).kind is RunEndKind.halted
    assert guest.vcpu.xsave()[160:176] == bytes(range(0x10, 0x20))
