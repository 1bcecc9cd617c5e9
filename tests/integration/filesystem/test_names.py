"""open, mkdir, mkfifo, mknod, symlink, link, rename, unlink and rmdir: what they make, move, remove and refuse."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.integration.filesystem.actors import GROUP, OTHER_GROUP, SECOND_GROUP, USER, Actor

NOREPLACE, EXCHANGE = 1, 2
MAKERS: dict[str, Any] = {
    "open": (lambda path, mode: ("open", path, os.O_CREAT | os.O_WRONLY, mode), stat.S_IFREG),
    "mkdir": (lambda path, mode: ("mkdir", path, mode), stat.S_IFDIR),
    "mkfifo": (lambda path, mode: ("mkfifo", path, mode), stat.S_IFIFO),
    "mknod": (lambda path, mode: ("mknod", path, mode | stat.S_IFREG, 0), stat.S_IFREG),
    "socket": (lambda path, mode: ("mknod", path, mode | stat.S_IFSOCK, 0), stat.S_IFSOCK),
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> str:
    """The name of a call that makes something with a mode."""
    return str(request.param)


def test_what_is_made_has_its_type_mode_and_owner(place: Path, user: Actor, maker: str) -> None:
    call, kind = MAKERS[maker]
    user.value(*call(place / "new", 0o751))
    found = user.stat(place / "new")
    assert (found["type"], found["permissions"]) == (kind, 0o751)
    assert (found["uid"], found["gid"]) == (USER, GROUP)


@pytest.mark.parametrize(("mask", "left"), [(0o022, 0o755), (0o077, 0o700), (0o777, 0), (0o012, 0o765)])
def test_the_umask_takes_its_bits_off(place: Path, user: Actor, maker: str, mask: int, left: int) -> None:
    before = user.value("umask", mask)
    try:
        user.value(*MAKERS[maker][0](place / "new", 0o777))
    finally:
        user.value("umask", before)
    assert user.stat(place / "new")["permissions"] == left


def test_making_moves_the_directory_s_times(place: Path, user: Actor, root: Actor, maker: str) -> None:
    root.value("utimensat", place, [[5, 0], [5, 0]])
    before = user.stat(place)
    user.value(*MAKERS[maker][0](place / "new", 0o644))
    after = user.stat(place)
    assert after["mtime_ns"] > before["mtime_ns"]
    assert after["ctime_ns"] >= before["ctime_ns"]
    assert user.stat(place / "new")["ctime_ns"] > 1_700_000_000 * 10**9


def test_a_set_gid_directory_gives_its_group(place: Path, root: Actor, user: Actor, maker: str) -> None:
    root.value("mkdir", place / "shared", 0o777)
    root.value("chown", place / "shared", 0, SECOND_GROUP)
    root.value("chmod", place / "shared", 0o2777)
    user.value(*MAKERS[maker][0](place / "shared" / "new", 0o755))
    found = user.stat(place / "shared" / "new")
    assert (found["uid"], found["gid"]) == (USER, SECOND_GROUP)
    assert bool(found["permissions"] & stat.S_ISGID) is (maker == "mkdir")


def test_device_files_are_root_s_to_make(place: Path, root: Actor, user: Actor) -> None:
    number = os.makedev(250, 70_000)
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        assert user.call("mknod", place / "new", kind | 0o644, number) == "EPERM"
        root.value("mknod", place / "new", kind | 0o644, number)
        assert root.stat(place / "new")["rdev"] == number
        root.value("unlink", place / "new")


def test_open_refuses_what_it_must(place: Path, user: Actor) -> None:
    user.value("mkdir", place / "directory", 0o755)
    user.value("write_file", place / "file", "text")
    user.value("mkfifo", place / "fifo", 0o644)
    user.value("symlink", "nowhere", place / "dangling")
    for flags, path, error in [
        (os.O_WRONLY, "directory", "EISDIR"), (os.O_RDWR, "directory", "EISDIR"),
        (os.O_RDONLY | os.O_DIRECTORY, "file", "ENOTDIR"), (os.O_CREAT | os.O_EXCL, "file", "EEXIST"),
        (os.O_CREAT | os.O_EXCL, "dangling", "EEXIST"), (os.O_RDONLY | os.O_NOFOLLOW, "dangling", "ELOOP"),
        (os.O_WRONLY | os.O_NONBLOCK, "fifo", "ENXIO"), (os.O_RDONLY, "dangling", "ENOENT"),
    ]:  # fmt: skip
        assert user.call("open", place / path, flags) == error, (path, flags)
    assert user.call("open", place / "fifo", os.O_RDONLY | os.O_NONBLOCK) is None


def test_open_makes_the_target_of_a_dangling_symlink(place: Path, user: Actor) -> None:
    user.value("symlink", "target", place / "link")
    user.value("open", place / "link", os.O_CREAT | os.O_WRONLY, 0o644)
    assert user.stat(place / "target")["type"] == stat.S_IFREG


def test_open_truncates_and_appends(place: Path, user: Actor) -> None:
    user.value("write_file", place / "file", "12345")
    user.value("append", place / "file", "67")
    assert user.value("read_file", place / "file") == "1234567"
    user.value("utimensat", place / "file", [[5, 0], [5, 0]])
    user.value("open", place / "file", os.O_WRONLY | os.O_TRUNC)
    found = user.stat(place / "file")
    assert found["size"] == 0
    assert found["mtime_ns"] > 5 * 10**9


def test_a_program_runs_from_there(place: Path, user: Actor) -> None:
    user.value("write_file", place / "program", "#!/bin/sh\nexit 7\n")
    user.value("chmod", place / "program", 0o755)
    assert user.value("execute", place / "program") == 7


def test_a_symlink_keeps_its_text(place: Path, user: Actor) -> None:
    for text in ("a", "/absolute/../path", "x" * 4095):
        user.value("symlink", text, place / "link")
        assert user.value("readlink", place / "link") == text
        found = user.stat(place / "link")
        assert (found["type"], found["size"], found["uid"]) == (stat.S_IFLNK, len(text), USER)
        user.value("unlink", place / "link")
    assert user.call("symlink", "x" * 4096, place / "link") == "ENAMETOOLONG"
    assert user.call("symlink", "", place / "link") == "ENOENT"


@pytest.mark.parametrize("kind", ["open", "mkfifo", "mknod", "socket"])
def test_links_are_one_file(place: Path, user: Actor, kind: str) -> None:
    user.value(*MAKERS[kind][0](place / "a", 0o644))
    user.value("link", place / "a", place / "b")
    user.value("link", place / "b", place / "c")
    first, last = user.stat(place / "a"), user.stat(place / "c")
    assert (first["ino"], first["nlink"], last["nlink"]) == (last["ino"], 3, 3)
    user.value("chmod", place / "b", 0o600)
    assert user.stat(place / "c")["permissions"] == 0o600
    user.value("unlink", place / "a")
    assert user.stat(place / "c")["nlink"] == 2
    assert user.call("lstat", place / "a") == "ENOENT"


def test_a_symlink_can_be_linked_and_a_directory_cannot(place: Path, root: Actor) -> None:
    root.value("symlink", "nowhere", place / "link")
    root.value("link", place / "link", place / "again")
    assert root.value("readlink", place / "again") == "nowhere"
    root.value("mkdir", place / "directory", 0o755)
    assert root.call("link", place / "directory", place / "again2") == "EPERM"


def test_rename_puts_a_file_in_the_place_of_another(place: Path, user: Actor) -> None:
    user.value("write_file", place / "a", "a")
    user.value("write_file", place / "b", "b")
    ino = user.stat(place / "a")["ino"]
    user.value("rename", place / "a", place / "b")
    assert user.call("lstat", place / "a") == "ENOENT"
    assert user.stat(place / "b")["ino"] == ino
    assert user.value("read_file", place / "b") == "a"


def test_rename_refuses_what_it_must(place: Path, user: Actor) -> None:
    user.value("mkdir", place / "empty", 0o755)
    user.value("mkdir", place / "full", 0o755)
    user.value("mkdir", place / "full" / "below", 0o755)
    user.value("write_file", place / "file", "text")
    for source, target, errors in [
        ("empty", "full", ("ENOTEMPTY", "EEXIST")), ("empty", "file", ("ENOTDIR",)), ("file", "empty", ("EISDIR",)),
        ("full", "full/below/deep", ("EINVAL",)), ("full", "full/below", ("EINVAL",)),
        ("full/.", "new", ("EINVAL", "EBUSY")), ("missing", "new", ("ENOENT",)), ("file", "missing/new", ("ENOENT",)),
    ]:  # fmt: skip
        assert user.call("rename", f"{place}/{source}", f"{place}/{target}") in errors, (source, target)
    assert user.call("rename", place / "file", "/proc/x") in ("EXDEV", "ENOENT")
    assert user.call("rename", place / "empty", place / "new") is None


def test_rename_of_one_file_onto_its_other_name_does_nothing(place: Path, user: Actor) -> None:
    user.value("write_file", place / "a", "a")
    user.value("link", place / "a", place / "b")
    user.value("rename", place / "a", place / "b")
    assert user.stat(place / "a")["nlink"] == 2


def test_rename_of_a_directory_moves_the_link_that_it_is(place: Path, user: Actor) -> None:
    for name in ("from", "to", "from/it", "to/it"):
        user.value("mkdir", place / name, 0o755)
    counts = [user.stat(place / name)["nlink"] for name in ("from", "to")]
    user.value("rename", place / "from" / "it", place / "to" / "it")
    assert user.value("listdir", place / "to") == ["it"]
    assert [user.stat(place / name)["nlink"] for name in ("from", "to")] == [counts[0] - 1, counts[1]]
    assert user.call("listdir", str(place / "to" / "it" / "..")) is None


def test_renameat2_keeps_or_exchanges(place: Path, user: Actor) -> None:
    user.value("write_file", place / "a", "a")
    user.value("write_file", place / "b", "b")
    assert user.call("renameat2", str(place / "a"), str(place / "b"), NOREPLACE) == "EEXIST"
    user.value("renameat2", str(place / "a"), str(place / "b"), EXCHANGE)
    assert (user.value("read_file", place / "a"), user.value("read_file", place / "b")) == ("b", "a")
    user.value("renameat2", str(place / "a"), str(place / "c"), NOREPLACE)
    assert user.call("renameat2", str(place / "a"), str(place / "b"), EXCHANGE) == "ENOENT"
    assert user.call("renameat2", str(place / "b"), str(place / "c"), 0x100) == "EINVAL"


@pytest.mark.parametrize("call", ["unlink", "rename", "rmdir"])
def test_the_sticky_bit_keeps_others_from_removing(
    place: Path, root: Actor, user: Actor, other: Actor, call: str
) -> None:
    root.value("mkdir", place / "sticky", 0o777)
    root.value("chmod", place / "sticky", 0o1777)
    path = place / "sticky" / "it"
    if call == "rmdir":
        user.value("mkdir", path, 0o777)
    else:
        user.value("write_file", path, "mine")
    arguments = [path, place / "sticky" / "new"] if call == "rename" else [path]
    assert other.call(call, *arguments) == "EPERM"
    assert user.call(call, *arguments) is None


def test_a_directory_without_write_permission_keeps_its_names(place: Path, root: Actor, user: Actor) -> None:
    root.value("mkdir", place / "closed", 0o755)
    root.value("mkdir", place / "closed" / "directory", 0o777)
    root.value("write_file", place / "closed" / "file", "")
    assert user.call("unlink", place / "closed" / "file") == "EACCES"
    assert user.call("rmdir", place / "closed" / "directory") == "EACCES"
    assert user.call("rename", place / "closed" / "file", place / "out") == "EACCES"


def test_unlink_and_rmdir_refuse_each_other_s(place: Path, user: Actor) -> None:
    user.value("mkdir", place / "directory", 0o755)
    user.value("write_file", place / "file", "")
    user.value("symlink", "directory", place / "link")
    assert user.call("unlink", place / "directory") == "EISDIR"
    assert user.call("rmdir", place / "file") == "ENOTDIR"
    assert user.call("rmdir", place / "link") == "ENOTDIR"
    assert user.call("rmdir", f"{place}/directory/.") == "EINVAL"
    assert user.call("rmdir", f"{place}/directory/..") in ("ENOTEMPTY", "EEXIST")
    user.value("write_file", place / "directory" / "file", "")
    assert user.call("rmdir", place / "directory") in ("ENOTEMPTY", "EEXIST")
    user.value("unlink", place / "directory" / "file")
    user.value("rmdir", place / "directory")
    assert user.call("lstat", place / "directory") == "ENOENT"


def test_an_open_file_outlives_its_name(place: Path, user: Actor) -> None:
    fd = user.value("keep_open", place / "file", os.O_CREAT | os.O_RDWR, 0o644)
    user.value("unlink", place / "file")
    assert user.value("fstat", fd)["nlink"] == 0
    user.value("ftruncate", fd, 100)
    user.value("fchmod", fd, 0o600)
    found = user.value("fstat", fd)
    assert (found["size"], found["permissions"]) == (100, 0o600)
    user.value("close", fd)


def test_unlink_moves_the_time_of_change_of_the_name_that_is_left(place: Path, user: Actor) -> None:
    user.value("write_file", place / "a", "")
    user.value("link", place / "a", place / "b")
    before = user.stat(place / "b")["ctime_ns"]
    user.value("unlink", place / "a")
    after = user.stat(place / "b")
    assert after["nlink"] == 1
    assert after["ctime_ns"] >= before


def test_a_supplementary_group_may_make_files(place: Path, root: Actor, user: Actor, other: Actor) -> None:
    root.value("mkdir", place / "team", 0o770)
    root.value("chown", place / "team", 0, SECOND_GROUP)
    root.value("chmod", place / "team", 0o770)
    user.value("write_file", place / "team" / "mine", "text")
    assert other.call("open", place / "team" / "new", os.O_CREAT | os.O_WRONLY, 0o644) == "EACCES"
    found = user.stat(place / "team" / "mine")
    assert (found["uid"], found["gid"]) == (USER, GROUP)
    root.value("chown", place / "team" / "mine", USER, OTHER_GROUP)
    assert user.stat(place / "team" / "mine")["gid"] == OTHER_GROUP
