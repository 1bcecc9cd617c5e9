"""A process that is killed while it saves: every snapshot is whole, or was never there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import PATIENCE
from vmthaw.errors import VmthawFileExistsError
from vmthaw.machine import Machine

pytestmark = pytest.mark.usefixtures("kvm_available")

SAVER = """
import sys
from vmthaw.machine import Machine
with Machine.restore(sys.argv[1], lazy=False, track_dirty=True) as machine:
    machine.rewrite(9, share=0.2)
    print("ready", flush=True)
    machine.snapshot(sys.argv[2], diff=sys.argv[3] == "diff")
    print("saved", flush=True)
"""

# In the order of saving; the number is that of the call by the thread that makes it.
STEPS = [
    ("flock", 1),
    ("ftruncate", 1),
    ("pwrite64", 1),
    ("pwrite64", 3),
    ("fsync", 1),
    ("rename", 1),
    ("fsync", 2),
    ("fsync", 3),
    ("rename", 2),
    ("fsync", 4),
]


def save_killed_at(call: str, number: int, base: Path, folder: Path, kind: str) -> bool:
    """Whether the kill came; False: the process made no such call."""
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("needs strace, which `make setup` installs")
    done = subprocess.run(
        [
            tracer, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
            "-e", f"inject={call}:signal=KILL:when={number}", sys.executable, "-c", SAVER, base, folder, kind,
        ],
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # which renames files, too
        timeout=120 * PATIENCE,
        check=False,
    )  # fmt: skip
    if b"ready" not in done.stdout:
        pytest.fail(f"the saver did not come so far: {done.stderr.decode()}")
    if b"saved" in done.stdout:
        return False
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    return True


@pytest.mark.parametrize("kind", ["full", "diff"])
@pytest.mark.parametrize(("call", "number"), STEPS)
def test_a_kill_at_any_step_leaves_whole_snapshots(
    call: str, number: int, kind: str, snapshot: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in snapshot.iterdir()}
    folder = tmp_path / "later"
    assert save_killed_at(call, number, snapshot, folder, kind)
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == before
    complete = (folder / "state.bin").exists()
    if complete:
        assert (call, number) in (("rename", 2), ("fsync", 4)), "the state's name came before the rest was safe"
    with Machine.restore(snapshot, lazy=False, check_memory=True, track_dirty=True) as machine:
        machine.rewrite(9, share=0.2)
        if complete:
            with pytest.raises(VmthawFileExistsError):
                machine.snapshot(folder, diff=True)
        else:
            machine.snapshot(folder, diff=kind == "diff")  # what the killed one left is in nobody's way
    memory_file = "memory.diff" if kind == "diff" else "memory.bin"
    assert {path.name for path in folder.iterdir()} == {"state.bin", memory_file}
    with Machine.restore(folder, lazy=False, check_memory=True) as machine:
        machine.verify().check()
        assert len(machine.workload.rewrites) == 2
