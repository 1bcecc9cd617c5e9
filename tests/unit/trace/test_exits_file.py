"""The exits' file beside the faults': what is in it, how it is found, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.trace.made import exits, exits_info, info, records, some_exits, trace, write_file, write_stream
from tests.unit.trace.made import write_trace as write
from vmthaw import _core
from vmthaw.errors import TraceError, VmthawValueError
from vmthaw.trace import EXIT_COLUMNS, Trace
from vmthaw.trace import _exit_schema as schema
from vmthaw.trace._exit_schema import EXITS
from vmthaw.trace._files import beside
from vmthaw.trace._info import Gap
from vmthaw.trace._schema import FAULTS
from vmthaw.vcpu import ExitActionKind, exit_reason_name

SPECIFIED = [
    "t_enter_ns", "t_exit_ns", "t_decided_ns", "vcpu", "reason", "address", "length", "write",
    "instruction_pointer", "stack_pointer", "page_table_root", "error", "action", "handler",
]  # fmt: skip


@pytest.fixture(params=["boot.parquet", "boot.arrow"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A trace of two faults and 1000 exits, 7 of which are missing."""
    found = tmp_path / str(request.param)
    parts = np.array_split(some_exits(), 10)
    write(found, records({"page": 1}, {"page": 2}), list(parts), (Gap(1000, 2, 7, "ring"),))
    return found


def test_the_columns_are_those_of_the_core_record() -> None:
    assert list(EXIT_COLUMNS) == SPECIFIED
    fields = set(_core.exit_record_dtype().names or ())
    assert fields - set(SPECIFIED) == {"flags"}, "flags are write, handler and whether there are registers"


def test_the_words_are_those_of_kvm_and_of_the_core() -> None:
    assert schema.ACTIONS == ("none", "continue", "shutdown", "fatal")
    assert [kind.value for kind in ExitActionKind] == list(range(4))
    assert schema.REASONS[2] == "IO"
    assert schema.REASONS[43] == "SNP_REQ_CERTS"
    for number, name in enumerate(schema.REASONS):
        assert name == exit_reason_name(number) == schema.reason_name(number)
        assert schema.reason_number(name) == number
    assert schema.reason_number(schema.reason_name(4_000_000_000)) == 4_000_000_000
    for word in ("", "reason", "reason 4294967295", "reason 01", "reason 99999999999", "io", "error"):
        assert schema.reason_number(word) is None


def test_the_bits_and_the_number_of_a_failure_are_those_of_the_core() -> None:
    header = (Path(_core.__file__).parents[2] / "src" / "trace" / "exit_record.hpp").read_text()
    for name, value in (("Write", schema.WRITE), ("Handler", schema.HANDLER), ("Registers", schema.REGISTERS)):
        assert f"kExitRecord{name} = {value};" in header
    assert "kExitRecordFailed = 0xFFFF'FFFF" in header
    assert schema.NO_REASON == 0xFFFFFFFF


def test_a_trace_gives_back_every_field_of_every_exit(path: Path) -> None:
    found = Trace.open(path)
    given = some_exits()
    for name in given.dtype.names or ():
        assert np.array_equal(found.exit_records[name], given[name]), name
    assert len(found) == 2
    assert found.exits.column_names == SPECIFIED
    assert found.exits.num_rows == 1000
    assert found.exits_info is not None
    assert found.exits_info.gaps == (Gap(1000, 2, 7, "ring"),)
    assert found.info.gaps == ()
    assert ", 1000 exits>" in repr(found)


def test_what_did_not_happen_is_null_and_enumerations_are_words(path: Path) -> None:
    given = some_exits()
    rows = Trace.open(path).exits.to_pylist()
    for record, row in zip(given, rows, strict=True):
        access, failed = record["reason"] in (2, 6), record["reason"] == 0xFFFFFFFF
        assert row["reason"] == (None if failed else schema.reason_name(int(record["reason"])))
        assert row["error"] == (int(record["error"]) if failed else None)
        assert row["address"] == (int(record["address"]) if access else None)
        assert row["length"] == (int(record["length"]) if access else None)
        assert row["write"] is ((bool(record["flags"] & 1)) if access else None)
        assert row["handler"] is bool(record["flags"] & 2)
        assert row["action"] == schema.ACTIONS[record["action"]]
        for register in ("instruction_pointer", "stack_pointer", "page_table_root"):
            assert row[register] == (int(record[register]) if record["flags"] & 4 else None)


