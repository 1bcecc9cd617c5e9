"""The file of DAX events beside the faults': what is in it, how it is found, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.trace.made import (
    dax_events,
    dax_info,
    exits,
    exits_info,
    info,
    records,
    some_dax_events,
    some_exits,
    trace,
    write_file,
    write_stream,
)
from tests.unit.trace.made import write_dax_trace as write
from vmthaw import _core, dax
from vmthaw.errors import TraceError, VmthawValueError
from vmthaw.trace import DAX_COLUMNS, Trace
from vmthaw.trace._dax_schema import DAX, EVENTS, EVICT, LOST, REMOVE, REPLACE, RESET, SET_UP
from vmthaw.trace._exit_schema import EXITS
from vmthaw.trace._files import beside
from vmthaw.trace._info import Gap
from vmthaw.trace._schema import FAULTS

SPECIFIED = [
    "t_start_ns", "t_done_ns", "session", "kind", "guest_address", "window_offset", "length", "node", "file_offset",
    "prot", "error",
]  # fmt: skip


@pytest.fixture(params=["boot.parquet", "boot.arrow"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A trace of two faults and 1000 DAX events, 7 of which are missing."""
    found = tmp_path / str(request.param)
    parts = np.array_split(some_dax_events(), 10)
    write(found, records({"page": 1}, {"page": 2}), list(parts), (Gap(1000, 2, 7, "ring"),))
    return found


def test_the_columns_are_those_of_the_core_record() -> None:
    assert list(DAX_COLUMNS) == SPECIFIED
    assert set(_core.dax_record_dtype().names or ()) == set(SPECIFIED)
    assert _core.dax_record_dtype().itemsize == 64


def test_the_words_are_those_of_the_core() -> None:
    header = (Path(_core.__file__).parents[2] / "src" / "trace" / "dax_record.hpp").read_text()
    assert f"enum class DaxEventKind : std::uint8_t {{ {', '.join(EVENTS)} }};" in header
    assert dax.EVENTS == EVENTS
    kinds = SET_UP, REPLACE, REMOVE, EVICT, RESET, LOST
    assert [EVENTS[kind] for kind in kinds] == ["set_up", "replace", "remove", "evict", "reset", "lost"]


def test_a_trace_gives_back_every_field_of_every_event(path: Path) -> None:
    found = Trace.open(path)
    given = some_dax_events()
    for name in given.dtype.names or ():
        assert np.array_equal(found.dax_records[name], given[name]), name
    assert len(found) == 2
    assert found.dax.column_names == SPECIFIED
    assert found.dax.num_rows == 1000
    assert found.dax_info is not None
    assert found.dax_info.gaps == (Gap(1000, 2, 7, "ring"),)
    assert found.info.gaps == ()
    assert (found.exits_info, found.exits.num_rows) == (None, 0)
    assert ", 1000 DAX events>" in repr(found)


def test_what_is_about_no_file_is_null_and_enumerations_are_words(path: Path) -> None:
    given = some_dax_events()
    for record, row in zip(given, Trace.open(path).dax.to_pylist(), strict=True):
        of_file = row["kind"] not in ("remove", "reset")
        assert row["kind"] == EVENTS[record["kind"]]
        assert row["node"] == (int(record["node"]) if of_file else None)
        assert row["file_offset"] == (int(record["file_offset"]) if of_file else None)
        assert row["prot"] == ("", "read", "write", "read write")[record["prot"]]
        assert row["error"] == int(record["error"])


def test_without_recorded_events_there_is_a_table_without_rows(tmp_path: Path) -> None:
    write_file(tmp_path / "a.parquet", FAULTS, [records({"page": 1})], info())
    for found in (Trace.open(tmp_path / "a.parquet"), trace({"page": 1}), Trace.from_records(records())):
        assert found.dax.schema.equals(DAX.schema())
        assert (found.dax.num_rows, len(found.dax_records), found.dax_info) == (0, 0, None)
        assert found.dax_records.dtype == _core.dax_record_dtype()
        assert found.summary().dax is None
        assert found.sql("select count(*) as n from dax where kind = 'set_up'").to_pylist() == [{"n": 0}]


def test_sql_joins_exits_and_dax_events_by_time() -> None:
    events = dax_events({"t_start_ns": 1650, "t_done_ns": 1660}, {"t_start_ns": 1750}, {"t_start_ns": 3610})
    found = Trace.from_records(records(), exits=exits({}, {}, {"address": 0x80}), dax=events)
    joined = found.sql(
        "select address, dax.kind, window_offset from dax join exits on dax.t_start_ns between t_exit_ns and "
        "t_decided_ns order by t_start_ns"
    )
    assert joined.to_pylist() == [
        {"address": 0x3F8, "kind": "set_up", "window_offset": 0},
        {"address": 0x80, "kind": "set_up", "window_offset": 0},
    ]


