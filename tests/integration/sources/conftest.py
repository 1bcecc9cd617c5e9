"""Fixtures of the sources' tests: a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3_server import S3Server
from tests.support.versitygw import NoVersitygwError, versitygw


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
