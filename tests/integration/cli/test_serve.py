"""`vmthaw serve` in a process of its own, with stand-ins for the VMM."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.cli.serving import WAIT_S, Serving, environment
from tests.support.eventually import eventually
from vmthaw.cli._errors import Exit
from vmthaw.testing import FakeVmm, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
SIZE = 16 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    write_memory_file(path, SIZE, zero_share=0.3, seed=5)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_the_vm_has_all_its_memory(number: signal.Signals, memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory) as serving, FakeVmm(memory) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("random", pages=500, seed=1).check()
        serving.until("first_fault")
        serving.signal(number)
        assert serving.wait() == Exit.OK
        vmm.verify(only_touched=False).check()
        (stopping,) = serving.named("stopping")
        assert stopping["reason"] == number.name
        assert stopping["vms"] == [f"pid {vmm.pid}"]
        (closed,) = serving.named("closed")
        assert closed["end_reason"] == "drained"
        assert closed["stats"]["failed"] == 0
        assert serving.named("stopped")[0]["vms_in_all"] == 1
    assert not tmp_socket.exists()


def test_a_signal_before_any_vm_came_ends_it(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory) as serving:
        serving.signal(signal.SIGTERM)
        assert serving.wait() == Exit.OK


def test_every_line_is_json_and_tells_the_story(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory, "--stats-interval", "0.05", "--once") as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=1).check()
            serving.until("stats", 2)
            label = f"pid {vmm.pid}"
        assert serving.wait() == Exit.OK
        kinds = [event["event"] for event in serving.events if event["event"] not in ("stats", "log")]
        assert kinds == ["listening", "connected", "first_fault", "closed", "stopping", "stopped"]
        assert all({"event", "time", "text"} <= set(event) for event in serving.events)
        (connected,) = serving.named("connected")
        assert (connected["vm"], connected["size_bytes"], connected["regions"]) == (label, SIZE, 1)
        (closed,) = serving.named("closed")
        assert closed["end_reason"] == "vm_exited"
        assert closed["stats"]["installed"] == SIZE // 4096
        assert serving.errors == []


def test_pages_asked_for_are_there_first(memory: Path, tmp_socket: Path) -> None:
    options = ("--prewarm", "0x1234", "--prewarm", "65536", "--layout", "x86_64", "--mode", "pread", "--once")
    with Serving(tmp_socket, memory, *options, "--fill-mode", "page", "--failure-policy", "poison") as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            serving.until("connected")
            eventually(lambda: vmm.resident_pages == 2)
            vmm.verify(only_touched=False).check()
        assert serving.wait() == Exit.OK
        assert serving.named("closed")[0]["stats"]["prewarmed"] == 2


def test_two_vms_at_once_and_one_after_them(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory) as serving:
        with FakeVmm(memory) as one, FakeVmm(memory) as two:
            for vmm in (one, two):
                vmm.handover(tmp_socket)
            calls = [vmm.start_touch("random", seed=2) for vmm in (one, two)]
            for call in calls:
                FakeVmm.touch_result(call).check()
            for vmm in (one, two):
                vmm.verify(only_touched=False).check()
        serving.until("closed", 2)
        with FakeVmm(memory) as three:
            three.handover(tmp_socket)
            three.touch("sequential").check()
            serving.signal(signal.SIGTERM)
            assert serving.wait() == Exit.OK
            three.verify(only_touched=False).check()
        assert serving.named("stopped")[0]["vms_in_all"] == 3


def test_once_ends_when_the_vms_that_came_are_gone(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory, "--once") as serving:
        with FakeVmm(memory) as one, FakeVmm(memory) as two:
            for vmm in (one, two):
                vmm.handover(tmp_socket)
            serving.until("connected", 2)
            one.close()
            serving.until("closed")
            two.touch("random", seed=2).check()
        assert serving.wait() == Exit.OK


def test_on_exit_kill_kills_the_vm(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory, "--on-exit", "kill") as serving, FakeVmm(memory) as vmm:
        vmm.handover(tmp_socket)
        serving.until("connected")
        serving.signal(signal.SIGTERM)
        assert serving.wait() == Exit.OK
        eventually(lambda: not vmm.alive)
        assert serving.named("closed")[0]["end_reason"] == "killed"


@pytest.fixture
def endless_drain(memory: Path, tmp_socket: Path) -> Iterator[Callable[..., tuple[Serving, FakeVmm]]]:
    """`endless_drain(*options)`: a server told to end whose file has shrunk and is tried again for ever; and its VM."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> tuple[Serving, FakeVmm]:
            serving = stack.enter_context(Serving(tmp_socket, memory, "--retries", "1000", *options))
            vmm = stack.enter_context(FakeVmm(memory))
            vmm.handover(tmp_socket)
            vmm.touch("sequential", pages=10).check()
            serving.until("connected")
            os.truncate(memory, 1 << 20)
            serving.signal(signal.SIGTERM)
            serving.until("stopping")
            return serving, vmm

        yield start


