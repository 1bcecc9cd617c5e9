"""PassthroughFs: nothing leads out of its directory, nothing is held for longer than it must be."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.filesystem.actors import OTHER_GROUP, OTHER_USER, Actor
from tests.support.eventually import eventually
from vmthaw.errors import VmthawOSError, VmthawValueError
from vmthaw.fuse import FuseServer, PassthroughFs

pytestmark = pytest.mark.usefixtures("fuse_available")


class Shared:
    """A directory with a secret beside it, and where it is mounted."""

    def __init__(self, base: Path) -> None:
        base.chmod(0o755)
        self.secret, self.inside, self.mount = base / "secret", base / "inside", base / "client" / "mount"
        for path in (self.inside, self.mount.parent, self.mount):
            path.mkdir()
        self.inside.chmod(0o777)
        self.secret.write_text("secret")

    @contextmanager
    def served(self, **options: Any) -> Iterator[PassthroughFs]:
        """Mounted meanwhile, with no cache to hide behind; afterwards nothing may be held."""
        of_the_server: dict[str, Any] = {"allow_other": os.geteuid() == 0, "entry_timeout": 0, "attr_timeout": 0}
        of_the_server |= {name: options.pop(name) for name in ("threads", "splice", "max_write") if name in options}
        served = PassthroughFs(self.inside, **options)
        with FuseServer(served, self.mount, **of_the_server):
            yield served
        assert (served.held_nodes, served.open_handles, served.open_descriptors) == (0, 0, 1)


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    """Not mounted yet."""
    return Shared(tmp_path)


def test_symlinks_are_the_client_s_to_follow(shared: Shared) -> None:
    (shared.inside / "absolute").symlink_to(shared.secret)
    (shared.inside / "relative").symlink_to("../secret")
    with shared.served():
        # The client follows it in its own world, where that path is what it is; the server has opened nothing.
        assert (shared.mount / "absolute").read_text() == "secret"
        assert os.readlink(shared.mount / "relative") == "../secret"
        with pytest.raises(FileNotFoundError):
            (shared.mount / "relative").read_text()  # beside the mount there is none


def test_a_name_that_turns_into_a_symlink_leads_nowhere(shared: Shared) -> None:
    """A directory and a symlink to the outside take turns; every read must see the inside or fail."""
    (shared.secret.parent / "outside").mkdir()
    (shared.secret.parent / "outside" / "file").write_text("secret")
    (shared.inside / "real").mkdir()
    (shared.inside / "real" / "file").write_text("inside")
    (shared.inside / "trap").symlink_to(shared.secret.parent / "outside")
    (shared.inside / "turn").symlink_to("real")
    libc = ctypes.CDLL(None, use_errno=True)
    number = 316 if os.uname().machine == "x86_64" else 276
    ends = threading.Event()

    def exchange() -> None:
        names = [os.fsencode(shared.inside / name) for name in ("real", "trap")]
        while not ends.is_set():
            libc.syscall(number, -100, names[0], -100, names[1], 2)

    thread = threading.Thread(target=exchange)
    found: set[str] = set()
    with shared.served():
        thread.start()
        try:
            for _ in range(3000):
                try:
                    # O_NOFOLLOW all the way: what the server resolves, it resolves itself.
                    directory = os.open(shared.mount / "real", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                except OSError as error:
                    found.add(errno.errorcode[error.errno or 0])
                    continue
                try:
                    file = os.open("file", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
                    found.add(os.read(file, 10).decode())
                    os.close(file)
                except OSError as error:
                    found.add(errno.errorcode[error.errno or 0])
                finally:
                    os.close(directory)
        finally:
            ends.set()
            thread.join()
    assert "inside" in found
    assert "secret" not in found
    assert found <= {"inside", "ENOTDIR", "ELOOP", "ENOENT", "ESTALE", "EIO"}, found


def test_the_parent_of_the_root_is_the_mount_s_own(shared: Shared) -> None:
    (shared.inside / "a" / "b").mkdir(parents=True)
    with shared.served():
        assert not (shared.mount / "a" / ".." / ".." / ".." / "secret-below").exists()
        assert os.path.samefile(shared.mount / "a" / "b" / ".." / "..", shared.mount)
        entries = {entry.name: entry for entry in os.scandir(shared.mount)}
        assert set(entries) == {"a"}
        listing = subprocess.run(["ls", "-ai", shared.mount], capture_output=True, text=True, check=True).stdout
        inodes = {line.split()[1]: int(line.split()[0]) for line in listing.splitlines()}
        assert inodes["."] == shared.inside.stat().st_ino
        # ls asks for "..", which the client knows by itself; what readdir said of it is not the host's.
        assert inodes[".."] in (shared.mount.parent.stat().st_ino, shared.inside.stat().st_ino)


def test_a_directory_that_moves_while_it_is_walked_stays_inside(shared: Shared) -> None:
    """mv of deep/a against a walk through deep/a/..: the client's parents, not the host's."""
    (shared.inside / "deep" / "a").mkdir(parents=True)
    (shared.inside / "deep" / "mark").write_text("inside")
    (shared.inside / "mark").write_text("inside")
    (shared.secret.parent / "mark").write_text("secret")
    ends = threading.Event()

    def move() -> None:
        while not ends.is_set():
            for source, target in (("deep/a", "a"), ("a", "deep/a")):
                os.rename(shared.mount / source, shared.mount / target)

    found: set[str] = set()
    with shared.served():
        thread = threading.Thread(target=move)
        thread.start()
        try:
            for _ in range(1000):
                for path in ("deep/a/../mark", "a/../mark"):
                    try:
                        found.add((shared.mount / path).read_text())
                    except FileNotFoundError:
                        found.add("gone")
        finally:
            ends.set()
            thread.join()
    assert found <= {"inside", "gone"}


def test_magic_links_are_not_followed_by_the_server(shared: Shared) -> None:
    """proc is full of links that lead anywhere; as a directory that is served it must not serve through them."""
    with FuseServer(PassthroughFs("/proc/self"), shared.mount, attr_timeout=0, entry_timeout=0):
        assert (shared.mount / "root").is_symlink()
        assert stat.S_ISLNK((shared.mount / "cwd").lstat().st_mode)
        with pytest.raises(OSError, match=r"."):
            os.open(shared.mount / "root", os.O_RDONLY | os.O_NOFOLLOW)


def test_files_changed_on_the_host_are_seen_at_once_without_a_cache(shared: Shared) -> None:
    with shared.served():
        for text in ("one", "three", "seventeen"):
            (shared.inside / "file").write_text(text)
            assert (shared.mount / "file").read_text() == text
        (shared.inside / "file").unlink()
        assert not (shared.mount / "file").exists()
        (shared.mount / "file").write_text("back")
        assert (shared.inside / "file").read_text() == "back"


def test_read_only_refuses_every_change(shared: Shared) -> None:
    (shared.inside / "file").write_text("text")
    with shared.served(read_only=True):
        file = shared.mount / "file"
        assert file.read_text() == "text"
        changes: list[Callable[[], object]] = [
            lambda: file.write_text("other"), file.unlink, lambda: file.chmod(0o600), (shared.mount / "new").mkdir,
            lambda: os.truncate(file, 0), lambda: os.rename(file, shared.mount / "new"), lambda: os.utime(file),
            lambda: os.link(file, shared.mount / "new"), lambda: os.symlink("x", shared.mount / "new"),
            lambda: os.mkfifo(shared.mount / "new"), lambda: os.setxattr(file, "user.x", b"y"),
            lambda: os.chown(file, 1, 1),
        ]  # fmt: skip
        for change in changes:
            with pytest.raises(OSError, match=r".") as caught:
                change()
            assert caught.value.errno == errno.EROFS
    assert (shared.inside / "file").read_text() == "text"


def test_extended_attributes_pass(shared: Shared) -> None:
    (shared.inside / "file").write_text("text")
    try:
        os.setxattr(shared.inside / "file", "user.probe", b"1")
    except OSError:
        pytest.skip("the temporary directory's file system has no extended attributes")
    with shared.served():
        file = shared.mount / "file"
        os.setxattr(file, "user.big", b"x" * 1000)
        assert os.getxattr(shared.inside / "file", "user.big") == b"x" * 1000
        assert sorted(os.listxattr(file)) == ["user.big", "user.probe"]
        assert os.getxattr(file, "user.probe") == b"1"
        os.removexattr(file, "user.big")
        for name, error in [("user.big", errno.ENODATA), ("system.posix_acl_access", errno.EOPNOTSUPP)]:
            with pytest.raises(OSError, match=r".") as caught:
                os.getxattr(file, name)
            assert caught.value.errno == error
        with pytest.raises(FileExistsError):
            os.setxattr(file, "user.probe", b"2", os.XATTR_CREATE)


def test_a_bound_on_descriptors_is_kept_and_no_file_is_lost(shared: Shared, root_user: None) -> None:
    files = [shared.inside / f"file{number}" for number in range(300)]
    for number, path in enumerate(files):
        path.write_text(str(number))
    with shared.served(max_descriptors=32) as served:
        assert served.evicts
        kept = os.open(shared.mount / "file0", os.O_RDONLY)
        (shared.mount / "file0").unlink()
        for number, path in enumerate(files[1:], 1):
            assert (shared.mount / path.name).stat().st_size == len(str(number))
        assert served.open_descriptors <= 33
        assert served.held_nodes > 100
        for number, path in enumerate(files[1:], 1):
            assert (shared.mount / path.name).read_text() == str(number)
        assert os.read(kept, 10) == b"0"
        os.close(kept)
        assert served.open_descriptors <= 33


def test_a_number_that_is_used_again_is_another_file(shared: Shared, root_user: None) -> None:
    with shared.served(max_descriptors=8) as served:
        for number in range(200):
            (shared.inside / "file").write_text(str(number))
            held = os.open(shared.mount / "file", os.O_PATH)
            for filler in range(12):  # evicts it
                (shared.inside / f"filler{filler}").touch()
                (shared.mount / f"filler{filler}").stat()
            (shared.inside / "file").unlink()
            os.close(held)
            (shared.inside / "new").write_text("x" * number)
            assert (shared.mount / "new").stat().st_size == number
            (shared.inside / "new").unlink()
        assert served.open_descriptors <= 9


def test_forgotten_files_are_let_go(shared: Shared) -> None:
    for number in range(100):
        (shared.inside / str(number)).touch()
    with shared.served() as served:
        assert len([path.stat() for path in shared.mount.iterdir()]) == 100
        assert served.held_nodes >= 100
        for path in list(shared.mount.iterdir()):
            path.unlink()
        eventually(lambda: served.held_nodes == 0)
        assert served.open_descriptors == 1


def test_squashed_files_belong_to_one_user(shared: Shared, root_user: None, root: Actor) -> None:
    with shared.served(squash=(OTHER_USER, OTHER_GROUP)):
        root.value("write_file", shared.mount / "file", "x")
        root.value("mkdir", shared.mount / "directory", 0o755)
    for name in ("file", "directory"):
        found = (shared.inside / name).stat()
        assert (found.st_uid, found.st_gid) == (OTHER_USER, OTHER_GROUP)


def test_splicing_and_copying_give_the_same_bytes(shared: Shared) -> None:
    content = os.urandom(3_000_001)
    (shared.inside / "file").write_bytes(content)
    for splice in (False, True):
        with shared.served(splice=splice):
            assert (shared.mount / "file").read_bytes() == content


def test_a_file_that_shrinks_under_a_reader_ends_early(shared: Shared) -> None:
    (shared.inside / "file").write_bytes(b"x" * 4_000_000)
    ends = threading.Event()

    def resize() -> None:
        while not ends.is_set():
            os.truncate(shared.inside / "file", 100_000)
            os.truncate(shared.inside / "file", 4_000_000)

    thread = threading.Thread(target=resize)
    with shared.served(splice=True):
        thread.start()
        try:
            for _ in range(30):
                data = (shared.mount / "file").read_bytes()
                assert set(data) <= {0, ord("x")}
        finally:
            ends.set()
            thread.join()


def test_seeking_allocating_and_copying_within_the_mount(shared: Shared) -> None:
    with shared.served():
        with open(shared.mount / "file", "wb+") as file:
            file.truncate(1 << 20)
            os.pwrite(file.fileno(), b"data", 1 << 19)
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) in (0, 1 << 19)
            assert os.lseek(file.fileno(), 1 << 19, os.SEEK_HOLE) > 1 << 19
            os.posix_fallocate(file.fileno(), 0, 1 << 21)
            assert os.fstat(file.fileno()).st_size == 1 << 21
            with open(shared.mount / "copy", "wb+") as copy:
                assert os.copy_file_range(file.fileno(), copy.fileno(), 4, 1 << 19, 0) == 4
                assert copy.read() == b"data"
        unnamed = os.open(shared.mount, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(unnamed, b"unnamed")
        # With a directory's descriptor Python passes AT_SYMLINK_FOLLOW on.
        os.link(f"/proc/self/fd/{unnamed}", shared.mount / "named", src_dir_fd=unnamed, follow_symlinks=True)
        os.close(unnamed)
        assert (shared.inside / "named").read_bytes() == b"unnamed"


def test_a_directory_of_many_files_is_listed_whole(shared: Shared) -> None:
    names = {f"a-rather-long-name-of-a-file-{number:05}" for number in range(3000)}
    for name in names:
        (shared.inside / name).touch()
    with shared.served():
        assert set(os.listdir(shared.mount)) == names
        assert {entry.name for entry in os.scandir(shared.mount) if entry.is_file()} == names


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        PassthroughFs(tmp_path / "missing")
    with pytest.raises(NotADirectoryError):
        PassthroughFs(tmp_path / "file")
    with pytest.raises(VmthawValueError, match="owner"):
        PassthroughFs(tmp_path, owner="nobody")
    with pytest.raises(VmthawOSError, match="missing"):
        PassthroughFs(str(tmp_path / "missing"))
