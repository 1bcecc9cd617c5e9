"""`vmthaw snapshot merge` on file systems that share data between files: nothing is copied."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmthaw._snapshot_merge import merge
from vmthaw.source import FileSource, SparseDiffSource

PAGE = 4096
_MEMORY = 32 << 20
_VOLUME = 512 << 20  # mkfs.xfs wants 300 MiB; sparse


@pytest.fixture(params=["xfs", "btrfs"])
def sharing_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A new file system of that kind on a loop device."""
    kind = request.param
    make = shutil.which(f"mkfs.{kind}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip(f"no mkfs.{kind}")
    if os.geteuid() != 0:
        pytest.skip("mounting a loop device needs root")
    volume, folder = tmp_path / "volume", tmp_path / "mounted"
    with volume.open("wb") as file:
        file.truncate(_VOLUME)
    folder.mkdir()
    subprocess.run([make, "-q", volume], check=True, timeout=60, stdout=subprocess.DEVNULL)
    mounted = subprocess.run(
        ["mount", "-o", "loop", volume, folder], check=False, timeout=60, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no {kind} on a loop device here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)


def _layer(path: Path, chance: random.Random, size: int, share: float) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for start in range(0, size, 16 * PAGE):
            if chance.random() < share:
                file.seek(start)
                file.write(chance.randbytes(min(16 * PAGE, size - start)))
    return path


def _used_bytes(folder: Path) -> int:
    subprocess.run(["sync", "--file-system", folder], check=True, timeout=60)
    state = os.statvfs(folder)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


@pytest.mark.parametrize("short", [0, 1000], ids=["whole-pages", "cut-page"])
def test_a_merge_shares_all_its_data(sharing_folder: Path, short: int) -> None:
    chance = random.Random(short)
    base = _layer(sharing_folder / "base", chance, _MEMORY - short, 0.9)
    diffs = [_layer(sharing_folder / f"diff-{number}", chance, _MEMORY - short, 0.1) for number in range(2)]
    before = _used_bytes(sharing_folder)
    done = merge(base, diffs, sharing_folder / "out")
    assert done.data > _MEMORY // 2
    assert _used_bytes(sharing_folder) - before < done.data // 16
    with SparseDiffSource(FileSource(base), diffs) as expected:
        assert (sharing_folder / "out").read_bytes() == expected.read(0, expected.size)
