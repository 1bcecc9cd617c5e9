"""FuseServer: how it begins and, above all, how it ends."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.filesystem.conftest import our_mounts
from tests.support.eventually import eventually
from vmthaw.errors import StateError, VmthawOSError, VmthawValueError
from vmthaw.fuse import FuseServer, MemoryFs, PassthroughFs

pytestmark = pytest.mark.usefixtures("fuse_available")

SERVER = """
import os, sys, time
from vmthaw.fuse import FuseServer, MemoryFs
server = FuseServer(MemoryFs(root_mode=0o777), sys.argv[1], guard=sys.argv[2] == "guard").start()
open(os.path.join(sys.argv[1], "file"), "w").write("text")
print("mounted", flush=True)
{then}
"""


def start_server(where: Path, guard: bool, then: str = "time.sleep(600)") -> subprocess.Popen[str]:
    """Another process that has mounted there."""
    code = SERVER.format(then=textwrap.dedent(then))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(where), "guard" if guard else "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mounted\n", process.communicate(timeout=10)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status and standard error."""
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def is_mounted(where: Path) -> bool:
    return str(where.resolve()) in our_mounts()


def errno_of(call: Any, *arguments: Any) -> int:
    with pytest.raises(OSError, match=r".") as caught:
        call(*arguments)
    return caught.value.errno or 0


def close_dead(file: int) -> None:
    """close(2) asks the server as well; the descriptor is gone whatever it answers."""
    with contextlib.suppress(OSError):
        os.close(file)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """An empty directory to mount on."""
    path = tmp_path / "mount"
    path.mkdir()
    return path


def test_a_with_block_mounts_and_unmounts(where: Path) -> None:
    served = MemoryFs(root_uid=os.geteuid())
    with FuseServer(served, where, fsname="my name, with \\ and all") as server:
        assert server.serving
        assert server.mount_point == str(where.resolve())
        (where / "file").write_text("text")
        assert is_mounted(where)
        assert served.held_nodes == 1
        assert server.stats.requests >= 3
        assert server.stats.readers >= 1
    assert not is_mounted(where)
    assert list(where.iterdir()) == []
    assert (served.held_nodes, served.open_handles) == (0, 0)
    with FuseServer(served, where):
        assert (where / "file").read_text() == "text"


def test_where_nothing_can_be_mounted_is_said(where: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for path, number, text in [
        (tmp_path / "missing", errno.ENOENT, "make the directory"), (tmp_path / "file", errno.ENOTDIR, "directory"),
        (tmp_path / "full", errno.ENOTEMPTY, "nonempty"), (Path("/proc"), errno.EBUSY, "unmount it first"),
    ]:  # fmt: skip
        with pytest.raises(VmthawOSError, match=text) as caught:
            FuseServer(MemoryFs(), path).start()
        assert caught.value.errno == number
    with FuseServer(MemoryFs(), tmp_path / "full", nonempty=True):
        assert list((tmp_path / "full").iterdir()) == []
        with pytest.raises(VmthawOSError, match=r"fuse\.vmthaw"):
            FuseServer(MemoryFs(), tmp_path / "full", nonempty=True).start()
    assert (tmp_path / "full" / "file").exists()
    with pytest.raises(VmthawValueError, match="threads"):
        FuseServer(MemoryFs(), where, threads=0)
    with pytest.raises(VmthawValueError, match="max_write"):
        FuseServer(MemoryFs(), where, max_write=1000).start()


def test_stop_cuts_off_who_still_has_files_open(where: Path) -> None:
    server = FuseServer(MemoryFs(), where).start()
    file = os.open(where / "file", os.O_CREAT | os.O_RDWR)
    began = time.monotonic()
    server.stop(timeout=0.2)
    assert time.monotonic() - began < 5
    assert not is_mounted(where)
    assert errno_of(os.fsync, file) in (errno.ENOTCONN, errno.ECONNABORTED)
    close_dead(file)
    server.stop()
    with pytest.raises(StateError):
        server.start()


def test_stop_waits_for_files_that_are_closed_in_time(where: Path) -> None:
    served = MemoryFs()
    server = FuseServer(served, where).start()
    file = os.open(where / "file", os.O_CREAT | os.O_RDWR)
    timer = threading.Timer(0.3, os.close, [file])
    timer.start()
    server.stop(timeout=20)
    timer.join()
    assert not is_mounted(where)
    assert served.open_handles == 0


def test_an_unmount_by_somebody_else_ends_the_server(where: Path, root_user: None) -> None:
    with FuseServer(MemoryFs(), where) as server:
        assert not server.wait(0.05)
        subprocess.run(["umount", str(where)], check=True)
        assert server.wait(10)
        assert not server.serving
    with FuseServer(MemoryFs(), where):
        assert is_mounted(where)


def test_threads_that_hammer_it_while_it_stops_all_end(where: Path) -> None:
    server = FuseServer(MemoryFs(root_mode=0o777), where, threads=3).start()
    stopped = threading.Event()
    found: set[int] = set()

    def hammer(number: int) -> None:
        turn = 0
        while not stopped.is_set():
            turn += 1
            try:
                (where / f"{number}-{turn % 10}").write_text("x")
            except OSError as error:
                found.add(error.errno or 0)

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: server.stats.requests > 500)
    server.stop(0.05)
    stopped.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not is_mounted(where)
    assert found <= {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV}, found