def test_exits_and_dax_events_lie_beside_the_faults_together(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_file(path, FAULTS, [records({"page": 1})], replace(info(), tables=("exits", "dax"), recording="one"))
    write_file(beside(path, "exits"), EXITS, [some_exits(3)], exits_info())
    write_file(beside(path, "dax"), DAX, [some_dax_events(5)], dax_info())
    found = Trace.open(path)
    assert (len(found), len(found.exit_records), len(found.dax_records)) == (1, 3, 5)
    assert len(Trace.open(path, exits=False).dax_records) == 5
    assert len(Trace.open(path, dax=False).exit_records) == 3
    assert ", 3 exits, 5 DAX events>" in repr(found)


def test_a_stream_that_was_cut_off_is_found_and_read_to_its_last_batch(tmp_path: Path) -> None:
    faults, beside_it = tmp_path / "b.parquet.recording.arrow", tmp_path / "b.dax.parquet.recording.arrow"
    about = replace(info(), tables=("dax",), recording="one", complete=False)
    write_stream(faults, FAULTS, [records({"page": 1})], about, close=False)
    given = some_dax_events(200)
    write_stream(beside_it, DAX, list(np.array_split(given, 5)), replace(dax_info(), complete=False), close=False)
    whole = beside_it.read_bytes()
    for cut in (len(whole), len(whole) - 1, len(whole) // 2):
        beside_it.write_bytes(whole[:cut])
        found = Trace.open(faults)
        count = len(found.dax_records)
        assert count % 40 == 0
        assert count == 200 if cut == len(whole) else 0 < count < 200
        assert np.array_equal(found.dax_records["t_done_ns"], given["t_done_ns"][:count])
        assert found.dax_info is not None
        assert not found.dax_info.complete


def beside_of(path: Path) -> Path:
    return beside(path, "dax")


def refusal(path: Path) -> str:
    """Why the trace is not opened; without its DAX events it is."""
    with pytest.raises(TraceError) as caught:
        Trace.open(path)
    assert len(Trace.open(path, dax=False)) == 2
    text = str(caught.value)
    assert str(beside_of(path)) in text
    assert "opened alone (dax=False, --no-dax on the command line)" in text
    return text


def test_events_that_are_missing_or_of_another_recording_are_refused(path: Path) -> None:
    write_file(beside_of(path), DAX, [some_dax_events(5)], dax_info("two"))
    assert "is of another recording ('two') than" in refusal(path)
    write_stream(beside_of(path), DAX, [some_dax_events(5)], replace(dax_info(), schema_version=2))
    assert "has version 2 of the schema of a table of DAX events; this vmthaw" in refusal(path)
    beside_of(path).write_bytes(path.read_bytes())
    assert "is no table of DAX events: it holds the table 'faults'" in refusal(path)
    beside_of(path).unlink()
    assert "was recorded with its DAX events, and" in refusal(path)
    write(path, records({"page": 1}), [some_dax_events()])
    with pytest.raises(TraceError, match="1000 records; more than 999"):
        Trace.open(path, max_records=999)


@pytest.mark.parametrize(
    ("name", "wrong", "text"),
    [
        ("t_done_ns", 1 << 62, "column t_done_ns holds 4611686018427387904; it must be less than"),
        ("t_done_ns", 1, "column t_done_ns holds 1 in row 3, before its t_start_ns"),
        ("kind", "explode", "column kind holds 'explode'; known are 'set_up'"),
        ("kind", "remove", "column node has a value in row 3"),
        ("kind", None, "column kind has 1 nulls"),
        ("node", None, "column node is null in row 3"),
        ("file_offset", None, "column file_offset is null in row 3"),
        ("window_offset", None, "column window_offset has 1 nulls"),
        ("session", None, "column session has 1 nulls"),
        ("prot", "execute", "column prot holds 'execute'; known are ''"),
        ("error", -5, "column error holds -5"),
        ("error", 4096, "column error holds 4096"),
    ],
)
def test_a_value_that_cannot_be_right_is_named(tmp_path: Path, name: str, wrong: Any, text: str) -> None:
    path = tmp_path / "t.parquet"
    write(path, records({"page": 1}, {"page": 2}), [dax_events(*[{}] * 6)])
    table = pq.read_table(beside_of(path))
    kind = pa.string() if name in ("kind", "prot") else table.schema.field(name).type
    values = table.column(name).to_pylist()
    column = pa.array([*values[:3], wrong, *values[4:]], kind)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), beside_of(path))
    assert text in refusal(path)


def test_a_damaged_file_is_refused_or_read_but_never_more(path: Path) -> None:
    whole = beside_of(path).read_bytes()
    random = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(0, 256)
        beside_of(path).write_bytes(damaged)
        try:
            found = Trace.open(path)
        except TraceError as error:
            if "boot.dax." not in str(error):
                raise
            continue
        found.summary()
        assert found.dax.num_rows == len(found.dax_records) <= 1000


def test_one_vm_has_the_events_when_it_is_the_only_one() -> None:
    alone = Trace(records({"page": 1}), info(), dax=dax_events({}, {}), dax_info=dax_info())
    assert len(alone.session(1).dax_records) == 2
    assert alone.session(1).dax_info is not None
    two = Trace(records({"page": 1}, {"page": 1, "session": 2}), info(), dax=dax_events({}), dax_info=dax_info())
    assert len(two.session(1).dax_records) == 0
    assert two.session(1).dax_info is None


def test_records_of_another_kind_are_refused() -> None:
    with pytest.raises(VmthawValueError, match="dtype of records of dax"):
        Trace.from_records(records(), dax=records({"page": 1}))
