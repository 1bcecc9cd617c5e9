"""Puts the doubles of Firecracker and its jailer, and snapshots for them, on disk."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vmthaw
from vmthaw.testing._memory_file import write_memory_file

_FIRST_REGION_BYTES = 3 << 30


@dataclass(frozen=True)
class FirecrackerDouble:
    """Paths of two executables that behave as ``firecracker`` and ``jailer`` towards whoever starts them."""

    firecracker: Path
    jailer: Path


def write_firecracker_double(folder: str | os.PathLike[str]) -> FirecrackerDouble:
    """Writes the executables ``firecracker`` and ``jailer`` into an existing folder.

    They need no KVM and no guest: a process with Firecracker's API on a UNIX socket (order rules, refusals, exit codes)
    that hands a real userfaultfd over, touches pages and compares every byte. The jailer's double needs root.
    """
    package = Path(vmthaw.__file__).parents[1]
    paths = []
    for name, module in (("firecracker", "_firecracker_double"), ("jailer", "_jailer_double")):
        path = Path(folder) / name
        command = f"exec {shlex.quote(sys.executable)} -m vmthaw.testing.{module}"
        search = f"PYTHONPATH={shlex.quote(str(package))}${{PYTHONPATH:+:$PYTHONPATH}}"
        path.write_text(f'#!/bin/sh\nexport {search}\n{command} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
        paths.append(path)
    return FirecrackerDouble(*paths)


def write_double_snapshot(
    folder: str | os.PathLike[str], size: int = 16 << 20, *, memory_path: str | None = None, seed: int = 0, **guest: Any
) -> tuple[Path, Path]:
    """Writes a snapshot that the double of Firecracker restores: ``vmstate`` and ``mem``, whose paths it gives.

    `size` in bytes, a multiple of 4096. `memory_path` is where the process finds the memory file that it compares with
    (in a jail: inside). `guest`: ``reads`` (pages, default all), ``writes`` (page numbers), ``seed``, ``powers_off``,
    ``dies_at_load``, ``handover`` (arguments for `FakeVmm.handover`).
    """
    state, memory = Path(folder) / "vmstate", Path(folder) / "mem"
    write_memory_file(memory, size, zero_share=0.5, seed=seed)
    regions = [[min(size, _FIRST_REGION_BYTES), 0]]
    if size > _FIRST_REGION_BYTES:
        regions.append([size - _FIRST_REGION_BYTES, _FIRST_REGION_BYTES])
    spec = {"regions": regions, "memory": memory_path or str(memory.absolute()), "guest": guest}
    state.write_text(json.dumps(spec), encoding="utf-8")
    return state, memory
