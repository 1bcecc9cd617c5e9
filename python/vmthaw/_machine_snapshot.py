"""Saving and restoring a machine: full snapshots and diffs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from vmthaw import _core
from vmthaw._core import ExitProfile, GuestMemory, PageSource
from vmthaw._lazy_memory import LazyMemory
from vmthaw._machine_run import MachineRun
from vmthaw._snapshot_chain import SnapshotChain, snapshot_error
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.machine_values import Workload

if TYPE_CHECKING:
    from vmthaw.source import PythonSource

Lazy = bool | Literal["mapping"] | str | os.PathLike[str]

_FREEZE_S = 30.0


def memory_source(directory: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None) -> PageSource:
    """The memory of a snapshot, for a `PageServer`: a `FileSource`, or a `SparseDiffSource` over the base of a diff.

    `base` is where a diff's base is, when it is not where it was. Raises OSError, SnapshotError, SourceOpenError.
    """
    return SnapshotChain.load(directory, base).open_source()


class MachineSnapshot(MachineRun):
    """What `Machine` saves itself with."""

    _memory: GuestMemory
    _workload: Workload
    _lazy: LazyMemory | None
    _pause_ns: int | None = None
    _saving = False

    def _init(
        self,
        memory: GuestMemory,
        vcpus: int,
        profile: ExitProfile = ExitProfile.strict,
        exit_records: int = 0,
        irqchip: bool = False,
        dirty_ring: int = 0,
    ) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    @property
    def dirty_tracking(self) -> str:
        """How the guest's writes are known: ``none`` (yet), ``manual_log``, ``log`` (older kernels) or ``ring``."""
        return self._core_or_raise().dirty_tracking

    @property
    def snapshot_pause_ns(self) -> int | None:
        """How long the guest stood still for the last snapshot, in nanoseconds; None before one."""
        return self._pause_ns

    def snapshot(self, directory: str | os.PathLike[str], diff: bool = False, *, timeout: float = 60.0) -> Path:
        """Saves the guest, also in the middle of a command or a run, as memory.bin and state.bin in `directory`.

        `diff` saves, as memory.diff, only pages written since the last snapshot, or since the one that the machine was
        restored from with ``track_dirty=True`` (StateError without either). From its first snapshot on a machine's
        writes are tracked, which costs it a fault for each page that it writes for the first time since.

        A running guest is frozen until its memory is written; what takes the disk to have it comes after the thaw. The
        directory is made when it is missing; one that holds a snapshot is refused (FileExistsError). Files appear whole
        or not at all, whenever this process dies. Pages that are missing in a lazily restored guest are fetched. Zero
        pages become holes. One thread at a time saves (StateError); a vCPU within a device access of several parts must
        come to its end first (StateError). Raises FreezeTimeoutError, TimeoutError, OSError.
        """
        deadline = time.monotonic() + timeout
        core = self._core_or_raise()
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        writer = _core.SnapshotWriter(core, os.fspath(folder), self._workload.as_tuple(), diff)
        try:
            start = time.monotonic_ns()
            with self._standing_still(min(timeout, _FREEZE_S)) as hold:
                writer.write(hold, _left(deadline))
            pause_ns = time.monotonic_ns() - start
            writer.commit(_left(deadline))
        except BaseException:
            writer.abandon()
            raise
        self._pause_ns = pause_ns
        return folder

    def capture_state(self) -> bytes:
        """What `snapshot` writes into state.bin, and no memory: for a migration that brings the memory afterwards.

        The guest must stand still and stay so (`freeze` one that runs, StateError): whoever goes on from the state
        needs the memory as it is now, as `open_memory` gives it. Raises OSError.
        """
        hold = self._frozen_hold()
        if hold is None and self.running:
            raise StateError("the guest runs; freeze it first, and leave it frozen: it goes on elsewhere")
        return _core.capture_state(self._core_or_raise(), hold, self._workload.as_tuple())

    def open_memory(self, *, threads: int = 2) -> PythonSource:
        """The guest's memory as a source, with the offsets of a memory file, for a `PageExporter`.

        Of a guest that stands still. Close it before the machine. Pages that are missing here are fetched.
        """
        from vmthaw.source import PythonSource

        memory = self._memory
        regions = [(offset, guest, size) for _, guest, size, offset in memory.regions]

        def read(offset: int, size: int) -> bytes:
            parts = [
                memory.read(guest + max(offset - begin, 0), min(begin + length, offset + size) - max(begin, offset))
                for begin, guest, length in regions
                if begin < offset + size and offset < begin + length
            ]
            return b"".join(parts)

        return PythonSource(read, memory.size, threads=threads, name="guest memory")

    def pull_memory(self, *, timeout: float = 60.0) -> None:
        """Has all pages that are still missing of a lazily restored guest fetched: it needs its source no longer.

        The guest may run meanwhile. Only where this process serves it (``lazy=True`` or a source), else StateError.
        What cannot be had in `timeout` seconds is poisoned; then PageFailedError.
        """
        self._core_or_raise()
        if self._lazy is None or self._lazy.server is None:
            raise StateError("this process does not serve the machine's memory: nothing can be pulled")
        self._lazy.pull(timeout)

    @contextlib.contextmanager
    def _standing_still(self, timeout: float) -> Iterator[_core.MachineHold | None]:
        """The hold of a run that is frozen meanwhile; None when nothing runs."""
        watchpoints = self._watchpoints
        # Whoever changes a watchpoint freezes the guest for it, and thaws it: not meanwhile, and not beside us.
        with watchpoints.unchanged() if watchpoints is not None else contextlib.nullcontext():
            self._saving = True  # first: whoever finds the guest frozen finds that it stays so
            try:
                if (hold := self._frozen_hold()) is not None:
                    yield hold
                else:
                    with self._frozen_meanwhile(timeout) as own:
                        yield own
            finally:
                self._saving = False

    @contextlib.contextmanager
    def _frozen_meanwhile(self, timeout: float) -> Iterator[_core.MachineHold | None]:
        if self.running:
            try:
                self.freeze(timeout=timeout)
            except StateError:
                if self.running:
                    raise
        if (hold := self._frozen_hold()) is None:
            if self._hold is not None:
                self._let_go()  # a run that ended, perhaps just now
            yield None
            return
        try:
            yield hold
        finally:
            try:
                super().thaw()
            except StateError:
                if self.running:
                    raise

    def thaw(self) -> None:
        """Lets frozen vCPUs go on. StateError while a snapshot is made of what they stand at."""
        if self._saving:
            raise StateError("a snapshot is made of the frozen machine; thaw it when `snapshot` is done")
        super().thaw()

    @classmethod
    def restore(
        cls,
        directory: str | os.PathLike[str],
        *,
        lazy: Lazy | PageSource = True,
        check_memory: bool = False,
        timeout: float = 60.0,
        track_dirty: bool = False,
        base: str | os.PathLike[str] | None = None,
        profile: ExitProfile = ExitProfile.strict,
        exit_records: int = 0,
        dirty_ring: int = 0,
    ) -> Self:
        """A machine as `snapshot` saved it. Of a diff, the snapshots that it lies over are read too.

        `lazy`: False reads the memory files; ``"mapping"`` maps memory.bin privately and reads diffs over it; True
        serves pages from a `PageServer` of this process; a path hands the memory's userfaultfd to the page server that
        listens there (of `memory_source`), as Firecracker does, and opens no memory file; a `PageSource` is served as
        with True, and must outlive the machine or `pull_memory`. `check_memory` (with
        ``lazy=False``) compares each file with its fingerprint in the state.

        `track_dirty` makes the first snapshot of this machine possible as a diff over this one. `base` is where a
        diff's base is, when it is not where it was. `profile`, `exit_records` and `dirty_ring` as in `Machine`.
        Raises SnapshotError, whose `field` names what is wrong (``base``: another snapshot than the diff's), and
        OSError.
        """
        if check_memory and lazy is not False:
            raise VmthawValueError("check_memory reads all memory files: it goes with lazy=False only")
        chain = SnapshotChain.load(directory, base)
        state = chain.state
        if lazy == "mapping":
            chain.check_memory_sizes()
            memory = GuestMemory.map_file(os.fspath(chain.full.memory_file), state.memory_size)
        else:
            memory = GuestMemory.anonymous(state.memory_size)
        machine = cls.__new__(cls)
        machine._init(memory, state.vcpu_count, profile, exit_records, state.has_irqchip, dirty_ring)
        try:
            if lazy is False:
                _read_all(memory, chain, check_memory, timeout)
            elif lazy == "mapping":
                for snapshot in chain.diffs:
                    _core.read_changed_pages(memory, snapshot.state, os.fspath(snapshot.memory_file), timeout)
            elif lazy is True:
                source = chain.open_source()
                machine._lazy = LazyMemory.serve_here(memory, source, label=os.fspath(chain.folder))
            elif isinstance(lazy, PageSource):
                machine._lazy = LazyMemory.serve_here(memory, lazy, label=lazy.description)
            else:
                machine._lazy = LazyMemory.hand_over(memory, lazy, timeout)
            machine._core_or_raise().restore(state)
            if track_dirty:
                machine._core_or_raise().begin_tracking(state, os.path.realpath(chain.folder))
        except BaseException:
            machine.close()
            raise
        seed, zero_share, rewrites = state.workload
        machine._workload = Workload(seed, zero_share, tuple(rewrites))
        return machine


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _read_all(memory: GuestMemory, chain: SnapshotChain, check: bool, timeout: float) -> None:
    chain.check_memory_sizes()
    for snapshot in chain.snapshots:
        file = os.fspath(snapshot.memory_file)
        if snapshot.state.depth:
            _core.read_changed_pages(memory, snapshot.state, file, timeout)
        else:
            _core.read_memory_file(memory, file, timeout)
        if check and not _core.has_content(memory, snapshot.state, timeout):
            raise snapshot_error("memory fingerprint", f"{file} is not the memory that was saved")
