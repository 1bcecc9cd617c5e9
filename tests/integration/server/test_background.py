"""What a server does beside answering faults: pre-warming, looking after registrations; and who may look at the VM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, FlakySource, failure_texts, the_session
from tests.support.eventually import eventually
from vmthaw import FailurePolicy, FileSource, FillMode, PagerConfig, PageServer, PrewarmList
from vmthaw.errors import VmthawValueError
from vmthaw.testing import FakeVmm


def test_boot_critical_list_is_those_three_pages() -> None:
    given = PrewarmList.from_boot_critical(0x100_1234, 0x8000, 0xFFF_0008)
    assert given.pages == [0x100_1234, 0x8000, 0xFFF_0008]
    assert given.guest_addresses() == [0x100_1000, 0x8000, 0xFFF_0000]
    wide = PrewarmList.from_boot_critical(0x100_1234, 0x8000, 0x10_2000, kernel_text_span=16 << 10)
    assert wide.pages == [*given.pages[:2], 0x10_2000]
    assert wide.guest_addresses() == [0x100_1000, 0x8000, 0x10_2000, 0x100_0000, 0x100_2000, 0x100_3000]
    with pytest.raises(VmthawValueError, match="power of two"):
        PrewarmList([1], kernel_text_span=5000)
    with pytest.raises(VmthawValueError, match="-1"):
        PrewarmList([-1])


@pytest.mark.parametrize("as_list", [True, False])
def test_prewarmed_pages_are_there_before_the_first_fault(
    as_list: bool, full_memory_file: Path, tmp_socket: Path
) -> None:
    addresses = [5 * 4096 + 7, 100 * 4096, 5 * 4096, 300 * 4096]
    prewarm = PrewarmList(addresses) if as_list else addresses
    with (
        FlakySource(full_memory_file) as slow,
        PageServer(tmp_socket, slow.source, config=PagerConfig(fill_mode=FillMode.page), prewarm=prewarm) as server,
        RawVmm(PAGES) as vmm,
    ):
        slow.delay = 0.05
        vmm.handover(tmp_socket)
        vmm.start_read(400)  # a fault that waits until the pre-warming is done
        vmm.finish_read()
        assert slow.asked == [5, 100, 300, 400]
        eventually(lambda: server.stats.installed == 4)  # counted just after the VM was woken
        assert server.stats.prewarmed == 3
        assert server.stats.faults == 4
        data = full_memory_file.read_bytes()
        for page in (5, 100, 300):
            assert vmm.read(page) == data[page * 4096 : (page + 1) * 4096]
        assert slow.asked == [5, 100, 300, 400]


def test_server_drains_a_vm_that_is_still_being_prewarmed(full_memory_file: Path, tmp_socket: Path) -> None:
    with FlakySource(full_memory_file) as slow, FakeVmm(full_memory_file) as vmm:
        slow.held.add(5)
        server = PageServer(tmp_socket, slow.source, prewarm=[5 * 4096]).start()
        vmm.handover(tmp_socket)
        assert slow.entered.wait(10)
        the_session(server).drain(20)
        slow.let_go.set()
        server.stop("drain")
        assert server.ended_sessions[0].end_reason.name == "drained"
        vmm.verify(only_touched=False).check()


def test_failing_prewarm_page_is_reported(full_memory_file: Path, tmp_socket: Path) -> None:
    config = PagerConfig(retries=1, retry_min=0.01, retry_max=0.01, failure_policy=FailurePolicy.poison)
    with (
        FlakySource(full_memory_file) as flaky,
        PageServer(tmp_socket, flaky.source, config=config, prewarm=[9 * 4096, 1 << 40]) as server,
        RawVmm(PAGES) as vmm,
    ):
        flaky.failing.add(9)
        vmm.handover(tmp_socket)
        eventually(lambda: "offset 0x9000" in failure_texts(server))
        assert any("guest address 0x10000000000 is in no region" in text for text in the_session(server).failures)
        assert len(vmm.read(10)) == 4096
        with pytest.raises(OSError, match="Bad address"):
            vmm.read(9)


def test_lost_registration_is_found_and_mended(full_memory_file: Path, tmp_socket: Path) -> None:
    """An older Firecracker's balloon maps anew over its memory and says nothing."""
    data = full_memory_file.read_bytes()
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source, config=PagerConfig(poll_interval=0.05, fill_mode=FillMode.page)) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        assert vmm.read(3) == data[3 * 4096 : 4 * 4096]
        assert server.stats.reinstalls == 0
        vmm.call("map_anew", 10, 20)
        assert vmm.read(12) == bytes(4096)
        eventually(lambda: server.stats.reinstalls == 1)
        eventually(lambda: any("registration" in text for text in the_session(server).failures))
        assert vmm.read(11) == bytes(4096)
        assert vmm.read(40) == data[40 * 4096 : 41 * 4096]
        vmm.remove(10, 20)
        eventually(lambda: server.stats.removed >= 20)
        server.stop("drain")
        assert vmm.read(15) == bytes(4096)
        assert vmm.read(200) == data[200 * 4096 : 201 * 4096]


def test_vm_that_mapped_anew_is_drained_all_the_same(full_memory_file: Path, tmp_socket: Path) -> None:
    data = full_memory_file.read_bytes()
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source, config=PagerConfig(poll_interval=0)) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.call("map_anew", 10, 20)
        server.ready(10)
        server.stop("drain", timeout=5)
        assert server.ended_sessions[0].end_reason.name == "drained"
        assert vmm.read(12) == bytes(4096)
        assert vmm.read(40) == data[40 * 4096 : 41 * 4096]


@pytest.mark.timeout(90)
def test_debugger_on_a_vm_loses_nothing(full_memory_file: Path, tmp_socket: Path) -> None:
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("no gdb")
    with (
        FileSource(full_memory_file) as source,
        PageServer(tmp_socket, source, config=PagerConfig(fill_mode=FillMode.page)) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch(range(20)).check()
        base = vmm.regions[0][0]
        commands = [f"x/2gx {base + 5 * 4096:#x}", f"x/2gx {base + 300 * 4096:#x}", "detach"]
        done = subprocess.run(
            [
                gdb,
                "-batch",
                "-nx",
                "-iex",
                "set auto-load off",
                "-iex",
                "set debuginfod enabled off",
                "-p",
                str(vmm.pid),
            ]
            + [word for command in commands for word in ("-ex", command)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "ptrace: Operation not permitted" in done.stderr:
            pytest.skip("ptrace is not permitted")
        assert f"{base + 5 * 4096:#x}" in done.stdout, done.stderr  # it read what was there
        assert vmm.alive
        vmm.touch("random", threads=4).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
        assert len(server.sessions) == 1
