"""chmod, chown, utimensat and truncate: who may, what changes, and what does not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.integration.filesystem.actors import GROUP, OTHER_GROUP, OTHER_USER, SECOND_GROUP, USER, Actor

NOW, OMIT = [0, 0x3FFFFFFF], [0, 0x3FFFFFFE]
KINDS = ["file", "directory", "fifo", "block", "character", "socket_node"]


def make(actor: Actor, path: Path, kind: str) -> None:
    modes = {"fifo": stat.S_IFIFO, "block": stat.S_IFBLK, "character": stat.S_IFCHR, "socket_node": stat.S_IFSOCK}
    if kind == "file":
        actor.value("write_file", path, "text")
        actor.value("chmod", path, 0o644)
    elif kind == "directory":
        actor.value("mkdir", path, 0o755)
    else:
        actor.value("mknod", path, modes[kind] | 0o644, os.makedev(1, 300) if kind in ("block", "character") else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_chmod_sets_each_bit_of_each_kind_of_file(place: Path, root: Actor, kind: str) -> None:
    make(root, place / "it", kind)
    for mode in (0o111, 0o7777, 0o000, 0o4755, 0o2644, 0o1777):
        root.value("chmod", place / "it", mode)
        assert root.stat(place / "it")["permissions"] == mode


def test_chmod_through_a_symlink_changes_its_target(place: Path, root: Actor) -> None:
    make(root, place / "file", "file")
    root.value("symlink", "file", place / "link")
    root.value("chmod", place / "link", 0o600)
    assert root.stat(place / "file")["permissions"] == 0o600


def test_only_the_owner_and_root_may_chmod(place: Path, user: Actor, other: Actor, root: Actor) -> None:
    make(user, place / "file", "file")
    assert other.call("chmod", place / "file", 0o777) == "EPERM"
    assert user.call("chmod", place / "file", 0o600) is None
    assert root.call("chmod", place / "file", 0o640) is None
    assert root.stat(place / "file")["permissions"] == 0o640


def test_chmod_moves_the_time_of_change_and_a_refused_one_does_not(place: Path, user: Actor, other: Actor) -> None:
    make(user, place / "file", "file")
    user.value("utimensat", place / "file", [[5, 0], [5, 0]])
    before = user.stat(place / "file")
    assert other.call("chmod", place / "file", 0o777) == "EPERM"
    assert user.stat(place / "file")["ctime_ns"] == before["ctime_ns"]
    user.value("chmod", place / "file", 0o600)
    after = user.stat(place / "file")
    assert after["ctime_ns"] > before["ctime_ns"]
    assert after["mtime_ns"] == before["mtime_ns"]


def test_a_user_who_is_not_in_the_group_cannot_set_the_set_gid_bit(place: Path, root: Actor, user: Actor) -> None:
    make(root, place / "file", "file")
    root.value("chown", place / "file", USER, OTHER_GROUP)
    user.value("chmod", place / "file", 0o2755)
    assert user.stat(place / "file")["permissions"] == 0o755
    root.value("chown", place / "file", USER, SECOND_GROUP)
    user.value("chmod", place / "file", 0o2755)
    assert user.stat(place / "file")["permissions"] == 0o2755


@pytest.mark.parametrize("kind", KINDS)
def test_root_gives_every_kind_of_file_away(place: Path, root: Actor, kind: str) -> None:
    make(root, place / "it", kind)
    root.value("chown", place / "it", USER, OTHER_GROUP)
    found = root.stat(place / "it")
    assert (found["uid"], found["gid"]) == (USER, OTHER_GROUP)
    root.value("chown", place / "it", -1, -1)
    root.value("chown", place / "it", OTHER_USER, -1)
    found = root.stat(place / "it")
    assert (found["uid"], found["gid"]) == (OTHER_USER, OTHER_GROUP)


def test_an_owner_chooses_among_own_groups_and_gives_nothing_away(place: Path, user: Actor, other: Actor) -> None:
    make(user, place / "file", "file")
    assert user.call("chown", place / "file", -1, SECOND_GROUP) is None
    assert user.stat(place / "file")["gid"] == SECOND_GROUP
    assert user.call("chown", place / "file", -1, OTHER_GROUP) == "EPERM"
    assert user.call("chown", place / "file", OTHER_USER, -1) == "EPERM"
    assert other.call("chown", place / "file", OTHER_USER, OTHER_GROUP) == "EPERM"
    assert (user.stat(place / "file")["uid"], user.stat(place / "file")["gid"]) == (USER, SECOND_GROUP)


def test_lchown_changes_the_link_and_chown_its_target(place: Path, root: Actor) -> None:
    make(root, place / "file", "file")
    root.value("symlink", "file", place / "link")
    root.value("lchown", place / "link", USER, GROUP)
    assert (root.stat(place / "link")["uid"], root.stat(place / "file")["uid"]) == (USER, 0)
    root.value("chown", place / "link", OTHER_USER, OTHER_GROUP)
    assert (root.stat(place / "link")["uid"], root.stat(place / "file")["uid"]) == (USER, OTHER_USER)


def test_chown_takes_the_set_uid_and_set_gid_bits_away(place: Path, root: Actor, user: Actor) -> None:
    make(user, place / "file", "file")
    for actor in (user, root):
        root.value("chmod", place / "file", 0o6775)
        actor.value("chown", place / "file", -1, SECOND_GROUP)
        assert root.stat(place / "file")["permissions"] == 0o775


def test_writing_and_truncating_take_a_user_s_set_uid_bit_away(place: Path, root: Actor, user: Actor) -> None:
    make(user, place / "file", "file")
    for call in (("append", place / "file", "more"), ("truncate", place / "file", 1)):
        root.value("chmod", place / "file", 0o6777)
        assert root.stat(place / "file")["permissions"] == 0o6777
        user.value(*call)
        assert root.stat(place / "file")["permissions"] == 0o777


def test_root_s_writes_leave_the_set_uid_bit(place: Path, root: Actor) -> None:
    make(root, place / "file", "file")
    root.value("chmod", place / "file", 0o4755)
    root.value("append", place / "file", "more")
    assert root.stat(place / "file")["permissions"] == 0o4755


def test_utimensat_sets_times_to_the_nanosecond(place: Path, user: Actor) -> None:
    make(user, place / "file", "file")
    user.value("utimensat", place / "file", [[1_600_000_000, 123_456_789], [2_000_000_000, 987_654_321]])
    found = user.stat(place / "file")
    assert (found["atime_ns"], found["mtime_ns"]) == (1_600_000_000_123_456_789, 2_000_000_000_987_654_321)


def test_utimensat_leaves_what_it_is_told_to_leave(place: Path, user: Actor) -> None:
    make(user, place / "file", "file")
    user.value("utimensat", place / "file", [[7, 1], [8, 2]])
    user.value("utimensat", place / "file", [OMIT, [9, 3]])
    found = user.stat(place / "file")
    assert (found["atime_ns"], found["mtime_ns"]) == (7_000_000_001, 9_000_000_003)
    user.value("utimensat", place / "file", [NOW, OMIT])
    found = user.stat(place / "file")
    assert found["atime_ns"] > 1_700_000_000 * 10**9
    assert found["mtime_ns"] == 9_000_000_003


def test_utimensat_of_a_link_itself_leaves_its_target(place: Path, user: Actor) -> None:
    make(user, place / "file", "file")
    user.value("symlink", "file", place / "link")
    user.value("utimensat", place / "file", [[3, 0], [3, 0]])
    user.value("utimensat", place / "link", [[4, 0], [4, 0]], False)
    assert user.stat(place / "link")["mtime_ns"] == 4 * 10**9
    assert user.stat(place / "file")["mtime_ns"] == 3 * 10**9


def test_who_may_set_times(place: Path, user: Actor, other: Actor, root: Actor) -> None:
    make(user, place / "file", "file")
    assert other.call("utimensat", place / "file", [[1, 0], [1, 0]]) == "EPERM"
    assert other.call("utimensat", place / "file", None) == "EACCES"
    user.value("chmod", place / "file", 0o666)
    assert other.call("utimensat", place / "file", None) is None  # who may write may touch
    assert other.call("utimensat", place / "file", [[1, 0], [1, 0]]) == "EPERM"
    assert root.call("utimensat", place / "file", [[1, 0], [1, 0]]) is None


def test_a_second_has_a_thousand_million_nanoseconds(place: Path, user: Actor) -> None:
    make(user, place / "file", "file")
    assert user.call("utimensat", place / "file", [[1, 1_000_000_000], [1, 0]]) == "EINVAL"


def test_truncate_cuts_and_extends_with_zeros(place: Path, user: Actor) -> None:
    user.value("write_file", place / "file", "0123456789")
    user.value("truncate", place / "file", 4)
    assert user.value("read_file", place / "file") == "0123"
    user.value("truncate", place / "file", 8)
    assert user.value("read_file", place / "file") == "0123\0\0\0\0"
    assert user.stat(place / "file")["size"] == 8


def test_truncate_moves_the_times_of_change_and_modification(place: Path, user: Actor) -> None:
    make(user, place / "file", "file")
    user.value("utimensat", place / "file", [[5, 0], [5, 0]])
    before = user.stat(place / "file")
    user.value("truncate", place / "file", 2)
    after = user.stat(place / "file")
    assert after["mtime_ns"] > before["mtime_ns"]
    assert after["ctime_ns"] > before["ctime_ns"]


def test_truncate_refuses(place: Path, user: Actor, other: Actor) -> None:
    make(user, place / "file", "file")
    make(user, place / "directory", "directory")
    assert user.call("truncate", place / "directory", 0) == "EISDIR"
    assert user.call("truncate", place / "file", -1) == "EINVAL"
    assert other.call("truncate", place / "file", 0) == "EACCES"
    assert user.stat(place / "file")["size"] == 4


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o200, 0o040, 0o020, 0o004, 0o002, 0o777])
def test_open_asks_for_the_bits_of_the_caller_s_class_alone(
    place: Path, root: Actor, user: Actor, other: Actor, mode: int
) -> None:
    make(root, place / "file", "file")
    root.value("chmod", place / "file", mode)
    for uid, gid, reads, writes in [
        (USER, OTHER_GROUP, 0o400, 0o200), (OTHER_USER, SECOND_GROUP, 0o040, 0o020), (OTHER_USER, OTHER_GROUP, 4, 2),
    ]:  # fmt: skip
        root.value("chown", place / "file", uid, gid)
        assert user.call("open", place / "file", os.O_RDONLY) == (None if mode & reads else "EACCES")
        assert user.call("open", place / "file", os.O_WRONLY) == (None if mode & writes else "EACCES")
        expected = None if mode & reads and mode & writes else "EACCES"
        assert user.call("open", place / "file", os.O_RDWR) == expected
    assert root.call("open", place / "file", os.O_RDWR) is None