def test_an_access_whose_data_kvm_garbled_has_no_address() -> None:
    found = Trace.from_records(records(), exits=exits({"address": 0, "length": 0, "flags": 0}, {"address": 0}))
    assert found.exits.column("address").to_pylist() == [None, 0]
    assert found.exits.column("write").to_pylist() == [None, True]


def test_reasons_without_a_name_survive_from_batch_to_batch(tmp_path: Path) -> None:
    parts = [exits({"reason": number}, {"reason": 5}) for number in (99, 44, 4_000_000_000, 99)]
    for part in parts:
        part["address"], part["length"], part["flags"] = 0, 0, 0
    for name in ("a.parquet", "a.arrow"):
        write(tmp_path / name, records(), parts)
        found = Trace.open(tmp_path / name)
        assert found.exit_records["reason"].tolist() == [99, 5, 44, 5, 4_000_000_000, 5, 99, 5]
        assert found.exits.column("reason").to_pylist()[::2] == [
            "reason 99",
            "reason 44",
            "reason 4000000000",
            "reason 99",
        ]


def test_without_recorded_exits_there_is_a_table_without_rows(tmp_path: Path) -> None:
    write_file(tmp_path / "a.parquet", FAULTS, [records({"page": 1})], info())
    for found in (Trace.open(tmp_path / "a.parquet"), trace({"page": 1}), Trace.from_records(records())):
        assert found.exits.schema.equals(EXITS.schema())
        assert (found.exits.num_rows, len(found.exit_records), found.exits_info) == (0, 0, None)
        assert found.exit_records.dtype == _core.exit_record_dtype()
        assert found.summary().exits is None
        assert found.sql("select count(*) as n from exits where reason = 'IO'").to_pylist() == [{"n": 0}]


def test_sql_joins_faults_and_exits_by_time() -> None:
    faults = records({"page": 7, "t_fault_ns": 1100}, {"page": 8, "t_fault_ns": 2599}, {"page": 9, "t_fault_ns": 2601})
    found = Trace.from_records(faults, exits=exits({"reason": 5, "address": 0, "length": 0, "flags": 0}, {}))
    joined = found.sql(
        "select guest_address // 4096 as page, exits.reason from faults join exits "
        "on t_fault_ns between t_enter_ns and t_exit_ns order by t_fault_ns"
    )
    assert joined.to_pylist() == [{"page": 7, "reason": "HLT"}, {"page": 8, "reason": "IO"}]


@pytest.mark.parametrize(
    ("name", "exits_name"),
    [
        ("boot.parquet", "boot.exits.parquet"),
        ("boot.arrow", "boot.exits.arrow"),
        ("boot.parquet.recording.arrow", "boot.exits.parquet.recording.arrow"),
        ("a.b.parquet", "a.b.exits.parquet"),
    ],
)
def test_the_exits_lie_beside_the_faults(name: str, exits_name: str) -> None:
    assert beside(Path("/x") / name, "exits") == Path("/x") / exits_name


