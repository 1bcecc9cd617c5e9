"""One VM from start to end, for threads."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.integration.firecracker.support import alive, open_descriptors, script
from tests.support.eventually import eventually
from vmthaw import FileSource, PagerConfig, PageServer, PythonSource
from vmthaw.errors import PageFailedError, StateError, VmthawError, VmthawTimeoutError, VmthawValueError
from vmthaw.firecracker import ApiRefusedError, Firecracker, FirecrackerDiedError, VmEventKind
from vmthaw.testing import FirecrackerDouble, write_double_snapshot

Snapshot = tuple[Path, Path]


def test_a_vm_is_restored_runs_and_powers_off(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20, powers_off=True)
    with Firecracker(double.firecracker) as vm:
        assert vm.info()["state"] == "Not started"
        assert vm.server is None
        vm.load_snapshot(state, FileSource(memory))
        kinds = [event.kind for event in vm.watch(20)]
        assert set(kinds[:2]) == {VmEventKind.connected, VmEventKind.first_fault}  # in either order
        assert kinds[2:] == [VmEventKind.closed, VmEventKind.exited]
        assert vm.wait(0) == 0
        assert "guest: 1024 pages are right" in vm.log_tail()
        assert vm.session is not None
        assert vm.session.pid == vm.pid
        assert vm.session.stats.installed >= 1024


def test_a_wrong_byte_is_noticed_by_the_guest(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20, powers_off=True)

    def read(offset: int, size: int) -> bytes:
        data = bytearray(os.pread(file, size, offset))
        if offset <= 4096 * 77 < offset + size:
            data[4096 * 77 - offset + 5] ^= 1
        return bytes(data)

    file = os.open(memory, os.O_RDONLY)
    try:
        with Firecracker(double.firecracker) as vm:
            vm.load_snapshot(state, PythonSource(read, 4 << 20))
            vm.wait(20)
            assert "pages are WRONG" in vm.log_tail()
    finally:
        os.close(file)


def test_pause_snapshot_and_resume(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20, writes=[700, 9])
    first, second = tmp_path / "full", tmp_path / "diff"
    with Firecracker(double.firecracker) as vm:
        vm.load_snapshot(state, FileSource(memory), track_dirty_pages=True)
        eventually(lambda: "pages are right" in vm.log_tail())
        with pytest.raises(ApiRefusedError, match="save/restore unavailable while running") as refused:
            vm.create_snapshot(tmp_path / "state2", first)
        assert refused.value.status == 400
        assert refused.value.path == "/snapshot/create"
        vm.pause()
        assert vm.info()["state"] == "Paused"
        vm.create_snapshot(tmp_path / "state1", second, "diff")
        vm.create_snapshot(tmp_path / "state2", first)
        vm.resume()
        assert vm.info()["state"] == "Running"
    old, new = memory.read_bytes(), first.read_bytes()
    changed = {
        page for page in range(1024) if old[page * 4096 : page * 4096 + 4096] != new[page * 4096 : page * 4096 + 4096]
    }
    assert changed == {0, 1, 9, 700}
    assert second.stat().st_size == 4 << 20
    assert second.stat().st_blocks * 512 == 4 * 4096
    assert json.loads((tmp_path / "state2").read_text())["memory"] == str(first)


def test_a_snapshot_is_restored_paused_when_it_is_not_to_run(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    with Firecracker(double.firecracker) as vm:
        vm.load_snapshot(snapshot[0], FileSource(snapshot[1]), resume=False)
        assert vm.info()["state"] == "Paused"
        assert vm.session is not None
        vm.resume()
        eventually(lambda: "1024 pages are right" in vm.log_tail())


def test_a_page_server_of_the_callers_serves_several_vms(
    double: FirecrackerDouble, snapshot: Snapshot, tmp_socket: Path
) -> None:
    with PageServer(tmp_socket, FileSource(snapshot[1])) as server:
        with Firecracker(double.firecracker) as one, Firecracker(double.firecracker) as two:
            one.load_snapshot(snapshot[0], server)
            two.load_snapshot(snapshot[0], server)
            for vm in (one, two):
                eventually(lambda vm=vm: "1024 pages are right" in vm.log_tail())  # type: ignore[misc]
            assert one.session is not None
            assert two.session is not None
            assert {one.session.pid, two.session.pid} == {one.pid, two.pid}
            with pytest.raises(StateError, match="loaded a snapshot already"):
                one.load_snapshot(snapshot[0], server)
        eventually(lambda: not server.sessions)
        server.stop()


def test_options_of_a_server_that_was_given_are_refused(
    double: FirecrackerDouble, snapshot: Snapshot, tmp_socket: Path
) -> None:
    with (
        PageServer(tmp_socket, FileSource(snapshot[1])) as server,
        Firecracker(double.firecracker) as vm,
        pytest.raises(VmthawValueError, match="belong to the PageServer"),
    ):
        vm.load_snapshot(snapshot[0], server, config=PagerConfig())


def test_any_request_can_be_made(double: FirecrackerDouble) -> None:
    with Firecracker(double.firecracker, vm_id="its-own-id") as vm:
        assert vm.request("GET", "/")["id"] == "its-own-id"
        assert vm.request("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 4}) == {}
        with pytest.raises(
            ApiRefusedError, match=r"PATCH /vm \(400\): The requested operation is not supported before"
        ):
            vm.pause()
        with pytest.raises(ApiRefusedError, match="Invalid request method and/or path: PUT nowhere"):
            vm.request("PUT", "/nowhere", {})
        with pytest.raises(VmthawValueError, match="path"):
            vm.request("GET", "/ HTTP/1.1\r\nX: y")


def test_a_load_after_a_boot_resource_is_refused(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    with Firecracker(double.firecracker) as vm:
        vm.request("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 4})
        with pytest.raises(ApiRefusedError, match="not allowed after configuring boot-specific resources"):
            vm.load_snapshot(snapshot[0], FileSource(snapshot[1]))


def test_a_damaged_state_file_is_firecrackers_to_refuse(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    snapshot[0].write_text("not a state")
    with Firecracker(double.firecracker) as vm:
        with pytest.raises(ApiRefusedError, match="Crc validation failed"):
            vm.load_snapshot(snapshot[0], FileSource(snapshot[1]))
        assert vm.wait(10) == 1
        with pytest.raises(FirecrackerDiedError, match=r"exit status 1.*\n(.*\n)*.*exiting with error"):
            vm.info()


def test_a_missing_state_file_is_named_before_anything_happens(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    with Firecracker(double.firecracker) as vm:
        with pytest.raises(FileNotFoundError, match=r"the VM's state .*nothing"):
            vm.load_snapshot("/nothing", FileSource(snapshot[1]))
        vm.load_snapshot(snapshot[0], FileSource(snapshot[1]))  # nothing is lost


def test_memory_that_is_too_small_ends_the_load_at_once(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    source = PythonSource(lambda _offset, size: bytes(size), 1 << 20)
    began = time.monotonic()
    with Firecracker(double.firecracker) as vm:
        with pytest.raises(PageFailedError, match=r"could not be given its memory; the page server says: .*"):
            vm.load_snapshot(snapshot[0], source, timeout=30)
        assert time.monotonic() - began < 15
        assert vm.exit_code == -signal.SIGKILL


def test_a_handover_that_cannot_be_read_ends_the_load_at_once(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, handover={"text": '[{"size": 4096}]'})
    with (
        Firecracker(double.firecracker) as vm,
        pytest.raises(PageFailedError, match=r"the page server says: .*base_host_virt_addr"),
    ):
        vm.load_snapshot(state, FileSource(memory), timeout=30)


def test_a_page_that_fails_ends_the_vm_and_wait_says_so(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20)

    def read(offset: int, size: int) -> bytes:
        if offset + size > 2 << 20:
            raise OSError(5, "the disk is gone")
        with memory.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    with Firecracker(double.firecracker) as vm:
        vm.load_snapshot(state, PythonSource(read, 4 << 20), config=PagerConfig(retries=0))
        with pytest.raises(PageFailedError, match=r"SIGKILL: .*Input/output error"):
            vm.wait(20)


def test_a_process_that_dies_in_a_request_shows_its_last_lines(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, dies_at_load=True)
    with Firecracker(double.firecracker) as vm:
        with pytest.raises(FirecrackerDiedError, match=r"PUT /snapshot/load.*exit status 3") as died:
            vm.load_snapshot(state, FileSource(memory))
        assert died.value.exit_code == 3
        assert "a double that was asked to die" in died.value.log_tail


def test_a_binary_that_is_missing_or_no_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the Firecracker binary 'no-such-firecracker' was not found on PATH"):
        Firecracker("no-such-firecracker")
    (tmp_path / "file").write_text("text")
    with pytest.raises(PermissionError, match="chmod"):
        Firecracker(tmp_path / "file")


def test_a_binary_that_ends_at_once_is_told_with_its_words(tmp_path: Path) -> None:
    binary = script(tmp_path / "firecracker", "echo unlucky >&2; exit 7")
    with pytest.raises(FirecrackerDiedError, match="exit status 7; its last lines:\nunlucky"):
        Firecracker(binary).start()


def test_arguments_are_passed_on_and_refused_by_the_binary(double: FirecrackerDouble) -> None:
    with Firecracker(double.firecracker, arguments=["--level", "Debug", "--no-seccomp"]) as vm:
        assert vm.exit_code is None
    with pytest.raises(FirecrackerDiedError, match="Found argument 'nonsense'"):
        Firecracker(double.firecracker, arguments=["--nonsense"]).start()
    with pytest.raises(VmthawValueError, match="--api-sock"):
        Firecracker(double.firecracker, arguments=["--api-sock=/x"])


def test_a_binary_that_never_answers_times_out_and_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    binary = script(tmp_path / "firecracker", f"echo $$ > {pid_file}; trap '' TERM; while :; do sleep 0.1; done")
    with pytest.raises(VmthawTimeoutError, match=r"no API socket within 0.5 s"):
        Firecracker(binary, start_timeout=0.5).start()
    assert not alive(int(pid_file.read_text()))


def test_a_request_that_is_not_answered_times_out(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20)
    let_go = threading.Event()

    def read(offset: int, size: int) -> bytes:
        let_go.wait(20)
        with memory.open("rb") as file:
            return os.pread(file.fileno(), size, offset)

    try:
        with (
            Firecracker(double.firecracker) as vm,
            pytest.raises(VmthawTimeoutError, match=r"PUT /snapshot/load within 0.5 s"),
        ):
            vm.load_snapshot(state, PythonSource(read, 1 << 20, timeout=30.0), timeout=0.5)
    finally:
        let_go.set()


def test_the_log_goes_to_a_file_if_asked_for(double: FirecrackerDouble, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("older lines\n")
    with Firecracker(double.firecracker, log_path=log) as vm:
        assert "older" not in vm.log_tail()
        assert "listening on API socket" in vm.log_tail()
    assert log.read_text().startswith("older lines\n")


def test_a_console_that_is_flooded_costs_bounded_memory(tmp_path: Path) -> None:
    binary = script(tmp_path / "firecracker", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 4")
    with pytest.raises(FirecrackerDiedError) as died:
        Firecracker(binary).start()
    assert died.value.log_tail.endswith("the end")
    assert len(died.value.log_tail) <= 4096


def test_closing_is_idempotent_and_final(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    vm = Firecracker(double.firecracker).start()
    assert vm.start() is vm
    vm.load_snapshot(snapshot[0], FileSource(snapshot[1]))
    pid = vm.pid
    vm.close()
    vm.close()
    assert not alive(pid)
    assert vm.exit_code == -signal.SIGTERM
    assert vm.session is not None
    with pytest.raises(StateError, match="closed"):
        vm.pause()
    with pytest.raises(StateError, match="closed"):
        vm.start()


def test_what_ignores_sigterm_is_killed_after_the_grace(double: FirecrackerDouble, tmp_path: Path) -> None:
    binary = script(tmp_path / "stubborn", f"trap '' TERM; exec {double.firecracker} \"$@\"")
    with Firecracker(binary, stop_grace=0.2) as vm:
        pass
    assert vm.exit_code == -signal.SIGKILL


def test_closing_from_another_thread_ends_a_wait(double: FirecrackerDouble) -> None:
    vm = Firecracker(double.firecracker).start()
    ended: list[object] = []

    def wait() -> None:
        try:
            ended.append(vm.wait(20))
        except VmthawError as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    vm.close()
    thread.join(10)
    assert ended == [-signal.SIGTERM] or isinstance(ended[0], StateError)


def test_wait_and_watch_have_time_outs(double: FirecrackerDouble) -> None:
    with Firecracker(double.firecracker) as vm:
        with pytest.raises(VmthawTimeoutError, match="still runs"):
            vm.wait(0.05)
        with pytest.raises(VmthawTimeoutError, match="still runs"):
            list(vm.watch(0.05))


def test_nothing_is_left_open(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    def once() -> None:
        with Firecracker(double.firecracker) as vm:
            vm.load_snapshot(snapshot[0], FileSource(snapshot[1]))

    once()  # the drainer, the guard, the workers
    before = open_descriptors()
    for _ in range(3):
        once()
    eventually(lambda: open_descriptors() <= before)


def test_before_the_start_nothing_can_be_asked(double: FirecrackerDouble) -> None:
    vm = Firecracker(double.firecracker)
    assert vm.pid == 0
    for call in (vm.pause, vm.info, vm.wait, lambda: vm.root):
        with pytest.raises(StateError, match="not been started"):
            call()
    vm.close()
