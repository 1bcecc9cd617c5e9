"""`FakeVmm` against the textbook page server, right and wrong: it must pass the one and catch every other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmthaw.errors import VmthawError, VmthawValueError
from vmthaw.testing import FakeVmm, FakeVmmDiedError, FindingsError, TextbookServer, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
PAGES = 512


@pytest.fixture
def vmm(memory_file: Path, tmp_socket: Path) -> Iterator[FakeVmm]:
    with TextbookServer(tmp_socket, memory_file), FakeVmm(memory_file) as vmm:
        vmm.handover(tmp_socket)
        yield vmm


def test_right_server_passes(vmm: FakeVmm) -> None:
    report = vmm.touch("random", seed=1).check()
    assert report.touches == PAGES
    assert len(report.latencies_ns) == PAGES
    assert report.latencies_ns.min() > 0
    assert report.latencies_ns.sum() <= report.duration_ns
    assert vmm.verify(only_touched=False).check().ok


def test_only_touched_pages_become_resident(vmm: FakeVmm) -> None:
    assert vmm.resident_pages == 0
    vmm.touch("subset", count=100, seed=2).check()
    assert vmm.resident_pages == 100
    assert vmm.rss > 100 * 4096


def test_written_words_stay(vmm: FakeVmm) -> None:
    vmm.touch("random", seed=1, write=True, threads=4).check()
    vmm.touch("sequential", write=True).check()
    vmm.verify(only_touched=False).check()


@pytest.mark.parametrize("everybody", [False, True])
def test_many_threads_share_a_plan(vmm: FakeVmm, everybody: bool) -> None:
    report = vmm.touch("random", seed=4, threads=4, everybody_touches_all=everybody, cpus=[0]).check()
    assert report.touches == PAGES * (4 if everybody else 1)


def test_patterns_do_what_they_say(vmm: FakeVmm) -> None:
    assert vmm.touch("stride", stride=7, count=10).touches == 10
    assert vmm.resident_pages == 10
    assert vmm.touch("zipf", count=2000, seed=5).check().touches == 2000
    assert vmm.touch([1, 2, 3, 2, 1]).check().touches == 5
    with pytest.raises(VmthawValueError, match="only 512 pages"):
        vmm.touch("subset", count=1000)
    with pytest.raises(VmthawValueError, match="not mapped"):
        vmm.touch([PAGES])
    with pytest.raises(VmthawValueError, match="pattern is sideways"):
        vmm.touch("sideways")  # type: ignore[arg-type]


def test_removed_pages_read_as_zeros(vmm: FakeVmm) -> None:
    vmm.touch("sequential", write=True).check()
    vmm.remove([(0, 100), (200, 1)]).check()
    assert vmm.resident_pages == PAGES - 101
    vmm.touch(range(150)).check()
    vmm.touch(range(50), write=True).check()
    vmm.verify(only_touched=False).check()


def test_a_storm_begins_when_every_thread_touches(vmm: FakeVmm) -> None:
    for seed in range(50):
        assert vmm.storm(1, threads=2, seed=seed).check().touches >= 2


@pytest.mark.parametrize("threads", [1, 2])
def test_storm_of_removals_during_touches_passes(vmm: FakeVmm, threads: int) -> None:
    report = vmm.storm(300, max_pages=32, threads=threads, seed=threads).check()
    assert report.removals == 300
    assert report.touches > 0


@pytest.mark.parametrize("kind", ["anonymous", "shmem"])
def test_memory_of_each_kind_is_served(kind: str, full_memory_file: Path, tmp_socket: Path) -> None:
    with TextbookServer(tmp_socket, full_memory_file), FakeVmm(full_memory_file, kind=kind) as vmm:  # type: ignore[arg-type]
        vmm.handover(tmp_socket)
        vmm.touch("random", write=True).check()
        vmm.remove([(7, 9)]).check()
        vmm.verify(only_touched=False).check()


def test_huge_pages_are_served(hugetlb_pages: Callable[[int], int], tmp_path: Path, tmp_socket: Path) -> None:
    hugetlb_pages(6)  # COPY from a source page that is not mapped yet holds a second huge page for a moment
    path = tmp_path / "huge"
    write_memory_file(path, 8 << 20, seed=1)
    with TextbookServer(tmp_socket, path), FakeVmm(path, kind="hugetlb") as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("sequential", write=True).check()
        vmm.verify(only_touched=False).check()


def test_regions_map_to_their_file_offsets(full_memory_file: Path, tmp_socket: Path) -> None:
    regions = [(64 * 4096, 128 * 4096), (128 * 4096, 0)]
    with TextbookServer(tmp_socket, full_memory_file), FakeVmm(full_memory_file, regions=regions) as vmm:
        assert [(size, offset) for _, size, offset in vmm.regions] == regions
        assert all(host % (2 << 20) == 0 for host, _, _ in vmm.regions)
        vmm.handover(tmp_socket)
        vmm.touch("random").check()


# What a wrong server does must show.


def test_one_wrong_byte_is_caught(full_memory_file: Path, tmp_socket: Path) -> None:
    with TextbookServer(tmp_socket, full_memory_file, wrong_byte_at_fault=100), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        report = vmm.touch("sequential")
        assert report.mismatch_count == 1
        wrong = report.mismatches[0]
        assert (wrong.page, wrong.byte_offset, wrong.rule) == (99, 2048, "file")
        assert wrong.found ^ wrong.expected == 1
        with pytest.raises(FindingsError, match="page 99") as caught:
            report.check()
        assert caught.value.report is report


def test_neighbours_page_is_caught(full_memory_file: Path, tmp_socket: Path) -> None:
    with TextbookServer(tmp_socket, full_memory_file, wrong_page_at_fault=100), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        report = vmm.touch("sequential")
        assert [mismatch.page for mismatch in report.mismatches] == [99]
        assert report.mismatches[0].found == 98 + 1  # the page's number in clear


def test_one_stale_page_is_caught(full_memory_file: Path, tmp_socket: Path) -> None:
    with TextbookServer(tmp_socket, full_memory_file, stale_after_remove=True), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("sequential").check()
        vmm.remove([(30, 1)]).check()
        report = vmm.verify(only_touched=False)
        assert [(mismatch.page, mismatch.rule) for mismatch in report.mismatches] == [(30, "zero")]


def test_stale_pages_in_a_storm_are_caught(full_memory_file: Path, tmp_socket: Path) -> None:
    with TextbookServer(tmp_socket, full_memory_file, stale_after_remove=True), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        assert vmm.storm(100).mismatch_count > 0


@pytest.mark.parametrize("write", [False, True])
def test_one_lost_fault_is_reported_and_does_not_hang(full_memory_file: Path, tmp_socket: Path, write: bool) -> None:
    with TextbookServer(tmp_socket, full_memory_file, lost_fault_at_fault=100), FakeVmm(full_memory_file) as vmm:
        vmm.handover(tmp_socket)
        report = vmm.touch("sequential", timeout=0.5, write=write)
        assert report.timed_out
        assert report.stuck_pages == [99]
        assert report.touches == 99
        with pytest.raises(FindingsError, match=r"pages \[99\] were not answered"):
            report.check()


def test_remove_that_nobody_reads_is_reported(memory_file: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_socket))
        listener.listen()
        with FakeVmm(memory_file) as vmm:
            vmm.handover(tmp_socket)
            assert vmm.remove([(5, 2)], timeout=0.3).stuck_pages == [5]


# Its own life.


def test_moved_and_unmapped_pages_are_known(memory_file: Path) -> None:
    with FakeVmm(memory_file, size=64 * 4096) as vmm:
        vmm.remap([(0, 4)]).check()
        vmm.unmap([(10, 2)]).check()
        with pytest.raises(VmthawValueError, match="not mapped"):
            vmm.touch([10])
        with pytest.raises(VmthawValueError, match="not one mapped run"):
            vmm.remove([(2, 4)])  # half of it has moved away


def test_nobody_listening_is_an_error(memory_file: Path, tmp_socket: Path) -> None:
    with FakeVmm(memory_file) as vmm, pytest.raises(FileNotFoundError) as caught:
        vmm.handover(tmp_socket)
    assert isinstance(caught.value, VmthawError)


def test_kill_ends_the_process_and_later_calls_say_so(memory_file: Path) -> None:
    with FakeVmm(memory_file) as vmm:
        vmm.kill()
        vmm.kill()
        assert not vmm.alive
        with pytest.raises(FakeVmmDiedError):
            vmm.touch()


def test_killed_from_outside_is_an_error_and_not_a_hang(memory_file: Path) -> None:
    with FakeVmm(memory_file) as vmm:
        os.kill(vmm.pid, signal.SIGKILL)
        with pytest.raises(FakeVmmDiedError):
            vmm.touch()


def test_closing_the_socket_hangs_up_and_the_vm_lives_on(memory_file: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_socket))
        listener.listen()
        with FakeVmm(memory_file) as vmm:
            vmm.handover(tmp_socket, descriptor="none")
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                assert connection.recv(1 << 16).decode() == vmm.handover_text()
                assert not vmm.peer_has_hung_up
                vmm.close_socket()
                assert connection.recv(1) == b""
                assert vmm.alive


def test_handover_can_be_odd(memory_file: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, FakeVmm(memory_file) as vmm:
        listener.bind(str(tmp_socket))
        listener.listen()

        def received(**options: object) -> list[tuple[bytes, int]]:
            vmm.handover(tmp_socket, close_afterwards=True, **options)  # type: ignore[arg-type]
            connection, _ = listener.accept()
            parts: list[tuple[bytes, int]] = []
            with connection:
                while True:
                    data, fds, _, _ = socket.recv_fds(connection, 1 << 16, 16)
                    for fd in fds:
                        os.close(fd)
                    if not data:
                        return parts
                    parts.append((data, len(fds)))

        text = vmm.handover_text().encode()
        assert received() == [(text, 1)]
        assert received(text="") == []
        assert received(text="garbage", descriptor="none") == [(b"garbage", 0)]
        assert received(surplus_descriptors=3) == [(text, 4)]
        assert received(splits=[5], part_delay=0.01) == [(text[:5], 1), (text[5:], 0)]  # descriptors end a read
        assert received(splits=[5], descriptor_part=2) == [(text, 0)]  # never sent
        assert b"page_size_kib" in received(page_size_fields="page_size_kib")[0][0]


def test_many_vms_live_in_one_process(memory_file: Path) -> None:
    with FakeVmm.many(64, memory_file) as host:
        assert len(host.vms) == 64
        assert {vm.pid for vm in host.vms} == {host.pid}
        host.vms[3].close()
        assert host.vms[4].resident_pages == 0


def test_child_dies_with_its_parent(memory_file: Path, eventually: Callable[..., object]) -> None:
    code = (
        "import sys, os\nfrom vmthaw.testing import FakeVmm\n"
        f"vmm = FakeVmm({str(memory_file)!r})\nprint(vmm.pid, flush=True)\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    pid = int(done.stdout)
    eventually(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())


def test_ctrl_c_ends_a_wait(full_memory_file: Path, tmp_socket: Path) -> None:
    code = (
        "import sys\nfrom vmthaw.testing import FakeVmm, TextbookServer\n"
        f"memory, path = {str(full_memory_file)!r}, {str(tmp_socket)!r}\n"
        "with TextbookServer(path, memory, lost_fault_at_fault=1), FakeVmm(memory) as vmm:\n"
        "    vmm.handover(path)\n    print('ready', flush=True)\n    vmm.touch(timeout=100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert b"KeyboardInterrupt" in errors
        assert time.monotonic() - start < 10


def test_memory_file_is_deterministic(tmp_path: Path) -> None:
    first, second, dense, other = (tmp_path / name for name in "abcd")
    write_memory_file(first, 300_001, zero_share=0.5, seed=1)
    write_memory_file(second, 300_001, zero_share=0.5, seed=1)
    write_memory_file(dense, 300_001, zero_share=0.5, seed=1, sparse=False)
    write_memory_file(other, 300_001, zero_share=0.5, seed=2)
    assert first.read_bytes() == second.read_bytes() == dense.read_bytes() != other.read_bytes()
    assert first.stat().st_size == 300_001
    assert first.stat().st_blocks < dense.stat().st_blocks
    pages = [first.read_bytes()[at : at + 4096] for at in range(0, 300_001, 4096)]
    data = [(number, page) for number, page in enumerate(pages) if any(page)]
    assert 20 < len(data) < 55
    assert all(int.from_bytes(page[:8], "little") == number + 1 for number, page in data)
    assert len({page[8:16] for _, page in data}) == len(data)
    with pytest.raises(VmthawValueError):
        write_memory_file(first, 4096, zero_share=1.5)
