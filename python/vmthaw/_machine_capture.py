"""What a machine that stands still holds: registers, virtual memory, core dumps."""

from __future__ import annotations

import os

from vmthaw import _core
from vmthaw._core import CoreAddresses, CoreDumpReport, FullRegisters, GuestMemory


class MachineCapture:
    """Looks at vCPUs that do not run."""

    _memory: GuestMemory
    _vcpu_count: int

    def _core_or_raise(self) -> _core.MachineCore:
        raise NotImplementedError

    def _frozen_hold(self) -> _core.MachineHold | None:
        """The hold of a run whose vCPUs are frozen."""
        raise NotImplementedError

    def registers(self, vcpu: int = 0) -> FullRegisters:
        """Everything that a vCPU holds, after its last instruction is complete. StateError while it runs unfrozen."""
        return self._core_or_raise().capture_full(vcpu, self._frozen_hold())

    def read_guest_virtual(self, address: int, size: int, *, vcpu: int = 0, timeout: float = 30.0) -> bytes:
        """Memory as the page tables of a vCPU show it now. As `registers`; TranslationError where they show nothing."""
        return _core.read_guest_virtual(self.registers(vcpu).paging_state(), self._memory, address, size, timeout)

    def write_core_dump(
        self,
        path: str | os.PathLike[str],
        *,
        addresses: CoreAddresses = CoreAddresses.guest_virtual,
        timeout: float = 60.0,
    ) -> CoreDumpReport:
        """Writes an ELF core file for gdb, by the guest's virtual addresses or by physical ones.

        Zero pages are holes; each vCPU has its notes.
        `path` must not exist (FileExistsError). Pages that are missing in a lazily restored guest are fetched.
        """
        registers = [self.registers(vcpu) for vcpu in range(self._vcpu_count)]
        return _core.write_core_dump(os.fspath(path), self._memory, registers, addresses, timeout)
