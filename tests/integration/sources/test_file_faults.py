"""Files that are cut, grow, are replaced, fail in the middle or cannot be opened, below every source that reads files.

Each time: the page that cannot be had ends by the policy and is named, other pages and other VMs go on, and whatever is
read is right.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.support.faulty_files import MountedFaults
from tests.support.faulty_restore import PAGE, PAGES, FaultyRestore, assert_says
from tests.support.file_kinds import CONTENT, KINDS, Place, opened
from vmthaw import FailurePolicy, FileSource
from vmthaw.errors import SourceOpenError

pytestmark = pytest.mark.usefixtures("userfaultfd_available")

NAMES = [kind.__name__ for kind in KINDS]
POLICIES = [FailurePolicy.kill, FailurePolicy.hang]  # poison is what the other tests here have


@pytest.mark.parametrize("name", NAMES)
def test_an_error_in_the_middle_costs_its_own_pages_alone(
    name: str, mounted: MountedFaults, good: FileSource, tmp_socket: Path
) -> None:
    with opened[name](mounted.place) as built:
        mounted.fail(built.victim, built.at, errno.EIO)
        with FaultyRestore(built.source, good, CONTENT, tmp_socket) as restore:
            said = restore.fail(built.page)
            failed = restore.failing()
            first = built.page // built.chunk * built.chunk
            assert failed >= set(range(first, first + built.chunk))
            assert not failed & set(built.others)
            assert_says(said, *built.said, "cannot read the page" if name == "socket" else "Input/output error")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", NAMES)
def test_an_error_ends_by_the_policy_and_other_faults_go_on(
    name: str, policy: FailurePolicy, mounted: MountedFaults, good: FileSource, tmp_socket: Path
) -> None:
    with opened[name](mounted.place) as built:
        mounted.fail(built.victim, built.at, errno.EIO)
        with FaultyRestore(built.source, good, CONTENT, tmp_socket, policy, retries=2) as restore:
            restore.read(built.others[::7])
            assert_says(restore.fail(built.page), *built.said)
            assert restore.server.stats.failed == 1
            assert restore.server.stats.retried == 2
            if policy is not FailurePolicy.kill:
                restore.read(built.others)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_gives_no_wrong_byte(
    name: str, on_disk: Place, good: FileSource, tmp_path: Path, tmp_socket: Path
) -> None:
    with (
        opened[name](on_disk) as built,
        FaultyRestore(built.source, good, CONTENT, tmp_socket) as restore,
    ):
        restore.read([1])
        os.truncate(tmp_path / built.victim, built.at + 1000)  # the rest of that page reads as zeros now
        time.sleep(0.005)  # the pager looks at a file's size once in a millisecond
        said = restore.fail(built.page)
        restore.failing(range(0, PAGES, 13))  # each is right, or not had
        restore.read([1])
        assert_says(said, built.said[0], built.said[1])
        assert any(word in said.lower() for word in ("short", "cut", "ended early", "cannot read the page")), said


@pytest.mark.parametrize("name", ["base_of_diffs", "diff", "layered"])
def test_of_two_files_that_were_cut_the_one_that_has_the_page_is_named(
    name: str, on_disk: Place, good: FileSource, tmp_path: Path, tmp_socket: Path
) -> None:
    with (
        opened[name](on_disk) as built,
        FaultyRestore(built.source, good, CONTENT, tmp_socket) as restore,
    ):
        files = [tmp_path / file for file in ("base", "diff", "first", "second") if (tmp_path / file).exists()]
        for file in files:
            os.truncate(file, built.at + 1000)
        said = restore.fail(built.page + 1)  # wholly behind the cut: the kernel may find out before we look
        assert [file.name for file in files if f"{file} was cut" in said] == [built.victim], said
        assert f"offset {(built.page + 1) * PAGE:#x}" in said


@pytest.mark.parametrize("name", ["mapped", "diff", "zstd"])
@pytest.mark.parametrize("change", ["grows", "is replaced"])
def test_a_file_that_grows_or_is_replaced_is_served_as_it_was(
    change: str, name: str, on_disk: Place, good: FileSource, tmp_path: Path, tmp_socket: Path
) -> None:
    with (
        opened[name](on_disk) as built,
        FaultyRestore(built.source, good, CONTENT, tmp_socket) as restore,
    ):
        victim = tmp_path / built.victim
        if change == "grows":
            with victim.open("ab") as file:
                file.write(os.urandom(70_000))
        else:
            other = tmp_path / "other"
            other.write_bytes(os.urandom(victim.stat().st_size))
            other.replace(victim)
        restore.read(range(PAGES))
        assert restore.server.failures == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("python", "socket")])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_opened_is_named_with_the_way_out(number: int, name: str, mounted: MountedFaults) -> None:
    victim = {"packed": "packed/snapshots/vm.json", "base_of_diffs": "base", "cached": "memory"}.get(name)
    names: list[str] = []

    def place(file: str, data: bytes) -> Path:
        names.append(file)
        if victim in (None, file):
            mounted.fs.refused[file] = number
        return mounted.place(file, data)

    with pytest.raises(SourceOpenError) as caught, opened[name](place):
        pass
    assert_says(str(caught.value), os.strerror(number), str(mounted.where))
    if number == errno.EACCES:
        assert_says(str(caught.value), "permission")
    assert caught.value.errno == number


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("python", "socket", "packed")])
def test_a_directory_in_the_place_of_a_file_is_named(name: str, tmp_path: Path, on_disk: Place) -> None:
    made: list[Path] = []

    def place(file: str, data: bytes) -> Path:
        path = tmp_path / file
        path.mkdir()
        made.append(path)
        return path

    with pytest.raises(SourceOpenError) as caught, opened[name](place):
        pass
    assert caught.value.errno == errno.EISDIR
    assert any(str(path) in str(caught.value) for path in made)
    assert_says(str(caught.value), "is a directory: give the memory file")
