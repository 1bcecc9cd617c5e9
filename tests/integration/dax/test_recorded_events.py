"""DAX events beside the exits in which a guest asked for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.kvm.test_run_loop import HLT, LONG, out
from tests.integration.machine.test_machine_run import machine_with
from vmthaw import DaxSession, HostFiles, Trace, TraceRecorder
from vmthaw.dax import RecordingMapper
from vmthaw.vcpu import Exit

pytestmark = pytest.mark.usefixtures("kvm_available")

BASE, CHUNK = 0x80_0000_0000, 2 << 20
ASK, OTHER = 0x500, 0x501


def test_a_join_by_time_finds_the_exit_that_asked_for_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    (tmp_path / "file").write_bytes(bytes(CHUNK))
    files = HostFiles()
    node = files.add(tmp_path / "file")
    session = DaxSession(files, RecordingMapper(), guest_base=BASE, size=16 * CHUNK)
    code = out(ASK, 1) + out(OTHER, 0) + out(ASK, 2) + out(ASK, 0x81) + HLT
    with machine_with(code, exit_records=64) as machine, TraceRecorder(path, machine, dax=session) as recorder:

        @machine.on_port(ASK)
        def ask(access: Exit) -> None:
            value = access.fields["data"][0]
            if value & 0x80:
                session.remove((value & 0x7F) * CHUNK, CHUNK)
            else:
                session.set_up(node, value * CHUNK, 0, CHUNK)

        machine.run(timeout=LONG)
    assert (recorder.exits_recorded, recorder.dax_recorded) == (5, 3)
    found = Trace.open(path)
    joined = found.sql(
        "select address, dax.kind, window_offset from exits join dax "
        "on dax.t_start_ns >= t_exit_ns and dax.t_done_ns <= t_decided_ns order by dax.t_start_ns"
    )
    assert [tuple(row.values()) for row in joined.to_pylist()] == [
        (ASK, "set_up", CHUNK),
        (ASK, "set_up", 2 * CHUNK),
        (ASK, "remove", CHUNK),
    ]
    assert sorted(each.name for each in tmp_path.glob("t.*")) == ["t.dax.parquet", "t.exits.parquet", "t.parquet"]
