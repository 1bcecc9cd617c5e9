"""How a VM comes to a server, and how it leaves for another: detached, adopted, by a socket that was given."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource
from vmthaw import (
    DetachedSession,
    EndReason,
    FailurePolicy,
    FileSource,
    FillMode,
    PagerConfig,
    PageServer,
    Region,
)
from vmthaw.errors import (
    RegionError,
    VmthawError,
    VmthawValueError,
)
from vmthaw.testing import FakeVmm

pytestmark = pytest.mark.usefixtures("leaks_nothing")


def test_detached_vm_is_served_on_by_another_server(full_memory_file: Path, tmp_socket: Path) -> None:
    taken: list[DetachedSession] = []
    with FlakySource(full_memory_file) as slow, FileSource(full_memory_file) as source, RawVmm(PAGES) as vmm:
        first = PageServer(tmp_socket, slow.source, config=PagerConfig(fill_mode=FillMode.page)).start()
        vmm.handover(tmp_socket)
        data = full_memory_file.read_bytes()
        assert vmm.read(1) == data[4096:8192]
        vmm.remove(5, 2)
        slow.held.add(9)
        vmm.start_read(9)
        assert slow.entered.wait(10)
        threading.Timer(0.05, slow.let_go.set).start()
        first.stop("detach", taker=taken.append)
        assert first.ended_sessions[0].end_reason is EndReason.detached
        detached = taken[0]
        assert detached.label == f"pid {vmm.pid}"
        states = detached.page_states[0]
        assert (states[0], states[1], states[5], states[6]) == (0, 2, 3, 3)
        pidfd = os.pidfd_open(vmm.pid)
        second = PageServer.adopt(
            detached.fd, detached.regions, source, pidfd=pidfd, label="taken", page_states=detached.page_states
        )
        os.close(pidfd)
        os.close(detached.fd)
        assert vmm.finish_read() == data[9 * 4096 : 10 * 4096]
        assert vmm.read(5) == bytes(4096)
        assert vmm.read(300) == data[300 * 4096 : 301 * 4096]
        assert second.sessions[0].label == "taken"
        assert second.sessions[0].failure_policy is FailurePolicy.kill
        vmm.kill()
        second.wait(10)
        second.stop()


def test_detach_without_a_taker_is_refused(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server, FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        server.ready(10)
        with pytest.raises(VmthawValueError, match="taker"):
            server.stop("detach")
        with pytest.raises(VmthawValueError, match="'drop'"):
            server.stop("drop")  # type: ignore[arg-type]
        vmm.touch("random").check()


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_adopted_descriptor_is_served(
    with_pidfd: bool, source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, FakeVmm(full_memory_file) as vmm:
        listener.bind(str(tmp_socket))
        listener.listen()
        vmm.handover(tmp_socket)
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 1 << 16, 4)
        regions = [
            Region(host_address=host, guest_address=offset, size=size, source_offset=offset)
            for host, size, offset in vmm.regions
        ]
        pidfd = os.pidfd_open(vmm.pid) if with_pidfd else None
        config = PagerConfig(poll_interval=0.05)
        server = PageServer.adopt(fds[0], regions, source, pidfd=pidfd, config=config)
        for fd in (fds[0], *([pidfd] if pidfd is not None else [])):
            os.close(fd)
        session = server.sessions[0]
        assert session.failure_policy is (FailurePolicy.kill if with_pidfd else FailurePolicy.poison)
        assert session.label == "adopted"
        server.ready(1)
        vmm.touch("random").check()
        vmm.kill()
        server.wait(10)
        assert session.end_reason is EndReason.vm_exited
        server.stop()
    with pytest.raises(VmthawError, match="userfaultfd"):
        PageServer.adopt(0, regions, source)
    with pytest.raises((RegionError, VmthawError)):
        PageServer.adopt(0, [*regions, *regions], source)


def test_listening_socket_may_be_given(source: FileSource, full_memory_file: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_socket))
        listener.listen()
        with PageServer(source=source, socket_fd=listener.fileno()), FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random").check()
        assert tmp_socket.exists()  # systemd's, not ours
    with pytest.raises(VmthawValueError, match="socket_path or socket_fd"):
        PageServer(source=source)
    with pytest.raises(VmthawValueError, match="needs a source"):
        PageServer(tmp_socket)


def test_socket_is_for_its_owner_alone(source: FileSource, tmp_socket: Path) -> None:
    former = os.umask(0)
    try:
        with PageServer(tmp_socket, source):
            status = tmp_socket.stat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
    finally:
        os.umask(former)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_socket_may_be_given_to_an_owner(source: FileSource, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source, owner_uid=1234, owner_gid=4321):
        assert (tmp_socket.stat().st_uid, tmp_socket.stat().st_gid) == (1234, 4321)


def test_live_socket_is_not_stolen_and_a_stale_one_is_replaced(
    source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    with PageServer(tmp_socket, source):
        with pytest.raises(OSError, match="in use"):
            PageServer(tmp_socket, source)
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch([1]).check()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_socket))
    with PageServer(tmp_socket, source), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch([1]).check()


def test_file_that_is_no_socket_is_not_replaced(source: FileSource, tmp_socket: Path) -> None:
    tmp_socket.write_text("precious")
    with pytest.raises(VmthawError):
        PageServer(tmp_socket, source)
    assert tmp_socket.read_text() == "precious"
