"""Under the jailer's double: a real change of root and of user."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.firecracker.support import alive
from tests.support.eventually import eventually
from vmthaw import FileSource, PageServer
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.firecracker import ApiRefusedError, Firecracker, FirecrackerDiedError, FirecrackerError, Jail
from vmthaw.testing import FirecrackerDouble, write_double_snapshot

UID, GID = 31337, 31338


@pytest.fixture
def base() -> Iterator[Path]:
    """Where jails are built: every folder above is open to other users."""
    if os.geteuid() != 0:
        pytest.skip("the jailer needs root")
    folder = Path(tempfile.mkdtemp(prefix="vmt-jails-"))
    folder.chmod(0o755)
    try:
        os.mknod(folder / "probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        folder.rmdir()
        pytest.skip("the jailer needs to make device nodes (CAP_MKNOD)")
    (folder / "probe").unlink()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def jail_of(double: FirecrackerDouble, base: Path) -> Jail:
    return Jail(UID, GID, jailer=double.jailer, chroot_base=base)


def restore(vm: Firecracker, state: Path, memory: Path) -> None:
    """The memory file goes in for the double alone, which compares with it."""
    shutil.copy(memory, vm.root / "mem")
    (vm.root / "mem").chmod(0o644)
    vm.load_snapshot(state, FileSource(memory))


def test_a_jailed_vm_is_restored_as_its_own_user(double: FirecrackerDouble, base: Path, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20, memory_path="/mem")
    with Firecracker(double.firecracker, jail=jail_of(double, base), vm_id="web-1") as vm:
        assert vm.root == base / "firecracker" / "web-1" / "root"
        restore(vm, state, memory)
        eventually(lambda: "1024 pages are right" in vm.log_tail())
        pages = (vm.root / "run" / "pages.sock").lstat()
        assert (pages.st_uid, pages.st_gid, stat.S_IMODE(pages.st_mode)) == (UID, GID, 0o600)
        status = Path(f"/proc/{vm.pid}/status").read_text(encoding="ascii")
        assert f"Uid:\t{UID}\t{UID}\t{UID}" in status
        assert Path(f"/proc/{vm.pid}/root").readlink() == vm.root
        assert vm.session is not None
        assert vm.session.pid == vm.pid
        assert state.stat().st_uid == os.getuid()  # the original is nobody else's
        pid = vm.pid
    assert not alive(pid)
    assert not (base / "firecracker" / "web-1").exists()


def test_the_longest_id_fits_though_its_path_is_too_long_for_a_socket(
    double: FirecrackerDouble, base: Path, tmp_path: Path
) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, memory_path="/mem")
    with Firecracker(double.firecracker, jail=jail_of(double, base), vm_id="x" * 64) as vm:
        assert len(str(vm.root / "run" / "firecracker.socket")) > 107
        restore(vm, state, memory)
        eventually(lambda: "256 pages are right" in vm.log_tail())


def test_snapshots_of_a_jailed_vm_come_out_of_the_jail(double: FirecrackerDouble, base: Path, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20, memory_path="/mem", writes=[8])
    with Firecracker(double.firecracker, jail=jail_of(double, base)) as vm:
        shutil.copy(memory, vm.root / "mem")
        (vm.root / "mem").chmod(0o644)
        vm.load_snapshot(state, FileSource(memory), track_dirty_pages=True)
        eventually(lambda: "pages are right" in vm.log_tail())
        vm.pause()
        vm.create_snapshot(tmp_path / "state2", tmp_path / "diff", "diff")
        vm.create_snapshot(tmp_path / "state3", vm.root / "full")
        assert not list(vm.root.glob("vmthaw-output-*"))
        inside = (vm.root / "full").read_bytes()
    diff = (tmp_path / "diff").stat()
    assert (diff.st_uid, stat.S_IMODE(diff.st_mode)) == (os.getuid(), 0o600)
    assert diff.st_size == 4 << 20
    assert diff.st_blocks * 512 == 3 * 4096  # holes are still holes
    assert (tmp_path / "diff").read_bytes()[8 * 4096 : 9 * 4096] == inside[8 * 4096 : 9 * 4096]
    assert inside[9 * 4096 :] == memory.read_bytes()[9 * 4096 :]


def test_a_jailed_vm_cannot_have_us_read_or_write_elsewhere(
    double: FirecrackerDouble, base: Path, tmp_path: Path
) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, memory_path="/mem")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with Firecracker(double.firecracker, jail=jail_of(double, base)) as vm:
        # What a compromised Firecracker could do: bend the folder of the sockets, and what it writes.
        (vm.root / "run").rename(vm.root / "gone")
        (vm.root / "run").symlink_to(tmp_path)
        (vm.root / "vmthaw-output-0").symlink_to(secret)
        (vm.root / "gone" / "pages.sock").symlink_to(secret)
        with pytest.raises((OSError, FirecrackerError)):
            restore(vm, state, memory)
        assert not (tmp_path / "pages.sock").exists()
        assert vm._place is not None
        with pytest.raises(OSError, match=r".*"):
            vm._place.take_out(tmp_path / "out", 0)
        assert not (tmp_path / "out").exists()
    assert secret.read_text() == "secret"
    assert secret.stat().st_uid == os.getuid()


def test_other_users_cannot_hand_over_to_a_jails_server(double: FirecrackerDouble, base: Path, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, memory_path="/mem")
    with Firecracker(double.firecracker, jail=jail_of(double, base)) as vm:
        restore(vm, state, memory)
        assert vm.server is not None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(vm.server.socket_path)  # we are root: file modes do not stop us, the required uid does
            stranger.settimeout(10)
            assert stranger.recv(1) == b""
        assert len(vm.server.sessions) == 1


def test_a_page_server_outside_the_jail_is_refused(double: FirecrackerDouble, base: Path, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, memory_path="/mem")
    with (
        PageServer(tmp_path / "s", FileSource(memory)) as server,
        Firecracker(double.firecracker, jail=jail_of(double, base)) as vm,
        pytest.raises(VmthawValueError, match="outside the jail"),
    ):
        vm.load_snapshot(state, server)


def test_a_page_server_of_the_callers_inside_the_jail(double: FirecrackerDouble, base: Path, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, memory_path="/mem")
    with Firecracker(double.firecracker, jail=jail_of(double, base)) as vm:
        shutil.copy(memory, vm.root / "mem")
        (vm.root / "mem").chmod(0o644)
        socket_path = vm.root / "run" / "s"
        with PageServer(socket_path, FileSource(memory), owner_uid=UID, owner_gid=GID, required_uid=UID) as server:
            vm.load_snapshot(state, server)
            eventually(lambda: "256 pages are right" in vm.log_tail())
            server.stop("drain")


def test_an_id_that_is_taken_is_refused_and_not_removed(double: FirecrackerDouble, base: Path) -> None:
    jail = jail_of(double, base)
    with Firecracker(double.firecracker, jail=jail, vm_id="twice") as vm:
        with pytest.raises(StateError, match="exists already"):
            Firecracker(double.firecracker, jail=jail, vm_id="twice").start()
        assert vm.info()["id"] == "twice"
        assert vm.root.exists()


def test_what_the_jailer_refuses_is_told(double: FirecrackerDouble, base: Path) -> None:
    jail = Jail(UID, GID, jailer=double.jailer, chroot_base=base, arguments=["--bogus", "1"])
    with pytest.raises(FirecrackerDiedError, match="Found argument 'bogus'"):
        Firecracker(double.firecracker, jail=jail).start()


def test_a_state_file_that_is_missing_inside_is_firecrackers_to_refuse(
    double: FirecrackerDouble, base: Path, tmp_path: Path
) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, memory_path="/mem")
    with Firecracker(double.firecracker, jail=jail_of(double, base)) as vm:
        shutil.copy(state, vm.root / "vmstate")
        (vm.root / "vmstate").chmod(0o600)  # root's: the jailed user may not read it
        with pytest.raises(ApiRefusedError, match="Failed to open snapshot file: Permission denied"):
            vm.load_snapshot(vm.root / "vmstate", FileSource(memory))


def test_a_jail_in_which_something_is_mounted_stays(
    double: FirecrackerDouble, base: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmthaw.firecracker import _place

    with Firecracker(double.firecracker, jail=jail_of(double, base)) as vm:
        root = vm.root
        monkeypatch.setattr(_place, "_mounts_below", lambda _folder: [str(root / "disk")])
    assert root.exists()
    assert "is mounted in it" in caplog.text


def test_mounts_are_found_below_a_folder() -> None:
    from vmthaw.firecracker._place import _mounts_below

    assert "/proc" in _mounts_below(Path("/"))
    assert _mounts_below(Path("/proc/self/fdinfo")) == []


def test_the_guard_kills_a_jailed_vm_too(double: FirecrackerDouble, base: Path) -> None:
    """A change of user clears PR_SET_PDEATHSIG; the guard's pidfd is not impressed."""
    pids: list[int] = []
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            vm = Firecracker(double.firecracker, jail=jail_of(double, base)).start()
            os.write(write, str(vm.pid).encode())
            threading.Event().wait(30)
        finally:
            os._exit(1)
    os.close(write)
    try:
        pids.append(int(os.read(read, 32)))
        assert alive(pids[0])
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read)
    eventually(lambda: not alive(pids[0]))
