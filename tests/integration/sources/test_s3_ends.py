"""Memories whose size is no multiple of a page, in a real S3 server: read, packed, unpacked, restored from there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.s3_server import S3Server
from tests.support.source_ends import LAST, PAGE, SIZE, same_ends
from vmthaw import FileSource, ObjectStoreSource, PackedStoreSource, PageServer, PageSource
from vmthaw.cli import cli
from vmthaw.testing import FakeVmm

pytestmark = pytest.mark.timeout(60, func_only=True)

STORE = "s3://snapshots/packed"
Open = Callable[..., PageSource]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vm.mem"
    path.write_bytes(os.urandom(SIZE))
    return path


def run(*words: str | Path) -> None:
    done = CliRunner().invoke(cli, ["snapshot", *map(str, words)], prog_name="vmthaw")
    assert done.exit_code == 0, done.stderr


@pytest.fixture(params=["an object", "packed", "packed from the object"])
def opener(request: pytest.FixtureRequest, s3: S3Server, file: Path) -> Open:
    url = s3.put("vm.mem", file.read_bytes())
    if request.param == "an object":
        return lambda **options: ObjectStoreSource(url, chunk=2 * PAGE, **options)
    run("pack", url if "object" in request.param else file, STORE, "--name", "one", "--chunk-kib", "8")
    return lambda **options: PackedStoreSource(STORE, "one", **options)


def test_the_rest_of_the_last_page_is_zeros(opener: Open, file: Path) -> None:
    with FileSource(file) as expected, opener() as source:
        same_ends(source, expected)


def test_what_is_cached_on_disk_is_all_that_a_restore_asks_for(opener: Open, file: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with opener(disk=tmp_path / "cache") as source:
            assert isinstance(source, ObjectStoreSource | PackedStoreSource)
            assert source.read(0, LAST + PAGE) == file.read_bytes().ljust(LAST + PAGE, b"\0")
            asked = source.stats.requests
    assert asked == 0


def test_a_memory_comes_back_as_long_as_it_was(s3: S3Server, file: Path, tmp_path: Path) -> None:
    url = s3.put("vm.mem", file.read_bytes())
    run("pack", file, STORE, "--name", "two", "--chunk-kib", "4")
    for words in ((STORE, "two"), (f"packed:{STORE}#two",), (url,)):
        run("unpack", *words, tmp_path / "back", "--force")
        assert (tmp_path / "back").read_bytes() == file.read_bytes()
    run("verify", STORE)


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_guest_is_restored_to_its_last_page(opener: Open, file: Path, tmp_path: Path, tmp_socket: Path) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(file.read_bytes().ljust(LAST + PAGE, b"\0"))
    with opener() as source, PageServer(tmp_socket, source) as server, FakeVmm(whole) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch().check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
