"""Mounts for the tests, and the check that none is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.filesystem.actors import GROUP, OTHER_GROUP, OTHER_USER, SECOND_GROUP, USER, Actor
from tests.support.kernel_probes import why_no_fuse
from vmthaw.fuse import FuseServer, MemoryFs, PassthroughFs


def our_mounts() -> list[str]:
    """Where vmthaw's file systems are mounted now."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.split(" ")[4] for line in lines if " - fuse.vmthaw " in line]


@pytest.fixture(scope="session")
def fuse_available() -> None:
    """Skip where nothing can be mounted."""
    if reason := why_no_fuse():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def root_user() -> None:
    """Skip where files cannot be given to other users."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to act as several users")


@pytest.fixture(scope="session", autouse=True)
def no_mount_is_left() -> Iterator[None]:
    """Every test unmounts; nothing of ours is mounted at the end that was not at the beginning."""
    before = our_mounts()
    yield
    left = [where for where in our_mounts() if where not in before]
    for where in left:
        subprocess.run(["umount", "-l", where], check=False)
    assert not left


@pytest.fixture(scope="session", params=["host", "passthrough", "memory"])
def tree(request: pytest.FixtureRequest, fuse_available: None) -> Iterator[Path]:
    """A directory in which everybody may make files: on the host (which shows that the checks are right), in a mounted
    PassthroughFs, in a mounted MemoryFs."""
    base = Path(tempfile.mkdtemp(prefix="vmt-fs-"))
    base.chmod(0o755)
    try:
        backing = base / "backing"
        backing.mkdir()
        backing.chmod(0o777)
        if request.param == "host":
            yield backing
        else:
            where = base / "mount"
            where.mkdir()
            served = PassthroughFs(backing) if request.param == "passthrough" else MemoryFs(root_mode=0o777)
            with FuseServer(served, where, allow_other=os.geteuid() == 0, devices=True, set_uid=True):
                yield where
            assert (served.held_nodes, served.open_handles) == (0, 0)
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def place(tree: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of the test's own, mode 0777."""
    path = Path(tempfile.mkdtemp(prefix="t-", dir=tree))
    path.chmod(0o777)
    yield path
    subprocess.run(["rm", "-rf", "--", str(path)], check=True)


@pytest.fixture(scope="session")
def root(root_user: None) -> Iterator[Actor]:
    """The superuser."""
    with Actor(0, 0) as actor:
        yield actor


@pytest.fixture(scope="session")
def user(root_user: None) -> Iterator[Actor]:
    """A user without rights, of one more group."""
    with Actor(USER, GROUP, [SECOND_GROUP]) as actor:
        yield actor


@pytest.fixture(scope="session")
def other(root_user: None) -> Iterator[Actor]:
    """Another one."""
    with Actor(OTHER_USER, OTHER_GROUP) as actor:
        yield actor
