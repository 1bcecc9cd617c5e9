"""Watchpoints of a machine, over several runs."""

from __future__ import annotations

import re

import pytest

from tests.integration.kvm.watching import DATA, HLT, LONG, store32
from tests.support.tree import ROOT
from vmthaw.errors import StateError
from vmthaw.machine import Machine
from vmthaw.run_loop import RunEndKind
from vmthaw.watchpoints import probe_watchpoints

pytestmark = pytest.mark.usefixtures("kvm_available")

CODE = 0x1000


def machine_at(code: bytes) -> Machine:
    machine = Machine(2 << 20, payload=False)
    machine.write(CODE, code)
    (vcpu,) = machine.vcpus
    vcpu.set_sregs({f"{segment}.{part}": 0 for segment in ("cs", "ds", "es", "ss") for part in ("selector", "base")})
    vcpu.set_regs({"rip": CODE, "rflags": 2})
    return machine


def test_watchpoints_stay_from_run_to_run() -> None:
    with machine_at(store32(DATA, 1) + HLT + store32(DATA, 2) + HLT) as machine:
        assert machine.watchpoints is machine.watchpoints
        machine.watchpoints.set(1, DATA)
        for value in (1, 2):
            assert machine.run(timeout=LONG).kind is RunEndKind.halted
            (event,) = machine.watchpoints.take_events()
            assert event.after == bytes([value, 0, 0, 0])


def test_a_running_machine_takes_new_slots_and_none_without_watchpoints() -> None:
    # loop: incl DATA; out %al, $0x80; jmp loop
    code = b"\x66\xff\x06" + DATA.to_bytes(2, "little") + b"\xe6\x80\xeb\xf7"
    with machine_at(code) as machine:
        machine.start()
        with pytest.raises(StateError, match="before start"):
            _ = machine.watchpoints
        machine.stop()
        watchpoints = machine.watchpoints
        machine.start()
        watchpoints.set(2, DATA, timeout=LONG)
        assert watchpoints.wait_armed(timeout=LONG)
        machine.freeze(timeout=LONG)
        before = int.from_bytes(machine.read(DATA, 4), "little")
        watchpoints.take_events(1 << 20)
        dropped = watchpoints.dropped_events
        machine.thaw()
        machine.stop()
        watchpoints.close()
        events = watchpoints.take_events(1 << 20)
        after = int.from_bytes(machine.read(DATA, 4), "little")
        assert after - before == len(events) + watchpoints.dropped_events - dropped
        machine.start()
        machine.stop()
        assert watchpoints.take_events() == []


def test_a_closed_machine_has_none() -> None:
    machine = machine_at(HLT)
    machine.close()
    with pytest.raises(StateError, match="closed"):
        _ = machine.watchpoints


def test_the_program_of_the_readme_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    ability = probe_watchpoints()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "watchpoints.set(" in each]
    exec(compile("from vmthaw import Machine\n" + program, "README.md", "exec"), {})
    event, report = capsys.readouterr().out.splitlines()
    assert event == r"b'\x00\x00\x00\x00' became b'\x07\x00\x00\x00' before 0x1005"
    assert event in program
    backend = "hardware" if ability["data_slots"] == 0b1111 else "read_only_page"
    assert report.startswith("WatchReport(requested=(1,), armed=(1,), verified=True, backend=")
    assert backend in report
