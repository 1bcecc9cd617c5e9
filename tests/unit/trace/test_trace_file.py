"""Trace files: what is in them, what is read from what is left of them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.trace.made import info, records
from vmthaw import _core
from vmthaw.errors import TraceError, VmthawFileNotFoundError, VmthawValueError
from vmthaw.trace import COLUMNS, Trace, TraceInfo
from vmthaw.trace import _schema as schema
from vmthaw.trace._columns import Records
from vmthaw.trace._info import KEY, Gap, SessionInfo
from vmthaw.trace._reader import read_parts
from vmthaw.trace._stream import StreamWriter
from vmthaw.trace._write import write_parquet

SPECIFIED = [
    "t_fault_ns", "t_fetched_ns", "t_installed_ns", "session", "region", "offset", "guest_address", "page_size",
    "pages", "flags", "tid", "vcpu", "kind", "page_class", "source", "layer", "outcome", "handler",
]  # fmt: skip


def some_records(count: int = 1000, seed: int = 1) -> Records:
    """Every column with values of its own, so that two that were swapped show."""
    random = np.random.default_rng(seed)
    found = np.zeros(count, dtype=_core.fault_record_dtype())
    found["t_fault_ns"] = np.sort(random.integers(1, 1 << 50, count))
    found["t_fetched_ns"] = np.where(random.random(count) < 0.5, 0, found["t_fault_ns"] + 5)
    found["t_installed_ns"] = found["t_fault_ns"] + 17
    found["guest_address"] = random.integers(0, 1 << 28, count) * 4096
    found["offset"] = random.integers(0, 1 << 28, count) * 4096
    found["session"] = random.integers(1, 9, count)
    found["pages"] = random.integers(0, 513, count)
    found["tid"] = random.integers(0, 4, count) * 1000
    found["region"] = random.integers(0, 3, count)
    found["handler"] = random.integers(0, 7, count)
    found["page_size_log2"] = np.where(random.random(count) < 0.5, 12, 21)
    found["flags"] = random.integers(0, 8, count)
    found["kind"] = random.integers(0, len(schema.KINDS), count)
    found["page_class"] = random.integers(0, len(schema.PAGE_CLASSES), count)
    found["outcome"] = random.integers(0, len(schema.OUTCOMES), count)
    found["source"] = random.integers(0, len(schema.SOURCES), count)
    found["layer"] = random.integers(0, 5, count)
    return found


def write_stream(path: Path, rows: Records, batches: int = 10, close: bool = True) -> None:
    writer = StreamWriter(path, replace(info(), sessions=(), complete=False), schema.FAULTS, overwrite=True)
    for number, part in enumerate(np.array_split(rows, batches)):
        sessions = [SessionInfo(number, f"vm {number}")]
        gaps = [Gap(100, 3, 7, "ring")] if number == 2 else []
        vcpu = schema.vcpu_column(part["tid"], {2000: 1})
        writer.write(schema.FAULTS.to_batch(part, writer.schema, {"vcpu": vcpu}), sessions, gaps)
    if close:
        writer.close()
    writer.abandon()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    stream, path = tmp_path / "s.arrow", tmp_path / "t.parquet"
    write_stream(stream, some_records())
    with read_parts(stream) as parts:
        write_parquet(path, parts)
    return path


def test_the_columns_are_those_of_the_specification(parquet: Path) -> None:
    assert list(COLUMNS) == SPECIFIED
    assert pq.read_schema(parquet).names == SPECIFIED
    assert Trace.open(parquet).faults.column_names == SPECIFIED
    metadata = json.loads(pq.read_schema(parquet).metadata[KEY])
    assert metadata["schema_version"] == 1
    assert metadata["clock"] == "CLOCK_MONOTONIC"
    assert metadata["started_at"] == 10**18
    assert [session["label"] for session in metadata["sessions"]] == [f"vm {number}" for number in range(10)]


def test_the_words_are_those_of_the_core() -> None:
    header = Path(_core.__file__).parents[2] / "src" / "trace" / "fault_record.hpp"
    tier = header.parents[1] / "base" / "source_tier.hpp"
    text = header.read_text() + tier.read_text()
    for name, words in (("FaultKind", schema.KINDS), ("PageClass", schema.PAGE_CLASSES),
                        ("FaultOutcome", schema.OUTCOMES), ("SourceTier", schema.SOURCES)):  # fmt: skip
        body = text.split(f"enum class {name}")[1].split("{")[1].split("}")[0]
        found = [word.strip() for word in body.split(",")]
        assert [word.replace("-", "") for word in words] == [word.replace("_", "") for word in found]


def test_a_file_gives_back_every_field_of_every_record(parquet: Path, tmp_path: Path) -> None:
    for path in (parquet, tmp_path / "s.arrow"):
        trace = Trace.open(path)
        given = some_records()
        for name in given.dtype.names or ():
            assert np.array_equal(trace.records[name], given[name]), name
        assert trace.info.gaps == (Gap(100, 3, 7, "ring"),)
        assert trace.info.dropped == 7
        assert trace.info.complete


def test_what_did_not_happen_is_null_and_enumerations_are_words(parquet: Path) -> None:
    given = some_records()
    frame = Trace.open(parquet).to_pandas()
    assert frame["t_fetched_ns"].isna().tolist() == (given["t_fetched_ns"] == 0).tolist()
    assert frame["tid"].isna().tolist() == (given["tid"] == 0).tolist()
    assert frame["vcpu"].notna().tolist() == (given["tid"] == 2000).tolist()
    assert set(frame["vcpu"].dropna()) == {1}
    assert [schema.KINDS[kind] for kind in given["kind"]] == frame["kind"].tolist()
    assert [schema.FLAGS[flags] for flags in given["flags"]] == frame["flags"].tolist()
    assert schema.FLAGS[5] == "write+minor"
    assert frame["page_size"].tolist() == (1 << given["page_size_log2"].astype(int)).tolist()


def test_a_thread_that_is_not_known_is_no_vcpu() -> None:
    given = records({"page": 1}, {"page": 2, "tid": 9})
    assert schema.vcpu_column(given["tid"], {0: 3, 9: 2}).to_pylist() == [None, 2]
    batch = schema.FAULTS.to_batch(given, schema.FAULTS.schema())
    assert batch.column("vcpu").to_pylist() == [None, None]
    assert batch.column("tid").to_pylist() == [None, 9]


def test_every_cut_of_a_stream_is_readable_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    path = tmp_path / "s.arrow"
    given = some_records(200)
    write_stream(path, given, batches=5)
    whole = path.read_bytes()
    with read_parts(path) as parts:
        assert parts.whole
    seen = set()
    for cut in range(len(whole) - 1, 0, -331):
        path.write_bytes(whole[:cut])
        try:
            trace = Trace.open(path)
        except TraceError as error:
            if "s.arrow" not in str(error):
                raise
            continue  # not even the schema is whole
        assert not trace.info.complete
        assert len(trace) % 40 == 0
        assert np.array_equal(trace.records["offset"], given["offset"][: len(trace)])
        seen.add(len(trace))
    assert seen >= {0, 40, 80, 120, 160, 200}


def test_sql_sees_the_faults_and_nothing_else(parquet: Path) -> None:
    trace = Trace.open(parquet)
    found = trace.sql("select kind, sum(pages) as pages from faults group by kind order by kind").to_pylist()
    given = some_records()
    wanted = {schema.KINDS[kind]: int(given["pages"][given["kind"] == kind].sum()) for kind in range(5)}
    assert {row["kind"]: row["pages"] for row in found} == wanted
    with pytest.raises(VmthawValueError, match="disabled"):
        trace.sql(f"select * from '{parquet}'")
    with pytest.raises(VmthawValueError, match="DuckDB"):
        trace.sql("nonsense")


def test_one_vm_can_be_looked_at_alone(parquet: Path) -> None:
    part = Trace.open(parquet).session(3)
    assert set(part.records["session"]) == {3}
    assert part.faults.num_rows == len(part) == (some_records()["session"] == 3).sum()
    with pytest.raises(VmthawValueError, match="no session 77"):
        part.session(77)


def rewrite(path: Path, **columns: Any) -> Path:
    table = pq.read_table(path)
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, values) if values is not None else table.remove_column(index)
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"pages": None}, "no column pages"),
        ({"offset": pa.array([1.5] * 1000)}, "column offset is double"),
        ({"offset": pa.array([None] * 1000, pa.uint64())}, "1000 nulls"),
        ({"page_size": pa.array([4097] * 1000, pa.uint64())}, "page_size holds 4097"),
        ({"pages": pa.array([(1 << 32) - 1] * 1000, pa.uint32())}, "pages holds"),
        ({"guest_address": pa.array([1 << 63] * 1000, pa.uint64())}, "guest_address holds"),
        ({"kind": pa.array(["demand"] * 999 + ["<script>"])}, "kind holds '<script>'"),
    ],
)
def test_a_column_that_cannot_be_right_is_named(parquet: Path, columns: dict[str, Any], text: str) -> None:
    with pytest.raises(TraceError, match=text.replace("(", r"\(")) as caught:
        Trace.open(rewrite(parquet, **columns))
    assert str(parquet) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema_version": 2}, "version 2"),
        ({"schema_version": "1"}, "schema_version"),
        ({"sessions": 5}, "sessions"),
        ({"sessions": [{"id": 1, "label": "x", "pid": -2}]}, "pid"),
        ({"gaps": [{"after": 1, "session": 1, "dropped": -1, "where": "ring"}]}, "dropped"),
        ({"clock": "x" * 5000}, "clock"),
        ({"started_at": 1.5}, "started_at"),
    ],
)
def test_metadata_that_cannot_be_right_are_named(change: dict[str, Any], text: str) -> None:
    found = {**json.loads(info().to_json()), **change}
    with pytest.raises(TraceError, match=text):
        TraceInfo.from_json(json.dumps(found).encode(), "a.parquet")


def test_metadata_that_are_no_json_are_refused() -> None:
    for text in (b"{", b"[" * 100_000, b"7", b"\xff"):
        with pytest.raises(TraceError, match=r"a\.parquet"):
            TraceInfo.from_json(text, "a.parquet")


def test_what_is_no_trace_is_refused_with_a_sentence(tmp_path: Path, parquet: Path) -> None:
    path = tmp_path / "x.parquet"
    for content, text in ((b"", "is empty"), (b"hello, world", "neither"), (b"PAR1" + bytes(100), "cannot be read")):
        path.write_bytes(content)
        with pytest.raises(TraceError, match=text):
            Trace.open(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(TraceError, match="no fault trace"):
        Trace.open(path)
    with pytest.raises(TraceError, match="1000 records; more than 999"):
        Trace.open(parquet, max_records=999)
    with pytest.raises(VmthawFileNotFoundError, match="No such file"):
        Trace.open(tmp_path / "none.parquet")
    (tmp_path / "none.parquet.recording.arrow").write_bytes(b"")
    with pytest.raises(VmthawFileNotFoundError, match=r"open .*recording\.arrow"):
        Trace.open(tmp_path / "none.parquet")


@pytest.mark.parametrize("name", ["t.parquet", "s.arrow"])
def test_a_damaged_file_is_refused_or_read_but_never_more(parquet: Path, name: str) -> None:
    path = parquet.with_name(name)
    whole = path.read_bytes()
    random = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            trace = Trace.open(path)
        except TraceError:
            continue
        trace.summary()
        assert trace.faults.num_rows == len(trace) <= 1000


def test_a_file_that_came_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "s.arrow"
    path.write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError):
        StreamWriter(path, info(), schema.FAULTS, overwrite=False)
    assert path.read_bytes() == b"somebody else's"
