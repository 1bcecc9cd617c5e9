"""Fixtures of the sources' tests: a real S3 server, memories on a disk and on a mount that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_files import MountedFaults
from tests.support.file_kinds import CONTENT, Place
from tests.support.kernel_probes import why_no_fuse
from tests.support.s3_server import S3Server
from tests.support.versitygw import NoVersitygwError, versitygw
from vmthaw import FileSource
from vmthaw.fuse import FuseServer


@pytest.fixture(scope="session")
def s3_program() -> Path:
    """The program versitygw, made if need be, or a skip where there is no Go. It takes minutes to make: mark tests with
    ``timeout(..., func_only=True)``."""
    pytest.importorskip("obstore")
    try:
        return versitygw()
    except NoVersitygwError as error:
        pytest.skip(str(error))


@pytest.fixture
def s3(s3_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of the test's own, which the environment names with its credentials."""
    directory = tmp_path / "s3"
    directory.mkdir()
    with S3Server(s3_program, directory) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def on_disk(tmp_path: Path) -> Place:
    def place(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return place


@pytest.fixture
def good(tmp_path: Path) -> Iterator[FileSource]:
    path = tmp_path / "good"
    path.write_bytes(CONTENT)
    with FileSource(path) as source:
        yield source


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[MountedFaults]:
    if reason := why_no_fuse():
        pytest.skip(reason)
    where = tmp_path / "mount"
    where.mkdir()
    made = MountedFaults(where)
    with FuseServer(made.fs, where, entry_timeout=0, attr_timeout=0):
        try:
            yield made
        finally:
            made.fs.let_go.set()