def test_a_stream_that_was_cut_off_is_found_and_read_to_its_last_batch(tmp_path: Path) -> None:
    faults, beside_it = tmp_path / "b.parquet.recording.arrow", tmp_path / "b.exits.parquet.recording.arrow"
    about = replace(info(), tables=("exits",), recording="one", complete=False)
    write_stream(faults, FAULTS, [records({"page": 1})], about, close=False)
    given = some_exits(200)
    write_stream(beside_it, EXITS, list(np.array_split(given, 5)), replace(exits_info(), complete=False), close=False)
    whole = beside_it.read_bytes()
    seen = set()
    for cut in range(len(whole), len(whole) // 4, -1213):
        beside_it.write_bytes(whole[:cut])
        found = Trace.open(faults)
        assert len(found.exit_records) % 40 == 0
        assert np.array_equal(found.exit_records["t_exit_ns"], given["t_exit_ns"][: len(found.exit_records)])
        assert found.exits_info is not None
        assert not found.exits_info.complete
        seen.add(len(found.exit_records))
    assert seen >= {40, 80, 120, 160, 200}


def beside_of(path: Path) -> Path:
    return beside(path, "exits")


def refusal(path: Path) -> str:
    """Why the trace is not opened; without its exits it is."""
    with pytest.raises(TraceError) as caught:
        Trace.open(path)
    assert len(Trace.open(path, exits=False)) == 2
    text = str(caught.value)
    assert str(beside_of(path)) in text
    assert "opened alone (exits=False, --no-exits on the command line)" in text
    return text


def test_exits_that_are_missing_are_said(path: Path) -> None:
    beside_of(path).unlink()
    assert "was recorded with its exits, and" in refusal(path)


def test_exits_of_another_recording_are_refused(path: Path) -> None:
    write_file(beside_of(path), EXITS, [some_exits(5)], exits_info("two"))
    assert "is of another recording ('two') than" in refusal(path)


def test_exits_of_another_version_are_refused(path: Path) -> None:
    write_stream(beside_of(path), EXITS, [some_exits(5)], replace(exits_info(), schema_version=2))
    assert "has version 2 of the schema of a table of exits; this vmthaw" in refusal(path)


def test_damaged_exits_are_refused(path: Path) -> None:
    beside_of(path).write_bytes(b"PAR1" + bytes(100))
    assert "cannot be read as a table of exits" in refusal(path)
    beside_of(path).write_bytes(b"")
    assert "is empty" in refusal(path)


def test_the_two_files_are_not_taken_for_each_other(path: Path) -> None:
    with pytest.raises(TraceError, match="is no fault trace: it holds the table 'exits' of a trace"):
        Trace.open(beside_of(path))
    beside_of(path).write_bytes(path.read_bytes())
    assert "is no table of exits: it holds the table 'faults'" in refusal(path)


def test_a_file_of_that_name_is_left_alone_when_no_exits_were_recorded(tmp_path: Path) -> None:
    write_file(tmp_path / "a.parquet", FAULTS, [records({"page": 1})], info())
    (tmp_path / "a.exits.parquet").write_bytes(b"somebody else's")
    assert len(Trace.open(tmp_path / "a.parquet").exit_records) == 0


def test_too_many_exits_are_refused(path: Path) -> None:
    with pytest.raises(TraceError, match="1000 records; more than 999"):
        Trace.open(path, max_records=999)


def column_of(values: list[Any], kind: Any, wrong: Any) -> Any:
    """The column with another value in row 3."""
    return pa.array([*values[:3], wrong, *values[4:]], kind)


@pytest.mark.parametrize(
    ("name", "wrong", "text"),
    [
        ("t_exit_ns", 1 << 62, "column t_exit_ns holds 4611686018427387904; it must be less than"),
        ("t_exit_ns", 1, "column t_exit_ns holds 1 in row 3, before its t_enter_ns"),
        ("t_decided_ns", 1, "column t_decided_ns holds 1 in row 3, before its t_exit_ns"),
        ("reason", "<script>", "column reason holds '<script>'; it must be a name of KVM's"),
        ("reason", None, "column address has a value in row 3"),
        ("reason", "HLT", "column address has a value in row 3"),
        ("address", None, "column address is null in row 3"),
        ("length", None, "column length is null in row 3"),
        ("write", None, "column write is null in row 3"),
        ("error", 5, "column error has a value in row 3"),
        ("error", -5, "column error holds -5"),
        ("error", 4096, "column error holds 4096"),
        ("action", "explode", "column action holds 'explode'; known are 'none'"),
        ("action", None, "column action has 1 nulls"),
        ("handler", None, "column handler has 1 nulls"),
        ("vcpu", None, "column vcpu has 1 nulls"),
        ("stack_pointer", None, "column stack_pointer is null in row 3"),
        ("instruction_pointer", None, "column instruction_pointer is null in row 3"),
    ],
)
def test_a_value_that_cannot_be_right_is_named(tmp_path: Path, name: str, wrong: Any, text: str) -> None:
    path = tmp_path / "t.parquet"
    given = exits(*({"flags": 5, "stack_pointer": row} for row in range(6)))
    write(path, records({"page": 1}, {"page": 2}), [given])
    table = pq.read_table(beside_of(path))
    kind = pa.string() if name in ("reason", "action") else table.schema.field(name).type
    column = column_of(table.column(name).to_pylist(), kind, wrong)
    at = table.column_names.index(name)
    pq.write_table(table.set_column(at, name, column), beside_of(path))
    assert text in refusal(path)


@pytest.mark.parametrize(
    ("name", "column", "text"),
    [
        ("address", None, "no column address"),
        ("address", pa.array([1.5] * 1000), "column address is double; it must be uint64"),
        ("write", pa.array([1] * 1000), "column write is int64; it must be bool"),
        ("reason", pa.array([2] * 1000), "column reason is int64"),
        ("vcpu", pa.array([-1] * 1000, pa.int16()), "column vcpu is int16; it must be uint16"),
    ],
)
def test_a_column_that_cannot_be_right_is_named(tmp_path: Path, name: str, column: Any, text: str) -> None:
    path = tmp_path / "t.parquet"
    write(path, records({"page": 1}, {"page": 2}), [some_exits()])
    table = pq.read_table(beside_of(path))
    at = table.column_names.index(name)
    table = table.remove_column(at) if column is None else table.set_column(at, name, column)
    pq.write_table(table, beside_of(path))
    assert text in refusal(path)


def test_a_flood_of_reasons_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    given = exits(*[{"address": 0, "length": 0, "flags": 0}] * 1025)
    given["reason"] = 100 + np.arange(1025)
    write(path, records({"page": 1}, {"page": 2}), [given])
    assert "column reason holds 1025 different reasons; 1024 are allowed" in refusal(path)
    given["reason"][0] = 101
    write(path, records({"page": 1}, {"page": 2}), [given])
    assert len(Trace.open(path).exit_records) == 1025


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
            if "boot.exits." not in str(error):
                raise
            continue
        found.summary()
        assert found.exits.num_rows == len(found.exit_records) <= 1000


def test_metadata_of_tables_are_checked(tmp_path: Path) -> None:
    for change, text in (
        ({"tables": 5}, "tables must be a list"),
        ({"tables": [5]}, "tables must be a text"),
        ({"recording": 5}, "recording must be a text"),
        ({"table": []}, "table must be a text"),
    ):
        about = replace(info(), **change)
        write_stream(tmp_path / "a.arrow", FAULTS, [records({"page": 1})], about)
        with pytest.raises(TraceError, match=rf"a\.arrow: the metadata's {text}"):
            Trace.open(tmp_path / "a.arrow")


def test_one_vm_has_the_exits_when_it_is_the_only_one() -> None:
    alone = Trace(records({"page": 1}), info(), exits=exits({}, {}), exits_info=exits_info())
    assert len(alone.session(1).exit_records) == 2
    assert alone.session(1).exits_info is not None
    two = Trace(records({"page": 1}, {"page": 1, "session": 2}), info(), exits=exits({}), exits_info=exits_info())
    assert len(two.session(1).exit_records) == 0
    assert two.session(1).exits_info is None


def test_records_of_another_kind_are_refused() -> None:
    with pytest.raises(VmthawValueError, match="dtype of records of exits"):
        Trace.from_records(records(), exits=records({"page": 1}))
    with pytest.raises(VmthawValueError, match="dtype of records of faults"):
        Trace.from_records(exits({}))
