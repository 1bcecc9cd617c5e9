"""Freeze all vCPUs of a guest between two instructions, look at it, let it go on.

Each vCPU runs on a thread of its own::

    def run_vcpu(index: int) -> None:
        with coordinator.attach(index) as thread:
            while (exit := thread.run(timeout=None)) is not None:
                ...  # answer the exit

    coordinator = FreezeCoordinator(vcpus)
    ...
    snapshots = coordinator.freeze(timeout=30.0)
    ...  # nobody runs
    coordinator.thaw()

A vCPU parks between two exits: one whose thread is busy with an exit for longer than the time-out is named by
FreezeTimeoutError, and the others go on.
"""

from __future__ import annotations

from vmthaw._core import FreezeCoordinator, VcpuThread

__all__ = ["FreezeCoordinator", "VcpuThread"]
