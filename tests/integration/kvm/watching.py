"""Guests with watchpoints and a run loop."""

from __future__ import annotations

import select

from tests.integration.kvm.support import CODE, TinyGuest
from tests.support.eventually import PATIENCE
from vmthaw.devices import Buses
from vmthaw.run_loop import RunEndKind, RunLoop
from vmthaw.vcpu import Dispatcher, ExitProfile, GuestArch
from vmthaw.watchpoints import WatchBackend, WatchEvent, Watchpoints

LONG = 30.0 * PATIENCE
HLT = b"\xf4"
DATA = 0x4000


def store32(place: int, value: int) -> bytes:
    """movl $value, place"""
    return b"\x66\xc7\x06" + place.to_bytes(2, "little") + value.to_bytes(4, "little")


def store8(place: int, value: int) -> bytes:
    """movb $value, place"""
    return b"\xc6\x06" + place.to_bytes(2, "little") + bytes([value])


class WatchedGuest(TinyGuest):
    """A guest with watchpoints and a run loop."""

    def __init__(self, code: bytes, *, backend: WatchBackend | None = None, vcpus: int = 1) -> None:
        super().__init__(code)
        self.vcpus = [self.vcpu, *(self.vm.create_vcpu(index) for index in range(1, vcpus))]
        zeroed = {f"{segment}.{part}": 0 for segment in ("cs", "ds", "es", "ss") for part in ("selector", "base")}
        for vcpu in self.vcpus[1:]:
            vcpu.set_sregs(zeroed)
            vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2})
        self.watchpoints = Watchpoints(self.vcpus, memory=self.memory, vm=self.vm, backend=backend)
        self.loop = RunLoop(
            self.vcpus, Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64)), watchpoints=self.watchpoints
        )

    def halt(self) -> list[WatchEvent]:
        """Runs to the HLT."""
        with self.loop:
            assert self.loop.run(timeout=LONG).kind is RunEndKind.halted
        return self.watchpoints.take_events()


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])
