"""What a recorder writes of a machine's exits is what its vCPUs did."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG, OUT_FOR_EVER, SPIN, Guest, in_to_memory, out
from tests.integration.machine.test_machine_run import CODE, machine_with
from tests.support.eventually import eventually
from tests.support.tree import ROOT
from vmthaw import PageServer, Trace, TraceRecorder, ZeroSource
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.machine import Machine
from vmthaw.trace._collector import collector
from vmthaw.vcpu import Exit

pytestmark = pytest.mark.usefixtures("kvm_available")

# mov $0x1000, %bx; loop: mov %bx, %ds; mov 0, %al; out %al, $0x80; add $0x100, %bx; cmp $0x9000, %bx; jne loop; hlt
READ_PAGES = bytes.fromhex("bb0010 8edb a00000 e680 81c30001 81fb0090 75ef f4")
FIRST, LAST = 0x10, 0x90


def exits_of(machine: Machine) -> int:
    return sum(sum(stats.exits.values()) for stats in machine.stats)


def test_every_exit_of_a_machine_is_in_its_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    before = time.monotonic_ns()
    code = out(0x80, 1) + in_to_memory(0x500, 0x3000) + HLT
    with machine_with(code, exit_records=64) as machine, TraceRecorder(path, machine) as recorder:

        @machine.on_port(0x500)
        def answer(_access: Exit) -> bytes:
            return b"\x07"

        machine.run(timeout=LONG)
    found = Trace.open(path)
    rows = found.exits.select(
        ["vcpu", "reason", "address", "length", "write", "instruction_pointer", "error", "action", "handler"]
    )
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        (0, "IO", 0x80, 1, True, None, None, "continue", False),
        (0, "IO", 0x500, 1, False, None, None, "continue", True),
        (0, "HLT", None, None, None, None, None, "none", False),
    ]
    times = [found.exit_records[name] for name in ("t_enter_ns", "t_exit_ns", "t_decided_ns")]
    in_order = np.column_stack(times).ravel()
    assert before <= in_order[0]
    assert (np.diff(in_order.astype(np.int64)) >= 0).all()
    assert in_order[-1] <= time.monotonic_ns()
    summary = found.summary().exits
    assert summary is not None
    assert (summary.count, summary.handled, summary.dropped, summary.complete) == (3, 1, 0, True)
    assert (recorder.exits_recorded, recorder.exits_dropped, recorder.recorded) == (3, 0, 0)
    assert len(found) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t.exits.parquet", "t.parquet"]


def test_runs_one_after_another_are_all_recorded(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    ports = list(range(0x100, 0x100 + 40))
    with machine_with(b"".join(out(port, 1) + HLT for port in [0xFF, *ports, 0xFE]), exit_records=4) as machine:
        machine.run(timeout=LONG)
        with TraceRecorder(path, machine):
            for _ in ports:
                machine.run(timeout=LONG)
        machine.run(timeout=LONG)
        assert machine.take_exit_records()["address"].tolist() == [0xFE, 0]
    found = Trace.open(path)
    assert found.exits.column("address").to_pylist() == [each for port in ports for each in (port, None)]
    assert found.exits_info is not None
    assert found.exits_info.dropped == 0


def test_what_came_before_the_recording_is_neither_in_it_nor_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with machine_with(b"".join(out(0x80, 1) for _ in range(100)) + SPIN, exit_records=64) as machine:
        machine.start()
        eventually(lambda: exits_of(machine) == 100, LONG)
        with TraceRecorder(path, machine) as recorder:
            pass
        machine.stop()
    assert (recorder.exits_recorded, recorder.exits_dropped) == (0, 0)


def test_a_run_under_way_is_recorded_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with machine_with(OUT_FOR_EVER, exit_records=1 << 16) as machine:
        machine.start()
        eventually(lambda: exits_of(machine) > 100, LONG)
        machine.freeze(timeout=LONG)
        before = exits_of(machine)
        with TraceRecorder(path, machine) as recorder:
            machine.thaw()
            eventually(lambda: recorder.exits_recorded > 100, LONG)
            machine.freeze(timeout=LONG)
        assert recorder.exits_recorded + recorder.exits_dropped == exits_of(machine) - before
        machine.stop()


def test_the_last_exits_are_taken_when_recording_stops(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    code = b"".join(out(0x80, number) for number in range(20)) + SPIN
    with machine_with(code, vcpus=2, exit_records=64) as machine:
        recorder = TraceRecorder(path, machine).start()
        with collector()._lock:  # nobody has looked until stop() does
            machine.start()
            eventually(lambda: exits_of(machine) == 40, LONG)
            machine.freeze(timeout=LONG)
            assert recorder.exits_recorded == 0
            recorder.stop()
        machine.stop()
    found = Trace.open(path)
    assert found.sql("select vcpu, count(*) as n from exits group by vcpu order by vcpu").to_pylist() == [
        {"vcpu": 0, "n": 20},
        {"vcpu": 1, "n": 20},
    ]


def test_exits_that_nobody_took_in_time_are_counted_and_placed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    code = out(0x80, 1) + HLT + b"".join(out(0x80, number) for number in range(10)) + HLT
    with machine_with(code, exit_records=4) as machine, TraceRecorder(path, machine) as recorder:
        machine.run(timeout=LONG)
        eventually(lambda: recorder.exits_recorded == 2, LONG)
        with collector()._lock:
            machine.run(timeout=LONG)
    found = Trace.open(path)
    assert len(found.exit_records) == recorder.exits_recorded == 6
    assert found.exits_info is not None
    (gap,) = found.exits_info.gaps
    assert (gap.after, gap.session, gap.dropped, gap.where) == (6, 2, 7, "ring")
    summary = found.summary()
    assert summary.exits is not None
    assert summary.exits.dropped == recorder.exits_dropped == 7
    assert summary.dropped == recorder.dropped == 0, "no fault is missing"
    assert any(advice.title == "7 exits are missing" for advice in found.advice())


def test_a_disk_that_is_too_slow_loses_exits_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    with machine_with(out(0x80, 1) + HLT, exit_records=8) as machine:
        with TraceRecorder(path, machine, max_pending=0) as recorder:
            machine.run(timeout=LONG)
        assert (recorder.exits_recorded, recorder.exits_dropped) == (0, 2)
    about = Trace.open(path).exits_info
    assert about is not None
    assert about.dropped == 2
    assert {gap.where for gap in about.gaps} == {"writer"}


def test_no_vcpu_waits_for_the_recorder(tmp_path: Path) -> None:
    with machine_with(out(0x80, 1) * 50 + HLT, exit_records=4) as machine:
        recorder = TraceRecorder(tmp_path / "t.parquet", machine).start()
        with collector()._lock, recorder._news:  # all that takes or writes records stands still
            machine.run(timeout=LONG)
            assert exits_of(machine) == 51
        recorder.stop()
        assert recorder.exits_recorded + recorder.exits_dropped == 51


def test_a_run_loop_is_recorded_with_its_registers(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    guest = Guest(out(0x3F8, 0x41) + HLT, exit_records=16, record_registers=True)
    with TraceRecorder(path, guest.loop) as recorder:
        guest.run()
    assert recorder.exits_recorded == 2
    found = Trace.open(path)
    assert found.exits.column("instruction_pointer").to_pylist()[0] == CODE + 6
    assert found.exits.column("page_table_root").to_pylist() == [0, 0]


def test_exits_go_beside_the_faults_of_any_server(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "t.parquet"
    with (
        machine_with(out(0x80, 1) + HLT, exit_records=8) as machine,
        ZeroSource(1 << 20) as source,
        PageServer(tmp_socket, source) as server,
        TraceRecorder(path, server, exits=machine),
    ):
        machine.run(timeout=LONG)
    assert len(Trace.open(path).exit_records) == 2


def test_two_recorders_have_each_what_came_in_their_time(tmp_path: Path) -> None:
    code = b"".join(out(port, 1) + HLT for port in (1, 2, 3))
    with machine_with(code, exit_records=8) as machine, TraceRecorder(tmp_path / "a.parquet", machine):
        machine.run(timeout=LONG)
        with TraceRecorder(tmp_path / "b.parquet", machine):
            machine.run(timeout=LONG)
        machine.run(timeout=LONG)
    a, b = (Trace.open(tmp_path / name).exits.column("address").to_pylist() for name in ("a.parquet", "b.parquet"))
    assert a == [1, None, 2, None, 3, None]
    assert b == [2, None]


def test_two_recorders_of_a_run_under_way_both_have_it(tmp_path: Path) -> None:
    with machine_with(OUT_FOR_EVER, exit_records=1 << 16) as machine:
        machine.start()
        with TraceRecorder(tmp_path / "a.parquet", machine), TraceRecorder(tmp_path / "b.parquet", machine) as second:
            eventually(lambda: second.exits_recorded > 100, LONG)
            machine.freeze(timeout=LONG)
        machine.stop()
    a, b = (Trace.open(tmp_path / name).exit_records for name in ("a.parquet", "b.parquet"))
    assert len(a) >= len(b) > 100
    assert np.array_equal(a[-len(b) :], b)


def test_who_takes_records_meanwhile_is_told_who_has_them(tmp_path: Path) -> None:
    with machine_with(out(0x80, 1) + HLT, exit_records=8) as machine:
        with TraceRecorder(tmp_path / "t.parquet", machine) as recorder:
            machine.run(timeout=LONG)
            with pytest.raises(StateError, match="a TraceRecorder takes the exit records"):
                machine.take_exit_records()
        assert recorder.exits_recorded == 2
        assert len(machine.take_exit_records()) == 0


def test_the_machine_may_be_closed_before_the_recording_ends(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path / "t.parquet", machine_with(SPIN, exit_records=8)) as empty:
        pass
    assert empty.exits_recorded == 0
    machine = machine_with(out(0x80, 1) + HLT, exit_records=8)
    with TraceRecorder(tmp_path / "u.parquet", machine):
        machine.run(timeout=LONG)
        machine.close()
    assert len(Trace.open(tmp_path / "u.parquet").exit_records) == 2


def test_a_lazily_restored_machine_is_recorded_as_a_whole(userfaultfd_available: None, tmp_path: Path) -> None:
    with machine_with(READ_PAGES) as machine:
        for page in range(FIRST, LAST):
            machine.write(page * 4096, bytes([page]))
        machine.snapshot(tmp_path / "s")
    path = tmp_path / "t.parquet"
    with Machine.restore(tmp_path / "s", lazy=True, exit_records=1024) as machine, TraceRecorder(path, machine):
        machine.run(timeout=LONG)
    found = Trace.open(path)
    assert found.sql("select count(*) as n from exits where address = 128").to_pylist() == [{"n": LAST - FIRST}]
    touched = found.records[(found.records["kind"] == 0) & (found.records["outcome"] == 0)]["guest_address"] // 4096
    assert {CODE // 4096} < set(touched.tolist()) <= {CODE // 4096, *range(FIRST, LAST)}
    joined = found.sql(
        "select guest_address // 4096 as page, count(t_enter_ns) as runs, min(reason) as reason from faults "
        "left join exits on t_fault_ns between t_enter_ns and t_exit_ns "
        "where kind = 'demand' and outcome = 'installed' group by page"
    ).to_pylist()
    assert {row["page"] for row in joined} == set(touched.tolist())
    assert {row["runs"] for row in joined} == {1}, "each fault was met in one run of the guest"
    assert {row["reason"] for row in joined} == {"IO"}, "which ended with the write that follows the read"
    assert found.info.sessions[0].id in set(found.records["session"].tolist())
    assert len(found.session(found.info.sessions[0].id).exit_records) == LAST - FIRST + 1


def test_the_program_of_the_readme_does_what_it_says(
    userfaultfd_available: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = (each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "as machine, Trace" in each)
    monkeypatch.chdir(tmp_path)
    with machine_with(READ_PAGES) as machine:
        machine.snapshot("snapshot")
    namespace: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), namespace)
    waits = namespace["waits"].to_pylist()
    assert len(waits) == LAST - FIRST + 1
    demanded = namespace["Trace"].open("boot.parquet").summary().faults
    assert 0 < sum(row["faults"] for row in waits) <= demanded
    waited = [row["waited_ns"] for row in waits if row["faults"]]
    assert waited == sorted(waited, reverse=True)
    assert all((row["waited_ns"] is None) == (row["faults"] == 0) for row in waits)


def test_a_machine_without_a_ring_is_refused_and_the_remedy_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with machine_with(HLT) as machine:
        with pytest.raises(VmthawValueError, match="keeps no records of its exits; make it with exit_records=65536"):
            TraceRecorder(path, machine)
        with pytest.raises(VmthawValueError, match="exits are recorded of a Machine or a RunLoop, not of 5"):
            TraceRecorder(path, machine, exits=5)  # type: ignore[arg-type]
    with pytest.raises(VmthawValueError, match="PagerSession, a Machine, a RunLoop or a DaxSession, not of 5"):
        TraceRecorder(path, 5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
