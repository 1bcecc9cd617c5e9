"""What every system call that takes a path says about paths that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.filesystem.actors import Actor

LONGEST_NAME = 255
LONGEST_PATH = 4096
EVER = [[1, 0], [2, 0]]

# A call on `path`; `source` is a file that is there, in the same file system.
CALLS: dict[str, Any] = {
    "chmod": lambda path, source: ("chmod", path, 0o644),
    "chown": lambda path, source: ("chown", path, -1, -1),
    "lchown": lambda path, source: ("lchown", path, -1, -1),
    "link_from": lambda path, source: ("link", path, f"{source}.new"),
    "link_to": lambda path, source: ("link", source, path),
    "mkdir": lambda path, source: ("mkdir", path, 0o755),
    "mkfifo": lambda path, source: ("mkfifo", path, 0o644),
    "mknod": lambda path, source: ("mknod", path, 0o100644, 0),
    "open": lambda path, source: ("open", path, os.O_RDONLY),
    "create": lambda path, source: ("open", path, os.O_WRONLY | os.O_CREAT, 0o644),
    "rename_from": lambda path, source: ("rename", path, f"{source}.new"),
    "rename_to": lambda path, source: ("rename", source, path),
    "rmdir": lambda path, source: ("rmdir", path),
    "symlink": lambda path, source: ("symlink", "target", path),
    "truncate": lambda path, source: ("truncate", path, 1),
    "unlink": lambda path, source: ("unlink", path),
    "utimensat": lambda path, source: ("utimensat", path, EVER),
    "readlink": lambda path, source: ("readlink", path),
    "stat": lambda path, source: ("lstat", path),
}
MAKES = {"link_to", "mkdir", "mkfifo", "mknod", "create", "rename_to", "symlink"}


@pytest.fixture(params=CALLS)
def name(request: pytest.FixtureRequest) -> str:
    """A call's name."""
    return str(request.param)


@pytest.fixture
def source(place: Path, root: Actor) -> Path:
    """A file to link and rename."""
    path = place / "source"
    root.value("write_file", path, "source")
    root.value("chmod", path, 0o666)
    return path


def test_a_file_among_the_directories_of_a_path_is_enotdir(place: Path, root: Actor, source: Path, name: str) -> None:
    root.value("write_file", place / "file", "")
    assert root.call(*CALLS[name](str(place / "file" / "below"), source)) == "ENOTDIR"


def test_a_directory_that_is_missing_is_enoent(place: Path, root: Actor, source: Path, name: str) -> None:
    assert root.call(*CALLS[name](str(place / "missing" / "below"), source)) == "ENOENT"


def test_a_name_that_is_missing_is_enoent_unless_the_call_makes_it(
    place: Path, root: Actor, source: Path, name: str
) -> None:
    assert root.call(*CALLS[name](str(place / "missing"), source)) == (None if name in MAKES else "ENOENT")


def test_a_name_of_256_bytes_is_enametoolong(place: Path, root: Actor, source: Path, name: str) -> None:
    assert root.call(*CALLS[name](str(place / ("n" * (LONGEST_NAME + 1))), source)) == "ENAMETOOLONG"


def test_a_name_of_255_bytes_is_not_too_long(place: Path, root: Actor, source: Path, name: str) -> None:
    assert root.call(*CALLS[name](str(place / ("n" * LONGEST_NAME)), source)) == (None if name in MAKES else "ENOENT")


def test_a_path_of_4096_bytes_is_enametoolong(place: Path, root: Actor, source: Path, name: str) -> None:
    path = str(place) + "/" + "d/" * LONGEST_PATH
    assert root.call(*CALLS[name](path[:LONGEST_PATH], source)) == "ENAMETOOLONG"


def test_a_loop_of_symlinks_in_a_path_is_eloop(place: Path, root: Actor, source: Path, name: str) -> None:
    root.value("symlink", "b", place / "a")
    root.value("symlink", "a", place / "b")
    assert root.call(*CALLS[name](str(place / "a" / "below"), source)) == "ELOOP"


def test_a_directory_that_may_not_be_searched_is_eacces(
    place: Path, root: Actor, user: Actor, source: Path, name: str
) -> None:
    root.value("mkdir", place / "closed", 0o755)
    root.value("write_file", place / "closed" / "file", "")
    root.value("chmod", place / "closed", 0o600)
    assert user.call(*CALLS[name](str(place / "closed" / "file"), source)) == "EACCES"


@pytest.mark.parametrize("call", sorted(MAKES - {"link_to", "rename_to"}))
def test_nothing_is_made_in_a_directory_that_may_not_be_written(
    place: Path, root: Actor, user: Actor, source: Path, call: str
) -> None:
    root.value("mkdir", place / "closed", 0o755)
    assert user.call(*CALLS[call](str(place / "closed" / "new"), source)) == "EACCES"


@pytest.mark.parametrize("call", ["mkdir", "mkfifo", "mknod", "symlink", "link_to"])
@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "symlink"])
def test_what_is_there_is_not_made_again(place: Path, root: Actor, source: Path, call: str, kind: str) -> None:
    make = {"file": ("write_file", "x"), "directory": ("mkdir", 0o755), "fifo": ("mkfifo", 0o644)}
    if kind == "symlink":
        root.value("symlink", "nowhere", place / "there")
    else:
        root.value(make[kind][0], place / "there", make[kind][1])
    assert root.call(*CALLS[call](str(place / "there"), source)) == "EEXIST"
