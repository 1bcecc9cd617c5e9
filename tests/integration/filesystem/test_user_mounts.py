"""Mounts of a user without rights, by fusermount3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.filesystem.actors import USER
from tests.integration.filesystem.conftest import our_mounts

pytestmark = pytest.mark.usefixtures("fuse_available")


def is_mounted(where: Path) -> bool:
    return str(where.resolve()) in our_mounts()


@pytest.fixture
def everybody_may_open_fuse(root_user: None) -> Iterator[None]:
    """As udev has it: /dev/fuse may be opened by all. A bare machine's devtmpfs has it for root alone."""
    mode = os.stat("/dev/fuse").st_mode
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", mode & 0o777)


def test_an_ordinary_user_mounts_by_fusermount3(tmp_path: Path, everybody_may_open_fuse: None) -> None:
    if shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3 of the package fuse3")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    where = tmp_path / "mount"
    where.mkdir()
    os.chown(where, USER, USER)
    code = """
import os, sys
from vmthaw.fuse import FuseServer, MemoryFs
uid = int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
with FuseServer(MemoryFs(root_uid=uid, root_gid=uid), sys.argv[1], guard=False, fsname="a, b") as server:
    with open(sys.argv[1] + "/file", "w") as file:
        file.write("text")
    print(open(sys.argv[1] + "/file").read(), server._core.by_fusermount, os.stat(sys.argv[1]).st_uid == uid)
    print([line for line in open("/proc/mounts") if sys.argv[1] in line])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(where), str(USER)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("text True True\n")
    assert "fuse.vmthaw" in done.stdout
    assert not is_mounted(where)


def test_a_user_without_rights_is_told_why(tmp_path: Path, everybody_may_open_fuse: None) -> None:
    if shutil.which("fusermount3") is None:
        pytest.skip("needs fusermount3 of the package fuse3")
    where = tmp_path / "mount"
    where.mkdir()
    code = """
import os, sys
from vmthaw.fuse import FuseServer, MemoryFs
os.chdir(sys.argv[1]); uid = int(sys.argv[2])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
try:
    FuseServer(MemoryFs(), ".").start()
except OSError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(where), str(USER)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "PermissionError" in done.stdout, done.stderr
    assert not is_mounted(where)
