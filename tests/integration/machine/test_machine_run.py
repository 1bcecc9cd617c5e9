"""Machines that run programs of one's own: all vCPUs in a run loop, devices and functions, freezes, stops."""

from __future__ import annotations

import re
import time

import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG, OUT_FOR_EVER, SPIN, in_to_memory, out
from tests.support.eventually import eventually
from tests.support.tree import ROOT
from vmthaw.devices import OutputBuffer, Serial
from vmthaw.errors import GuestError, StateError, VmthawValueError
from vmthaw.machine import Machine
from vmthaw.run_loop import RunEndKind
from vmthaw.vcpu import Exit, ExitActionKind

pytestmark = pytest.mark.usefixtures("kvm_available")

MEMORY = 2 << 20
CODE = 0x1000


def machine_with(code: bytes, *, vcpus: int = 1, exit_records: int = 0) -> Machine:
    """Every vCPU begins with `code` in real mode."""
    machine = Machine(MEMORY, vcpus=vcpus, payload=False, exit_records=exit_records)
    machine.write(CODE, code)
    for vcpu in machine.vcpus:
        segments = ("cs", "ds", "es", "ss")
        vcpu.set_sregs({f"{segment}.{part}": 0 for segment in segments for part in ("selector", "base")})
        vcpu.set_regs({"rip": CODE, "rsp": 0x8000, "rflags": 2})
    return machine


def test_a_machine_prints_and_halts_and_says_what_it_did() -> None:
    output = OutputBuffer()
    with machine_with(out(0x3F8, ord("A")) + HLT, exit_records=16) as machine:
        machine.buses.add_standard(com1=Serial(output))
        end = machine.run(timeout=LONG)
        assert end.kind is RunEndKind.halted
        assert output.take() == b"A"
        assert machine.stats[0].exits == {"IO": 1, "HLT": 1}
        assert list(machine.take_exit_records()["address"]) == [0x3F8, 0]
        assert not machine.running


def test_a_machine_runs_again_from_where_it_halted() -> None:
    with machine_with(HLT + out(0x80, 1) + HLT) as machine:
        assert machine.run(timeout=LONG).kind is RunEndKind.halted
        assert machine.run(timeout=LONG).kind is RunEndKind.halted
        assert machine.stats[0].exits == {"IO": 1, "HLT": 1}


def test_functions_are_kept_for_every_run() -> None:
    with machine_with(in_to_memory(0x500, 0x3000) + HLT + in_to_memory(0x500, 0x3001) + HLT) as machine:
        given = iter([b"\x11", b"\x22"])

        @machine.on_port(0x500)
        def answer(_access: Exit) -> bytes:
            return next(given)

        machine.run(timeout=LONG)
        machine.run(timeout=LONG)
        assert machine.read(0x3000, 2) == b"\x11\x22"


def test_a_stop_ends_all_vcpus_and_gives_the_end() -> None:
    with machine_with(SPIN, vcpus=3) as machine:
        machine.start()
        end = machine.stop()
        assert end is not None
        assert end.kind is RunEndKind.stopped
        assert not machine.running
        assert len(machine.stats) == 3
        assert machine.stop() is None


def test_a_run_that_took_too_long_goes_on_and_can_be_waited_for_again() -> None:
    with machine_with(OUT_FOR_EVER) as machine:
        with pytest.raises(TimeoutError, match="still runs"):
            machine.run(timeout=0.05)
        assert machine.running
        with pytest.raises(TimeoutError):
            machine.run(timeout=0.05)
        machine.stop()


def test_a_running_machine_is_used_by_nobody_else() -> None:
    with machine_with(SPIN) as machine:
        machine.start()
        for call in (machine.start, machine.run_to_exit, machine.registers, lambda: machine.on_port(1)):
            with pytest.raises(StateError):
                call()
        machine.stop()
        assert machine.registers()["rip"] == CODE


def test_a_frozen_machine_shows_its_registers_and_thaws() -> None:
    with machine_with(OUT_FOR_EVER, vcpus=2) as machine:
        machine.start()
        eventually(lambda: all(stats.exits.get("IO", 0) > 3 for stats in machine.stats), LONG)
        snapshots = machine.freeze(timeout=LONG)
        before = [dict(stats.exits) for stats in machine.stats]
        for index, snapshot in enumerate(snapshots):
            assert snapshot is not None
            assert machine.registers(index)["rip"] == snapshot.instruction_pointer
        time.sleep(0.02)
        assert [dict(stats.exits) for stats in machine.stats] == before, "it ran while it was frozen"
        machine.thaw()
        eventually(lambda: machine.stats[0].exits["IO"] > before[0]["IO"], LONG)
        machine.stop()


def test_what_a_function_raises_comes_out_and_the_machine_is_free_again() -> None:
    with machine_with(out(0x500, 1) + HLT) as machine:

        @machine.on_port(0x500)
        def refuse(_access: Exit) -> ExitActionKind:
            raise LookupError("no such port")

        with pytest.raises(LookupError, match="no such port"):
            machine.run(timeout=LONG)
        assert not machine.running
        assert machine.registers()["rax"] & 0xFF == 1


def test_a_fatal_end_is_an_error_and_the_machine_is_free_again() -> None:
    with machine_with(b"") as machine:
        machine.vcpus[0].set_sregs({"cs.selector": 0, "cs.base": 0xD0000000})
        with pytest.raises(GuestError, match="vCPU 0 cannot go on"):
            machine.run(timeout=LONG)
        assert not machine.running


def test_a_closed_machine_has_stopped_its_vcpus() -> None:
    machine = machine_with(SPIN, vcpus=2)
    machine.start()
    machine.close()
    with pytest.raises(StateError, match="closed"):
        machine.start()


@pytest.mark.parametrize(("vcpus", "payload"), [(0, False), (256, False), (2, True)])
def test_impossible_numbers_of_vcpus_are_refused(vcpus: int, payload: bool) -> None:
    with pytest.raises(VmthawValueError, match="vCPU"):
        Machine(MEMORY, vcpus=vcpus, payload=payload)


def test_the_payload_still_answers_between_runs() -> None:
    with Machine(MEMORY) as machine:
        machine.ping().check()
        assert machine.stats == []


def test_the_program_of_the_readme_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    programs = [
        program for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "machine.freeze()" in program
    ]
    assert len(programs) == 1
    assert len(programs[0].splitlines()) <= 20
    exec(compile(programs[0], "README.md", "exec"), {})
    frozen, stopped = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"ip=0x000000000000100[0-4] sp=0x0{16} ptroot=0x0{16}", frozen)
    assert stopped.startswith("stopped VcpuStats(exits=")
