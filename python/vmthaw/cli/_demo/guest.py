"""Who plays the guest: a real one under KVM, or `FakeVmm`. Everything else of the demo is the same for both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from vmthaw.cli._demo.mutants import Mutant
from vmthaw.cli._demo.plan import Plan
from vmthaw.cli._demo.result import Times
from vmthaw.source import FileSource, PageSource

Way = Path | Literal["eager", "mapping"]
"""A page server's socket, or how memory.bin is used without one."""

Progress = Callable[[float], None]


class Vm(Protocol):
    """A VMM in a process of its own, started and waiting, so that its start is not timed."""

    def restore(self, way: Way) -> Times:
        """Restores the guest and lets it touch its working set. Raises what the guest finds wrong."""

    def memory_bytes(self) -> int:
        """What the VMM uses more than before it restored."""

    def verify(self) -> None:
        """All of the memory, byte for byte, by the guest. Raises what it finds wrong."""


class Guest(Protocol):
    """A guest with a snapshot, of which any number of VMs can be made."""

    title: str
    memory_path: Path

    def prepare(self, plan: Plan, progress: Progress) -> None:
        """Boots, fills its memory, and saves it."""

    def vm(self) -> AbstractContextManager[Vm]:
        """A VM; it is killed at the end."""

    def mutate(self, mutant: Mutant, file: FileSource) -> PageSource | dict[str, Any]:
        """A source that is wrong on purpose, or what the textbook server is told so that it is."""

    def changes(self, mutant: Mutant, file: FileSource) -> dict[int, bytes]:
        """Which pages (by offset) a source that is wrong in this way has otherwise."""
