"""Threads, the GIL, fork, signals and the interpreter's exit, each in a process of its own."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.integration.server.support import run_script, script
from vmthaw.testing import write_memory_file


@pytest.fixture(autouse=True)
def _memory(tmp_path: Path) -> None:
    write_memory_file(tmp_path / "memory", 512 * 4096, seed=1)


HEAD = """
import os, resource, signal, sys, threading, time
import vmthaw
from vmthaw import FileSource, PageServer, PagerConfig, PythonSource, FillMode, _core
from vmthaw.testing import FakeVmm
memory, path = sys.argv[1:3]


def tasks():
    names = []
    for entry in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{entry}/comm") as file:
            names.append(file.read().strip())
    return sorted(names)
"""

THOUSAND = """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
folder = os.path.dirname(path)
source = FileSource(memory)
servers = [PageServer(f"{folder}/0", source).start()]
time.sleep(0.1)
one = tasks()
for number in range(1, 1000):
    servers.append(PageServer(f"{folder}/{number}", FileSource(memory)).start())
assert tasks() == one, (one, tasks())
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
with FakeVmm.many(200, memory) as host:
    host.handover_all([f"{folder}/{number}" for number in range(0, 1000, 5)])
    for report in host.touch_all("subset", count=20, seed=1):
        report.check()
    started, cpu = time.monotonic(), time.process_time()
    time.sleep(3)
    share = (time.process_time() - cpu) / (time.monotonic() - started)
    print("idle share", round(share, 4), "threads", len(tasks()), "runtime", _core._threads())
    assert share <= 0.01, share
started = time.monotonic()
for server in servers:
    server.stop("kill")
assert time.monotonic() - started < 15
assert not any(name != "vmthaw-drainer" and name.isdigit() for name in os.listdir(folder))
left = [name for name in tasks() if not name.startswith("vmthaw-source")]
assert len(left) <= len(one), (left, one)
print("done")
"""


@pytest.mark.timeout(100)
def test_thousand_servers_have_the_threads_of_one_and_are_idle(tmp_path: Path, tmp_socket: Path) -> None:
    done = run_script(HEAD + THOUSAND, tmp_path / "memory", tmp_socket, timeout=90)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout


SIGNALS = """
with FileSource(memory) as source, PageServer(path, source) as server, FakeVmm(memory) as vmm:
    vmm.handover(path)
    vmm.touch("random").check()
    seen = 0
    for entry in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{entry}/status") as file:
            fields = dict(line.split(":", 1) for line in file.read().splitlines())
        if not fields["Name"].strip().startswith("vmthaw-"):
            continue
        blocked = int(fields["SigBlk"], 16)
        seen += 1
        for number in range(1, 32):
            faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
            free = number in faults | {signal.SIGKILL, signal.SIGSTOP}
            assert bool(blocked >> (number - 1) & 1) != free, (fields["Name"], number, hex(blocked))
    assert seen >= 4, tasks()
    print("done")
"""


def test_core_threads_block_every_signal_but_those_of_faults(tmp_path: Path, tmp_socket: Path) -> None:
    done = run_script(HEAD + SIGNALS, tmp_path / "memory", tmp_socket)
    assert "done" in done.stdout, done.stderr


WAITS = {
    "ready": "server.ready()",
    "wait": "server.wait()",
    "session.wait": "server.ready(); server.sessions[0].wait()",
    "stop": "server.ready(); server.stop('drain', timeout=25)",
}
CTRL_C = """
def never(offset, size):
    time.sleep(0.2)
    raise OSError(5, "never")


if {needs_vm}:
    vmm = FakeVmm(memory)
server = PageServer(path, PythonSource(never, 512 * 4096), config=PagerConfig(drain_timeout=0.2, retry_max=0.1)).start()
if {needs_vm}:
    vmm.handover(path)
    server.ready(10)
print("waiting", flush=True)
{call}
"""


@pytest.mark.parametrize("call", WAITS)
def test_ctrl_c_ends_every_wait(call: str, tmp_path: Path, tmp_socket: Path) -> None:
    code = HEAD + CTRL_C.format(needs_vm=call in ("session.wait", "stop"), call=WAITS[call])
    with script(code, tmp_path / "memory", tmp_socket, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        for line in process.stderr:
            if "KeyboardInterrupt" in line:
                break
        else:
            pytest.fail("no KeyboardInterrupt")
        assert time.monotonic() - start < 1
        assert process.wait(20) in (-signal.SIGINT, 130)
        assert time.monotonic() - start < 8  # at exit its own, shorter drain time-out holds


FORK = """
import multiprocessing, warnings
from vmthaw.errors import ForkedError


def in_child(pipe):
    raised = []
    for call in (server.start, lambda: server.sessions, lambda: server.stats, lambda: server.failures,
                 lambda: server.ready(1), lambda: server.wait(1), lambda: server.ended_sessions,
                 lambda: source.read(0, 4096), lambda: session.drain(1), session.kill):
        try:
            call()
            raised.append("nothing")
        except ForkedError:
            raised.append("ForkedError")
        except Exception as error:
            raised.append(repr(error))
    server.stop()
    pipe.send(raised)
    pipe.close()