Drain = Callable[..., tuple[Serving, FakeVmm]]


def test_what_is_not_drained_in_time_meets_the_failure_policy_and_is_named(endless_drain: Drain) -> None:
    serving, vmm = endless_drain("--drain-timeout", "0.3")
    assert serving.wait() == Exit.FAILED
    eventually(lambda: not vmm.alive)
    assert [event["end_reason"] for event in serving.named("closed")] in (["killed"], ["failed"])
    warnings = [event["text"] for event in serving.named("log") if event["level"] == "warning"]
    assert any(f"pid {vmm.pid} was not drained: draining took longer" in text for text in warnings), warnings


def test_a_second_signal_kills_the_vm_at_once(endless_drain: Drain) -> None:
    serving, vmm = endless_drain()
    assert serving.process.poll() is None
    serving.signal(signal.SIGINT)
    assert serving.wait() == Exit.FAILED
    eventually(lambda: not vmm.alive)
    (killed,) = serving.named("killed")
    assert killed["text"] == f"SIGINT again: pid {vmm.pid} is killed, because it still misses pages"


def test_a_second_signal_leaves_the_vm_where_hanging_was_asked_for(endless_drain: Drain) -> None:
    serving, vmm = endless_drain("--failure-policy", "hang")
    serving.signal(signal.SIGTERM)
    assert serving.wait() == Exit.FAILED
    assert vmm.alive
    (left,) = serving.named("left")
    assert left["vms"] == [f"pid {vmm.pid}"]
    assert vmm.touch([3000], timeout=0.3).stuck_pages == [3000]


def test_a_refused_hand_over_is_said_and_the_next_vm_is_served(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory) as serving:
        with FakeVmm(memory) as bad:
            bad.handover(tmp_socket, text="not a hand-over")
            (refused,) = serving.until("refused")
            assert refused["reason"]
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=3).check()
            serving.signal(signal.SIGTERM)
            assert serving.wait() == Exit.FAILED
            vmm.verify(only_touched=False).check()


def test_a_killed_server_leaves_the_vm_waiting_never_zeros(memory: Path, tmp_socket: Path) -> None:
    """What the help says about SIGKILL."""
    with FakeVmm(memory) as vmm:
        with Serving(tmp_socket, memory, "--fill-mode", "page") as serving:
            vmm.handover(tmp_socket)
            vmm.touch("sequential", pages=100).check()
            serving.kill()
        report = vmm.touch([2000], timeout=0.5)
        assert report.timed_out
        assert report.stuck_pages == [2000]
        assert tmp_socket.exists()
    with Serving(tmp_socket, memory) as serving, FakeVmm(memory) as vmm:
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=4).check()


