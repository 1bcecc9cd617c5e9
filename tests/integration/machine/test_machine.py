"""A guest that fills its memory and checks every word of it by itself."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.integration.machine.conftest import MEMORY, SEED
from tests.support.forked import assert_inert_in_a_forked_child
from vmthaw.errors import GuestError, GuestMismatchError, StateError, VmthawValueError
from vmthaw.machine import FIRST_WORK_PAGE, GuestMemory, Machine, Workload

PAGES = MEMORY // 4096
WORK_PAGES = PAGES - FIRST_WORK_PAGE


def page_of(machine: Machine, number: int) -> bytes:
    return machine.read(number * 4096, 4096)


def test_the_guest_answers(machine: Machine) -> None:
    first, second = machine.ping(), machine.ping()
    assert first.ok
    assert second.ok
    assert (first.operation, first.pages, first.words) == ("ping", 0, 0)
    assert first.tsc > 0
    assert first.duration_ns > 0


def test_what_the_guest_fills_is_what_the_host_computes(machine: Machine) -> None:
    report = machine.fill(SEED, zero_share=0.3)
    assert (report.ok, report.pages) == (True, WORK_PAGES)
    assert machine.workload == Workload(SEED, round(0.3 * 65536))
    for number in range(FIRST_WORK_PAGE, PAGES, 7):
        assert page_of(machine, number) == machine.workload.page(number)


def test_the_guest_verifies_every_word(machine: Machine) -> None:
    machine.fill(SEED)
    report = machine.verify().check()
    assert (report.pages, report.words, report.mismatches) == (WORK_PAGES, WORK_PAGES * 512, 0)
    assert machine.verify().checksum == report.checksum


@pytest.mark.parametrize("byte", [0, 7, 8, 2051, 4095])
def test_one_wrong_byte_is_found_and_named(machine: Machine, byte: int) -> None:
    machine.fill(SEED)
    good = machine.verify().checksum
    number = FIRST_WORK_PAGE + 321
    address = number * 4096 + byte
    right = machine.read(address, 1)
    machine.write(address, bytes([right[0] ^ 0x10]))
    report = machine.verify()
    assert (report.ok, report.mismatches, report.wrong_page) == (False, 1, number)
    assert report.wrong_address == address // 8 * 8
    assert report.expected ^ report.found == 0x10 << 8 * (byte % 8)
    assert report.checksum != good
    with pytest.raises(GuestMismatchError, match="1 of"):
        report.check()
    machine.write(address, right)
    machine.verify().check()


def test_a_zero_page_a_stale_page_and_swapped_pages_are_found(machine: Machine) -> None:
    machine.fill(SEED)
    one, other = FIRST_WORK_PAGE + 3, FIRST_WORK_PAGE + 4
    first, second = page_of(machine, one), page_of(machine, other)
    machine.write(one * 4096, bytes(4096))
    assert machine.verify().mismatches == 512
    machine.write(one * 4096, second)
    machine.write(other * 4096, first)
    assert machine.verify().mismatches == 1024
    machine.write(one * 4096, first)
    machine.write(other * 4096, second)
    machine.verify().check()
    machine.rewrite(9, share=1.0)
    machine.write(one * 4096, first)
    report = machine.verify()
    assert (report.mismatches, report.wrong_page) == (512, one)


def test_a_page_that_must_be_zeros_and_is_not_is_found(machine: Machine) -> None:
    machine.fill(SEED, zero_share=1.0)
    machine.verify().check()
    machine.write((FIRST_WORK_PAGE + 9) * 4096 + 4095, b"\x01")
    assert machine.verify().wrong_page == FIRST_WORK_PAGE + 9


def test_rewritten_pages_are_expected_anew(machine: Machine) -> None:
    machine.fill(SEED, zero_share=0.2)
    before = machine.verify().checksum
    first = machine.rewrite(5, share=0.5, first_page=FIRST_WORK_PAGE + 100, pages=1000)
    assert 400 <= first.pages <= 600
    second = machine.rewrite(6, share=0.1)
    assert 120 <= second.pages <= 260
    assert machine.verify().check().checksum != before
    for number in range(FIRST_WORK_PAGE, PAGES, 11):
        assert page_of(machine, number) == machine.workload.page(number)
    assert {machine.workload.generation(number) for number in range(FIRST_WORK_PAGE, PAGES)} == {0, 1, 2}


def test_a_33rd_rewriting_is_refused(machine: Machine) -> None:
    for seed in range(32):
        machine.rewrite(seed, share=0.01)
    with pytest.raises(VmthawValueError, match="at most 32"):
        machine.rewrite(99)
    machine.fill(1)
    machine.rewrite(99)


def test_a_sequential_and_a_random_touch_of_everything_see_what_a_verification_sees(machine: Machine) -> None:
    machine.fill(SEED)
    whole = machine.verify()
    for order in ("sequential", "random"):
        report = machine.touch(order, seed=3).check()
        assert (report.pages, report.words, report.checksum) == (whole.pages, whole.words, whole.checksum)


def test_a_touch_visits_and_verifies_only_what_it_is_told(machine: Machine) -> None:
    machine.fill(SEED)
    bad = FIRST_WORK_PAGE + 500
    machine.write(bad * 4096, b"wrong!!!")
    machine.touch(count=500).check()
    assert machine.touch(count=501).wrong_page == bad
    machine.touch(first_page=bad + 1).check()
    assert not machine.touch("random").ok
    assert machine.touch("zipf", count=10, first_page=bad, pages=1).mismatches == 10
    one_word = machine.touch("zipf", count=300, one_word=True, first_page=bad + 1).check()
    assert (one_word.pages, one_word.words) == (300, 300)


def test_commands_outside_the_memory_are_refused_before_the_guest_sees_them(machine: Machine) -> None:
    for first_page, pages in ((0, 10), (FIRST_WORK_PAGE, PAGES), (PAGES + 1, 1), (FIRST_WORK_PAGE - 1, 1)):
        with pytest.raises(VmthawValueError, match="work area"):
            machine.verify(first_page=first_page, pages=pages)
    with pytest.raises(VmthawValueError, match="order must be one of"):
        machine.touch("backwards")  # type: ignore[arg-type]
    machine.ping()


def test_a_refused_fill_leaves_the_workload_alone(machine: Machine) -> None:
    machine.fill(SEED)
    with pytest.raises(VmthawValueError, match="work area"):
        machine.fill(99, pages=PAGES)
    with pytest.raises(VmthawValueError, match="work area"):
        machine.rewrite(99, pages=PAGES)
    assert machine.workload == Workload(SEED)
    machine.verify().check()


def test_vector_registers_keep_what_was_loaded(machine: Machine) -> None:
    machine.load_vectors(7)
    machine.fill(SEED)
    machine.verify().check()
    machine.check_vectors(7).check()
    assert machine.check_vectors(8).mismatches == 16


def test_a_command_that_takes_too_long_goes_on_with_finish(machine: Machine) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="finish"):
        machine.spin(1 << 28, timeout=0.05)
    assert time.monotonic() - start < 5.0
    assert machine.busy
    with pytest.raises(StateError, match="still at its last command"):
        machine.ping()
    with pytest.raises(StateError, match="still at its last command"):
        machine.fill(99)
    report = machine.finish()
    assert (report.operation, report.iterations, machine.busy) == ("spin", 1 << 28, False)
    machine.ping()


def test_ctrl_c_ends_a_command_on_the_main_thread(machine: Machine) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        machine.spin(0, timeout=30.0)
    assert time.monotonic() - start < 5.0
    assert machine.busy
    timer.join()


def test_of_two_threads_that_run_a_machine_one_is_refused(machine: Machine) -> None:
    with pytest.raises(TimeoutError):
        machine.spin(0, timeout=0.01)
    refusals: list[str] = []

    def run() -> None:
        deadline = time.monotonic() + 10.0
        while not refusals and time.monotonic() < deadline:
            try:
                machine.finish(timeout=0.2)
            except StateError as error:
                refusals.append(str(error))
            except TimeoutError:
                continue

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refusals
    assert "another thread runs or saves" in refusals[0]
    with pytest.raises(TimeoutError):
        machine.finish(timeout=0.01)  # and the guest has come to no harm


def test_a_guest_that_stops_is_reported_and_stays_stopped(machine: Machine) -> None:
    machine.ping()
    machine.core.vcpu(0).set_regs({"rip": 0xB0000 + 0xF000})  # behind the program: zeros, which fault at last
    with pytest.raises(GuestError, match="the guest has stopped") as info:
        machine.ping()
    assert info.value.exit in ("SHUTDOWN", "INTERNAL_ERROR", "MMIO")
    assert info.value.description.startswith(info.value.exit)
    with pytest.raises(StateError, match="has stopped"):
        machine.ping()


def test_run_gives_the_exit_itself(machine: Machine) -> None:
    found = machine.run_to_exit(timeout=5.0)  # the payload answers the command that is not there: a ping
    assert (found.name, found.fields["is_write"], found.fields["port"]) == ("IO", True, 0x5A0)


def test_a_closed_machine_says_so(machine: Machine) -> None:
    machine.close()
    machine.close()
    with pytest.raises(StateError, match="closed"):
        machine.ping()
    with pytest.raises(StateError, match="closed"):
        machine.read(0, 1)  # a page that nobody serves any more would read as zeros


def test_a_forked_child_finds_the_machine_inert(machine: Machine) -> None:
    assert_inert_in_a_forked_child(machine.ping)
    machine.ping()


def test_two_machines_may_share_borrowed_memory_one_after_another(kvm_available: None) -> None:
    own = GuestMemory.anonymous(MEMORY)
    with Machine(GuestMemory.borrow([own.regions[0][0]], MEMORY, own)) as machine:
        machine.fill(SEED)
    assert own.read(FIRST_WORK_PAGE * 4096, 4096) == Workload(SEED).page(FIRST_WORK_PAGE)


def test_memory_beyond_3_gib_is_reached_above_the_gap(kvm_available: None) -> None:
    size = (3 << 30) + (4 << 20)
    with Machine(size) as machine:
        last = size // 4096
        edge = (3 << 30) // 4096
        machine.fill(SEED, first_page=edge - 8)
        report = machine.verify(first_page=edge - 8).check()
        assert report.pages == last - edge + 8
        for number, address in (
            (edge - 1, (3 << 30) - 4096),
            (edge, 4 << 30),
            (last - 1, (4 << 30) + (4 << 20) - 4096),
        ):
            assert machine.read(address, 4096) == machine.workload.page(number)
        machine.write((4 << 30) + 4096, b"x")
        wrong = machine.verify(first_page=edge - 8)
        assert (wrong.wrong_page, wrong.wrong_address) == (edge + 1, (4 << 30) + 4096)