source = FileSource(memory)
server = PageServer(path, source).start()
vmm = FakeVmm(memory)
vmm.handover(path)
server.ready(10)
session = server.sessions[0]
vmm.touch(range(10)).check()
context = multiprocessing.get_context("fork")
ours, theirs = context.Pipe()
child = context.Process(target=in_child, args=[theirs])
child.start()
raised = ours.recv()
child.join(10)
assert child.exitcode == 0, child.exitcode
print(raised)
assert os.path.exists(path)
vmm.touch("random", threads=4).check()
with FakeVmm(memory) as other:
    other.handover(path)
    other.touch("random").check()
server.stop("drain")
vmm.verify(only_touched=False).check()
vmm.close()
print("done")
"""


def test_forked_child_is_inert_and_the_parent_serves_on(tmp_path: Path, tmp_socket: Path) -> None:
    done = run_script(HEAD + FORK, tmp_path / "memory", tmp_socket)
    assert "done" in done.stdout, done.stdout + done.stderr
    raised = done.stdout.splitlines()[0]
    assert "nothing" not in raised, raised
    assert done.returncode == 0


FORGOTTEN = """
vmm = FakeVmm(memory)
pid = vmm.pid
server = PageServer(path, FileSource(memory)).start()
vmm.handover(path)
server.ready(10)
vmm.touch(range(10)).check()
import atexit
@atexit.register
def check_before():  # runs first: the server still serves
    vmm.touch(range(20)).check()
from vmthaw import _lifecycle
real = _lifecycle._shut_down_runtime
def check_after():
    vmm.verify(only_touched=False).check()
    real()
    print("threads", [name for name in tasks() if name.startswith("vmthaw-") and name != "vmthaw-drainer"], flush=True)
    vmm.close()
_lifecycle._shut_down_runtime = check_after
"""


def test_forgotten_server_is_drained_at_exit_with_a_warning(tmp_path: Path, tmp_socket: Path) -> None:
    start = time.monotonic()
    done = run_script(HEAD + FORGOTTEN, tmp_path / "memory", tmp_socket)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" in done.stderr
    assert "still runs at interpreter exit" in done.stderr
    assert "threads []" in done.stdout
    assert "Traceback" not in done.stderr
    assert not tmp_socket.exists()
    assert time.monotonic() - start < 10


STUCK = """
def stuck(offset, size):
    time.sleep(1000)
vmm = FakeVmm(memory)
server = PageServer(path, PythonSource(stuck, 512 * 4096), config=PagerConfig(drain_timeout=0.5)).start()
vmm.handover(path)
server.ready(10)
"""


def test_exit_is_bounded_though_a_source_hangs(tmp_path: Path, tmp_socket: Path) -> None:
    start = time.monotonic()
    done = run_script(HEAD + STUCK, tmp_path / "memory", tmp_socket)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert time.monotonic() - start < 15


RAISING = """
import logging
class Raising(logging.Handler):
    def emit(self, record):
        raise RuntimeError("a handler that raises")
logging.getLogger("vmthaw").addHandler(Raising())
def fails(offset, size):
    raise OSError(5, "fails")
source = PythonSource(fails, 512 * 4096)
with PageServer(path, source, config=PagerConfig(retries=0)) as server:
    with FakeVmm(memory) as vmm:
        vmm.handover(path)
        try:
            vmm.touch([1])
        except vmthaw.errors.VmthawError:
            pass
    deadline = time.monotonic() + 10
    while server.sessions and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.failures, "nothing failed"
with PageServer(path, FileSource(memory)) as server, FakeVmm(memory) as vmm:
    vmm.handover(path)
    vmm.touch("random").check()
print("done")
"""


def test_logging_handler_that_raises_stops_nothing(tmp_path: Path, tmp_socket: Path) -> None:
    done = run_script(HEAD + RAISING, tmp_path / "memory", tmp_socket)
    assert "done" in done.stdout, done.stderr
    assert done.returncode == 0
    assert "a handler that raises" in done.stderr


BUSY = """
sys.setswitchinterval(100)
with FileSource(memory) as source, PageServer(path, source, config=PagerConfig(fill_mode=FillMode.page)) as server:
    with FakeVmm(memory) as vmm:
        vmm.handover(path)
        server.ready(10)
        call = vmm.start_touch("random")
        end = time.monotonic() + 1.0
        while time.monotonic() < end:  # the GIL is ours all the time
            pass
        stats = None
        reached = server._core.sessions[0].stats.installed
        report = FakeVmm.touch_result(call).check()
        print(report.duration_ns)
"""


def test_busy_python_thread_delays_no_fault(tmp_path: Path, tmp_socket: Path) -> None:
    done = run_script(HEAD + BUSY, tmp_path / "memory", tmp_socket)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) < 500_000_000