def test_a_live_servers_socket_is_not_stolen(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory):
        second = subprocess.run(
            [sys.executable, "-m", "vmthaw", "serve", "--socket", str(tmp_socket), "--memory", str(memory)],
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert second.returncode == Exit.UNABLE
        (line,) = second.stderr.splitlines()
        assert line.startswith("vmthaw: ")
        assert str(tmp_socket) in line


def test_the_socket_is_its_owners_alone(memory: Path, tmp_socket: Path) -> None:
    owner = "1:2" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
    with Serving(tmp_socket, memory, "--owner", owner):
        found = tmp_socket.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert f"{found.st_uid}:{found.st_gid}" == owner


def test_a_vmm_of_another_user_is_refused(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory, "--required-uid", str(os.geteuid() + 1)) as serving, FakeVmm(memory) as vmm:
        with contextlib.suppress(OSError):
            vmm.handover(tmp_socket)
        (refused,) = serving.until("refused")
        assert str(os.geteuid()) in refused["reason"]


def test_an_open_socket_is_taken_by_number(memory: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_socket))
        listener.listen()
        number = listener.fileno()
        with (
            Serving(tmp_socket, memory, "--socket-fd", str(number), pass_fds=[number]) as serving,
            FakeVmm(memory) as vmm,
        ):
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=4).check()
            serving.signal(signal.SIGTERM)
            assert serving.wait() == Exit.OK
    assert tmp_socket.exists()


def test_the_socket_of_a_socket_unit_is_taken(memory: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_socket))
        listener.listen()
        program = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_FDS'] = '1'\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'vmthaw', 'serve', '--once', '--memory', sys.argv[2]])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(listener.fileno()), str(memory)], pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with FakeVmm(memory) as vmm:
                vmm.handover(tmp_socket)
                vmm.touch("random", seed=4).check()
            assert process.wait(WAIT_S) == Exit.OK
        finally:
            process.kill()
            process.wait(WAIT_S)


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(memory: Path, tmp_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        address = tmp_socket.with_name("notify")
        listener.bind(str(address))
        listener.settimeout(WAIT_S)
        options = ("--socket", str(tmp_socket))
        with Serving(tmp_socket, memory, *options, env=environment(NOTIFY_SOCKET=str(address))) as serving:
            assert listener.recv(4096).startswith(b"READY=1\n")
            serving.signal(signal.SIGTERM)
            assert listener.recv(4096) == b"STOPPING=1"
            assert serving.wait() == Exit.OK


def test_plain_lines_go_to_standard_error(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory, "--once", as_json=False) as serving:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=4).check()
        assert serving.wait() == Exit.OK
        assert serving.lines == []
        story = "\n".join(serving.errors)
        for part in ("serving ", "handed over 16 MiB in 1 region(s)", "first fault", "vm exited; ", "served 1 VM(s)"):
            assert part in story


def test_a_reader_that_goes_away_does_not_end_the_server(memory: Path, tmp_socket: Path) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "vmthaw", "serve", "--memory", str(memory), "--socket", str(tmp_socket), "--json"]
    process = subprocess.Popen([*command, "--stats-interval", "0.02"], stdout=writing, stderr=subprocess.PIPE)
    try:
        os.close(writing)
        eventually(tmp_socket.exists, WAIT_S)
        os.close(reading)
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("random", seed=4).check()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=WAIT_S)
            assert (process.returncode, errors) == (0, b"")
            vmm.verify(only_touched=False).check()
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def test_a_terminal_has_a_live_line(memory: Path, tmp_socket: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "vmthaw", "serve", "--memory", str(memory), "--socket", str(tmp_socket), "--once"]
    variables = environment(TERM="xterm", COLUMNS="120")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=variables
    )
    os.close(theirs)
    seen = b""
    try:
        eventually(tmp_socket.exists, WAIT_S)
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch("sequential").check()
            while b"1 VM(s) now, 1 in all; " not in seen:
                seen += os.read(ours, 4096)  # ends with the process at the latest, by EIO
        with contextlib.suppress(OSError):
            while True:
                seen += os.read(ours, 4096)
        assert process.wait(WAIT_S) == Exit.OK
    finally:
        process.kill()
        process.wait(WAIT_S)
        os.close(ours)
    assert b"vm exited; " in seen and b"served 1 VM(s)" in seen  # noqa: PT018
    assert b"Traceback" not in seen
