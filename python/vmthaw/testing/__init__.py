"""Test helpers for whoever restores VMs through vmthaw: a VMM stand-in, memory files, the textbook page server.

`FakeVmm` does to a page server what Firecracker does (maps memory, hands its userfaultfd over, touches, removes, dies)
in a process of its own, and checks every byte against the memory file by its own reading. So an orchestrator can be
tested without Firecracker, KVM or a guest.

    with FakeVmm("memory.bin") as vmm:
        vmm.handover("/run/vmthaw/vm.sock")
        vmm.touch("random", seed=1).check()
        vmm.verify(only_touched=False).check()

For the whole of Firecracker, its API and its jailer too, `write_firecracker_double` writes executables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmthaw.testing._double_files import FirecrackerDouble, write_double_snapshot, write_firecracker_double
    from vmthaw.testing._fake_vmm import FakeVmm
    from vmthaw.testing._fake_vmm_host import FakeVmmHost
    from vmthaw.testing._memory_file import write_memory_file
    from vmthaw.testing._reports import FakeVmmDiedError, FindingsError, Mismatch, Report, StormReport, TouchReport
    from vmthaw.testing._textbook import TextbookServer

__all__ = [
    "FakeVmm",
    "FakeVmmDiedError",
    "FakeVmmHost",
    "FindingsError",
    "FirecrackerDouble",
    "Mismatch",
    "Report",
    "StormReport",
    "TextbookServer",
    "TouchReport",
    "write_double_snapshot",
    "write_firecracker_double",
    "write_memory_file",
]

# The child process imports this package too and needs none of these: looked up on first use (PEP 562).
_HOMES = {
    "FakeVmm": "_fake_vmm",
    "FakeVmmHost": "_fake_vmm_host",
    "TextbookServer": "_textbook",
    "write_memory_file": "_memory_file",
    "FirecrackerDouble": "_double_files",
    "write_double_snapshot": "_double_files",
    "write_firecracker_double": "_double_files",
    "FakeVmmDiedError": "_reports",
    "FindingsError": "_reports",
    "Mismatch": "_reports",
    "Report": "_reports",
    "StormReport": "_reports",
    "TouchReport": "_reports",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