def test_kill_9_with_a_guard_takes_the_mount_away(where: Path) -> None:
    process = start_server(where, guard=True)
    file = os.open(where / "file", os.O_RDONLY)
    process.kill()
    ended(process)
    eventually(lambda: not is_mounted(where))
    assert errno_of(os.pread, file, 1, 1 << 20) in (errno.ENOTCONN, errno.ECONNABORTED)
    close_dead(file)


def test_kill_9_without_a_guard_says_enotconn_and_the_next_server_clears_it(where: Path) -> None:
    process = start_server(where, guard=False)
    process.kill()
    ended(process)
    for call in (os.listdir, os.stat, lambda path: os.open(f"{path}/new", os.O_CREAT)):
        assert errno_of(call, str(where)) == errno.ENOTCONN
    with FuseServer(MemoryFs(), where):
        assert list(where.iterdir()) == []
    assert not is_mounted(where)


def test_kill_9_ends_a_request_that_waits(where: Path) -> None:
    """The server is stopped, so that a request is under way when it dies."""
    process = start_server(where, guard=False)
    process.send_signal(signal.SIGSTOP)
    asks = subprocess.Popen(["ls", str(where / "never-looked-up")], stderr=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        asks.wait(0.3)
    process.kill()
    ended(process)
    assert asks.communicate(timeout=20)[1] != ""
    assert asks.returncode != 0
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_forked_child_neither_serves_nor_keeps_the_connection(where: Path) -> None:
    process = start_server(
        where,
        guard=False,
        then="""
        child = os.fork()
        if child == 0:
            server.stop()  # nothing of it is the child's
            try:
                server.start()
            except Exception as error:
                os.write(1, f"{type(error).__name__}\\n".encode())  # one piece, beside the parent's
            time.sleep(600)
        os.write(1, f"{child}\\n".encode())
        time.sleep(600)
        """,
    )
    assert process.stdout is not None
    said = {process.stdout.readline().strip(), process.stdout.readline().strip()}
    child = int(next(word for word in said if word.isdigit()))
    try:
        assert "StateError" in said
        assert (where / "file").read_text() == "text"
        process.kill()
        process.wait(10)
        # Had the child kept the device, this would wait for it for ever.
        assert errno_of(os.listdir, where) == errno.ENOTCONN
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate(timeout=10)
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_server_forgotten_at_exit_is_unmounted_with_a_warning(where: Path) -> None:
    status, errors = ended(start_server(where, guard=True, then="import warnings; warnings.simplefilter('always')"))
    assert status == 0
    assert "ResourceWarning" in errors
    assert not is_mounted(where)


def test_a_server_that_is_dropped_is_unmounted_with_a_warning(where: Path) -> None:
    server = FuseServer(MemoryFs(), where).start()
    servers = [server]
    del server
    with pytest.warns(ResourceWarning, match="forgotten"):
        servers.clear()
    gc.collect()
    assert not is_mounted(where)


def test_ctrl_c_ends_a_wait(where: Path) -> None:
    process = start_server(where, guard=False, then="server.wait()")
    process.send_signal(signal.SIGINT)
    status, errors = ended(process)
    assert status != 0
    assert "KeyboardInterrupt" in errors
    eventually(lambda: not is_mounted(where))


def test_two_mounts_serve_one_directory(tmp_path: Path, where: Path) -> None:
    backing, second = tmp_path / "backing", tmp_path / "second"
    backing.mkdir()
    second.mkdir()
    first_fs, second_fs = PassthroughFs(backing), PassthroughFs(backing)
    with FuseServer(first_fs, where), FuseServer(second_fs, second, entry_timeout=0, attr_timeout=0):
        (where / "file").write_text("text")
        assert (second / "file").read_text() == "text"
    assert (first_fs.held_nodes, second_fs.held_nodes) == (0, 0)


def test_splicing_happens_where_it_is_asked_for(tmp_path: Path, where: Path) -> None:
    backing = tmp_path / "backing"
    backing.mkdir()
    (backing / "file").write_bytes(b"x" * (4 << 20))
    with FuseServer(PassthroughFs(backing), where, splice=True) as server:
        assert (where / "file").read_bytes() == b"x" * (4 << 20)
        assert server.stats.spliced > 0
        assert server.stats.refused == 0
