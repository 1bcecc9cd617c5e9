"""Records the traces that `vmthaw.trace.example()` opens: two restores of one snapshot, the second with the first's
working set. The VM is a `FakeVmm` that behaves as a small service does: it wakes up, loads its program, fills its heap,
answers requests and gives memory back. Needs userfaultfd; run it as ``python scripts/record_example.py [DIRECTORY]``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from vmthaw import FileSource, MemoryLayout, PageServer, Trace, TraceRecorder, WorkingSet
from vmthaw.testing import FakeVmm, write_memory_file

MEMORY_BYTES = 256 << 20
MIB = 256  # pages
DATA = Path(__file__).parents[1] / "python" / "vmthaw" / "data"


def live(vmm: FakeVmm, seed: int) -> None:
    """What the guest does; `seed` changes what differs from one run to the next."""
    vmm.touch("subset", pages=24 * MIB, count=260, seed=7).check()  # the kernel wakes up
    vmm.touch("subset", pages=24 * MIB, count=40, seed=seed).check()
    time.sleep(0.004)
    vmm.touch("sequential", first_page=40 * MIB, pages=10 * MIB).check()  # the program is read
    time.sleep(0.003)
    vmm.touch("zipf", first_page=96 * MIB, pages=48 * MIB, count=1100, skew=0.7, seed=9, write=True, threads=2).check()
    for request in range(6):
        time.sleep(0.006)
        vmm.touch("subset", first_page=96 * MIB, pages=96 * MIB, count=36, seed=100 + request, write=True).check()
        vmm.touch("subset", first_page=200 * MIB, pages=48 * MIB, count=12, seed=seed + request).check()
    vmm.remove([(176 * MIB, 8 * MIB)]).check()  # the balloon takes memory back
    time.sleep(0.004)
    vmm.touch("subset", first_page=176 * MIB, pages=8 * MIB, count=24, seed=3, write=True).check()


def record(directory: Path, path: Path, seed: int, title: str, working_set: WorkingSet | None) -> Trace:
    """One restore."""
    memory = directory / "memory"
    with (
        FileSource(memory) as source,
        PageServer(directory / "s", source, layout=MemoryLayout.x86_64(), working_set=working_set) as server,
        TraceRecorder(path, server, overwrite=True, notes={"title": title, "recorded with": "vmthaw.testing.FakeVmm"}),
        FakeVmm(memory, features=["thread_id"]) as vmm,
    ):
        vmm.handover(directory / "s")
        live(vmm, seed)
    return Trace.open(path)


def main() -> None:
    """Into the directory given, or where the package has them."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_memory_file(directory / "memory", MEMORY_BYTES, zero_share=0.4, seed=1)
        (directory / "memory").read_bytes()  # into the page cache, as after a first VM of the same snapshot
        first = record(directory, out / "first_restore.parquet", 20, "first restore", None)
        pages = WorkingSet.from_trace(first, include=("demand", "fault_around"))
        second = record(directory, out / "second_restore.parquet", 60, "restore with a working set", pages)
    for trace in (first, second):
        assert trace.path is not None
        print(f"{trace.path} ({trace.path.stat().st_size} bytes)\n{trace.summary()}\n")


if __name__ == "__main__":
    main()
