"""A snapshot on disk and what it lies over: the chain that a restore reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vmthaw._core import MachineState
from vmthaw.errors import SnapshotError
from vmthaw.source import FileSource, PageSource, SparseDiffSource


def snapshot_error(field: str, text: str) -> SnapshotError:
    """What is wrong with a snapshot, by its field."""
    error = SnapshotError(f"the snapshot cannot be restored: {text}")
    error.field = field
    return error


@dataclass(frozen=True)
class SavedSnapshot:
    """One directory of a chain."""

    folder: Path
    state: MachineState

    @property
    def memory_file(self) -> Path:
        """memory.bin of a full snapshot, memory.diff of a diff."""
        return self.folder / ("memory.diff" if self.state.depth else "memory.bin")

    def check_memory_size(self) -> None:
        """Raises FileNotFoundError, SnapshotError."""
        found = self.memory_file.stat().st_size
        if found != self.state.memory_size:
            raise snapshot_error(
                "memory size", f"{self.memory_file} has {found} bytes instead of {self.state.memory_size}"
            )


class SnapshotChain:
    """A full snapshot and the diffs over it, the oldest first; the last one's state is the machine's."""

    def __init__(self, snapshots: list[SavedSnapshot]) -> None:
        self.snapshots = snapshots

    @classmethod
    def load(cls, directory: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> SnapshotChain:
        """Reads and checks all states. `base` is where the diff's base is now, when it is not where it was.

        Raises OSError, and SnapshotError: `field` is ``base`` when a base is another snapshot than the diff's.
        """
        folder = Path(directory)
        snapshots = [SavedSnapshot(folder, MachineState.load(os.fspath(folder)))]
        if base is not None and not snapshots[0].state.depth:
            raise snapshot_error("base", f"{folder} is a full snapshot; it lies over no base")
        while (state := snapshots[-1].state).depth:
            folder = Path(base) if base is not None else snapshots[-1].folder / os.fsdecode(state.base_path)
            base = None
            snapshots.append(_base_of(snapshots[-1], folder))
        return cls(snapshots[::-1])

    @property
    def state(self) -> MachineState:
        """Of the machine."""
        return self.snapshots[-1].state

    @property
    def folder(self) -> Path:
        """Of the last snapshot."""
        return self.snapshots[-1].folder

    @property
    def full(self) -> SavedSnapshot:
        """What all diffs lie over."""
        return self.snapshots[0]

    @property
    def diffs(self) -> list[SavedSnapshot]:
        """The oldest first."""
        return self.snapshots[1:]

    def check_memory_sizes(self) -> None:
        """Of all memory files. Raises FileNotFoundError, SnapshotError."""
        for snapshot in self.snapshots:
            snapshot.check_memory_size()

    def open_source(self) -> PageSource:
        """The machine's memory, of whatever files. Raises FileNotFoundError, SnapshotError, SourceOpenError."""
        self.check_memory_sizes()
        base = FileSource(self.full.memory_file)
        if not self.diffs:
            return base
        return SparseDiffSource(
            base,
            [diff.memory_file for diff in self.diffs],
            [diff.state.changed_pages for diff in self.diffs],
        )


def _base_of(diff: SavedSnapshot, folder: Path) -> SavedSnapshot:
    wanted = diff.state
    try:
        state = MachineState.load(os.fspath(folder))
    except FileNotFoundError as error:
        raise snapshot_error(
            "base",
            f"the base of the diff {diff.folder}, snapshot {wanted.base_id}, is not at {folder}; "
            "say where it is with base=",
        ) from error
    except SnapshotError as error:
        raise snapshot_error(error.field, f"{folder}, the base of the diff {diff.folder}: {error}") from error
    if not wanted.lies_over(state):
        changed = "it was changed since" if state.id == wanted.base_id else f"it is snapshot {state.id}"
        raise snapshot_error("base", f"{folder} is not the base of the diff {diff.folder}, {wanted.base_id}: {changed}")
    if state.depth != wanted.depth - 1:
        raise snapshot_error(
            "base", f"the diff {diff.folder} is {wanted.depth} snapshots deep, its base {folder} {state.depth}"
        )
    if state.memory_size != wanted.memory_size:
        raise snapshot_error(
            "base",
            f"the memory of {folder} has {state.memory_size} bytes, that of {diff.folder} {wanted.memory_size}",
        )
    return SavedSnapshot(folder, state)
