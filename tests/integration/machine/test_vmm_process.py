"""A machine in a process of its own: restored, commanded, measured, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.machine.conftest import MEMORY, SEED
from tests.support.eventually import eventually
from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw import FileSource, PageServer
from vmthaw.errors import (
    GuestMismatchError,
    SnapshotError,
    StateError,
    VmmDiedError,
    VmthawValueError,
)
from vmthaw.machine import FIRST_WORK_PAGE, Lazy, VmmProcess

PAGES = MEMORY // 4096
pytestmark = pytest.mark.usefixtures("kvm_available")


def ended(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return status == "Z"


def test_a_machine_is_created_and_commanded_from_afar() -> None:
    with VmmProcess() as vmm:
        assert vmm.alive
        vmm.create(MEMORY)
        report = vmm.command("fill", seed=SEED, zero_share=0.3)
        assert (report.ok, report.operation, report.pages) == (True, "fill", PAGES - FIRST_WORK_PAGE)
        assert report.extra["round_trip_ns"] >= report.duration_ns > 0
        vmm.command("rewrite", seed=4, share=0.2)
        assert vmm.command("verify").check().words == (PAGES - FIRST_WORK_PAGE) * 512
        vmm.command("touch", order="random", count=100).check()
        assert (vmm.workload.seed, len(vmm.workload.rewrites)) == (SEED, 1)
        number = next(n for n in range(FIRST_WORK_PAGE, PAGES) if vmm.workload.page(n) != bytes(4096))
        assert vmm.read(number * 4096, 4096) == vmm.workload.page(number)
        vmm.write(number * 4096, b"wrong")
        with pytest.raises(GuestMismatchError):
            vmm.command("verify").check()
    assert not vmm.alive


@pytest.mark.parametrize("lazy", [False, "mapping", True])
def test_a_restore_tells_its_timings(lazy: Lazy, snapshot: Path, userfaultfd_available: None) -> None:
    with VmmProcess() as vmm:
        timings = vmm.restore(snapshot, lazy=lazy)
        assert timings.memory_bytes == MEMORY
        assert timings.first_answer_ns is not None
        assert 0 < timings.resume_ns < timings.first_answer_ns < timings.round_trip_ns
        vmm.command("check_vectors", seed=31).check()
        vmm.command("verify").check()
        assert vmm.restore(snapshot, lazy=lazy, ping=False).first_answer_ns is None
        vmm.command("verify").check()


def test_a_page_server_here_serves_a_vmm_there(
    snapshot: Path, tmp_path: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    with PageServer(tmp_socket, FileSource(snapshot / "memory.bin")) as server:
        with VmmProcess() as vmm:
            vmm.restore(snapshot, lazy=tmp_socket)
            server.ready(5.0)
            (session,) = server.sessions
            assert session.pid == vmm.pid
            vmm.command("verify").check()
            vmm.command("rewrite", seed=8, share=0.2)
            vmm.snapshot(tmp_path / "second")
            assert server.stats.faults > 0
        server.wait(10.0)
    with VmmProcess() as vmm:
        vmm.restore(tmp_path / "second", lazy="mapping")
        vmm.command("verify").check()
        assert len(vmm.workload.rewrites) == 2


def test_lazy_memory_is_not_there_before_it_is_touched(
    snapshot: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    with (
        PageServer(tmp_socket, FileSource(snapshot / "memory.bin")) as server,
        VmmProcess() as vmm,
    ):
        vmm.restore(snapshot, lazy=tmp_socket)
        before = vmm.memory_usage()
        few = server.stats.installed
        vmm.command("verify").check()
        after = vmm.memory_usage()
        assert few < 300
        assert server.stats.installed > 1000
        assert after.rss - before.rss > 3 << 20
        assert after.pss > 0
        assert after.anonymous > before.anonymous


def test_what_the_machine_raises_there_is_raised_here(snapshot: Path, tmp_path: Path, tmp_socket: Path) -> None:
    with VmmProcess() as vmm:
        with pytest.raises(StateError, match="has no machine"):
            vmm.command("ping")
        with pytest.raises(FileNotFoundError, match=r"state\.bin"):
            vmm.restore(tmp_path)
        with pytest.raises(FileNotFoundError, match="is the page server running"):
            vmm.restore(snapshot, lazy=tmp_socket)
        (tmp_path / "state.bin").write_bytes(b"rubbish" * 100)
        with pytest.raises(SnapshotError, match="magic") as info:
            vmm.restore(tmp_path)
        assert info.value.field == "magic"
        vmm.create(MEMORY)
        with pytest.raises(VmthawValueError, match="work area"):
            vmm.command("verify", pages=PAGES)
        with pytest.raises(StateError, match="not 'close'"):
            vmm.command("close")
        vmm.command("ping").check()


def test_a_command_that_takes_too_long_is_finished_later() -> None:
    with VmmProcess() as vmm:
        vmm.create(MEMORY)
        with pytest.raises(TimeoutError):
            vmm.command("spin", iterations=1 << 28, timeout=0.02)
        assert vmm.command("finish").iterations == 1 << 28


def test_ctrl_c_ends_the_wait_and_the_vmm_lives_on() -> None:
    with VmmProcess() as vmm:
        vmm.create(MEMORY)
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            vmm.command("spin", iterations=1 << 29, timeout=30.0)
        assert time.monotonic() - start < 5.0
        timer.join()
        # The answer that nobody waited for is not taken for that of the next call.
        assert vmm.command("ping").operation == "ping"


def test_a_killed_vmm_is_gone_at_once_also_in_the_middle_of_a_command(
    snapshot: Path, tmp_socket: Path, userfaultfd_available: None
) -> None:
    with PageServer(tmp_socket, FileSource(snapshot / "memory.bin")) as server:
        vmm = VmmProcess()
        vmm.restore(snapshot, lazy=tmp_socket)
        with pytest.raises(TimeoutError):
            vmm.command("spin", timeout=0.02)
        vmm.kill()
        vmm.kill()
        assert not vmm.alive
        server.wait(10.0)
    with pytest.raises(VmmDiedError, match="killed or closed"):
        vmm.command("ping")
    with pytest.raises(StateError, match="has ended"):
        vmm.memory_usage()


def test_a_vmm_that_dies_is_noticed() -> None:
    with VmmProcess() as vmm:
        vmm.create(MEMORY)
        os.kill(vmm.pid, signal.SIGKILL)
        with pytest.raises(VmmDiedError, match="has ended"):
            vmm.command("ping")


def test_a_vmm_ends_with_its_parent_even_in_the_middle_of_a_command() -> None:
    program = (
        "import os\n"
        "from vmthaw.machine import VmmProcess\n"
        "vmm = VmmProcess()\n"
        "vmm.create(8 << 20)\n"
        "try:\n"
        "    vmm.command('spin', timeout=0.02)\n"
        "except TimeoutError:\n"
        "    pass\n"
        "print(vmm.pid, flush=True)\n"
        'vmm._socket.sendall(b\'{"id": 99, "op": "command", "args": {"name": "finish", "arguments": {}}}\\n\')\n'
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(lambda: ended(int(done.stdout)))


def test_a_forked_child_neither_uses_nor_ends_the_vmm() -> None:
    with VmmProcess() as vmm:

        def use_after_kill() -> None:
            vmm.kill()
            vmm.create(MEMORY)

        assert_inert_in_a_forked_child(use_after_kill)
        vmm.create(MEMORY)
        vmm.command("ping").check()
