"""Traces made by hand, so that every figure can be worked out on paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vmthaw import _core
from vmthaw.trace import Trace, TraceInfo
from vmthaw.trace._columns import Records
from vmthaw.trace._dax_schema import DAX
from vmthaw.trace._exit_schema import EXITS
from vmthaw.trace._files import stream_path
from vmthaw.trace._info import Gap, RegionInfo, SessionInfo
from vmthaw.trace._reader import read_parts
from vmthaw.trace._schema import FAULTS
from vmthaw.trace._stream import StreamWriter
from vmthaw.trace._table import Table
from vmthaw.trace._write import write_parquet

PAGE = 4096


def records(*rows: dict[str, int]) -> Records:
    """A record for each row of columns; `page` stands for guest_address and offset, times count from 1000."""
    import numpy as np

    found = np.zeros(len(rows), dtype=_core.fault_record_dtype())
    found["page_size_log2"], found["pages"], found["session"], found["source"] = 12, 1, 1, 2
    found["t_fault_ns"] = 1000 + np.arange(len(rows)) * 1000
    for number, given in enumerate(rows):
        row = dict(given)
        if "page" in row:
            row["guest_address"] = row["offset"] = row.pop("page") * PAGE
        for name, value in row.items():
            found[number][name] = value
        if "t_installed_ns" not in row:
            found[number]["t_installed_ns"] = found[number]["t_fault_ns"] + 100
    return found


def info(pages: int = 1024) -> TraceInfo:
    region = RegionInfo(0, 0, 0, pages * PAGE, PAGE)
    return TraceInfo(started_at=10**18, started_ns=900, sessions=(SessionInfo(1, "vm", 42, (region,)),))


def trace(*rows: dict[str, int], pages: int = 1024) -> Trace:
    return Trace(records(*rows) if rows else FAULTS.empty_records(), info(pages))


def exits(*rows: dict[str, int]) -> Records:
    """An exit for each row of columns: a port write of a byte every 1000 ns; the guest has 600 of it, the host 100."""
    import numpy as np

    found = np.zeros(len(rows), dtype=_core.exit_record_dtype())
    found["reason"], found["address"], found["length"], found["action"], found["flags"] = 2, 0x3F8, 1, 1, 1
    found["t_enter_ns"] = 1000 + np.arange(len(rows)) * 1000
    found["t_exit_ns"] = found["t_enter_ns"] + 600
    found["t_decided_ns"] = found["t_exit_ns"] + 100
    for number, row in enumerate(rows):
        for name, value in row.items():
            found[number][name] = value
    return found


def some_exits(count: int = 1000, seed: int = 1) -> Records:
    """Every column with values of its own, and nothing that the core would not write."""
    import numpy as np

    random = np.random.default_rng(seed)
    found = np.zeros(count, dtype=_core.exit_record_dtype())
    found["t_enter_ns"] = np.sort(random.integers(1, 1 << 50, count))
    found["t_exit_ns"] = found["t_enter_ns"] + random.integers(0, 1000, count).astype(np.uint64)
    found["t_decided_ns"] = found["t_exit_ns"] + random.integers(0, 1000, count).astype(np.uint64)
    found["reason"] = random.choice([2, 5, 6, 24, 39, 77, 0xFFFFFFFF], count)
    access = (found["reason"] == 2) | (found["reason"] == 6)
    found["address"] = np.where(access, random.integers(0, 1 << 63, count), 0)
    found["length"] = np.where(access, random.integers(1, 9, count), 0)
    found["error"] = np.where(found["reason"] == 0xFFFFFFFF, random.integers(1, 134, count), 0)
    found["vcpu"] = random.integers(0, 4, count)
    found["action"] = random.integers(0, 4, count)
    captured = random.random(count) < 0.5
    for number, name in enumerate(("instruction_pointer", "stack_pointer", "page_table_root")):
        found[name] = np.where(captured, random.integers(0, 1 << 62, count) + number, 0)
    found["flags"] = np.where(access, random.integers(0, 2, count), 0) + random.integers(0, 2, count) * 2 + captured * 4
    return found


def dax_events(*rows: dict[str, int]) -> Records:
    """A DAX event for each row of columns: a set-up of 2 MiB every 1000 ns, which takes 100."""
    import numpy as np

    found = np.zeros(len(rows), dtype=_core.dax_record_dtype())
    found["session"], found["node"], found["length"], found["prot"] = 1, 7, 2 << 20, 1
    found["t_start_ns"] = 1000 + np.arange(len(rows)) * 1000
    for number, row in enumerate(rows):
        for name, value in row.items():
            found[number][name] = value
        if row.get("kind") in (2, 4):
            found[number]["node"] = found[number]["prot"] = 0
        if "t_done_ns" not in row:
            found[number]["t_done_ns"] = found[number]["t_start_ns"] + 100
    return found


def some_dax_events(count: int = 1000, seed: int = 1) -> Records:
    """Every column with values of its own, and nothing that the core would not write."""
    import numpy as np

    random = np.random.default_rng(seed)
    found = np.zeros(count, dtype=_core.dax_record_dtype())
    found["t_start_ns"] = np.sort(random.integers(1, 1 << 50, count))
    found["t_done_ns"] = found["t_start_ns"] + random.integers(0, 1000, count).astype(np.uint64)
    found["kind"] = random.integers(0, 6, count)
    of_file = (found["kind"] != 2) & (found["kind"] != 4)
    found["window_offset"] = random.integers(0, 1 << 62, count)
    found["guest_address"] = found["window_offset"] + np.uint64(1 << 39)
    found["length"] = random.integers(1, 1 << 62, count)
    found["node"] = np.where(of_file, random.integers(0, 1 << 62, count), 0)
    found["file_offset"] = np.where(of_file, random.integers(0, 1 << 62, count), 0)
    found["prot"] = np.where(of_file, random.integers(1, 4, count), 0)
    found["session"] = random.integers(1, 4, count)
    found["error"] = np.where(random.random(count) < 0.2, random.integers(1, 134, count), 0)
    return found


def dax_info(recording: str = "one") -> TraceInfo:
    window = RegionInfo(0, 1 << 39, 0, 1 << 30, PAGE)
    return replace(info(), sessions=(SessionInfo(1, "window", -1, (window,)),), table="dax", recording=recording)


def write_dax_trace(path: Path, faults: Records, events: list[Records], gaps: tuple[Gap, ...] = ()) -> None:
    """The faults' file and that of the DAX events."""
    write_file(path, FAULTS, [faults], replace(info(), tables=("dax",), recording="one"))
    write_file(path.with_name(f"{path.stem}.dax{path.suffix}"), DAX, events, dax_info(), gaps)


def write_stream(
    path: Path, table: Table, parts: list[Records], about: TraceInfo, *, gaps: tuple[Gap, ...] = (), close: bool = True
) -> None:
    """A stream as a recorder leaves it: a batch for each part, the gaps with the last."""
    writer = StreamWriter(path, about, table, overwrite=True)
    for number, part in enumerate(parts):
        writer.write(table.to_batch(part, writer.schema), [], list(gaps) if number == len(parts) - 1 else [])
    if close:
        writer.close()
    writer.abandon()


def write_file(path: Path, table: Table, parts: list[Records], about: TraceInfo, gaps: tuple[Gap, ...] = ()) -> None:
    """A file as a recorder leaves it in the end."""
    stream = stream_path(path)
    write_stream(stream, table, parts, about, gaps=gaps)
    if stream != path:
        with read_parts(stream, table=table) as found:
            write_parquet(path, found)
        stream.unlink()


def exits_info(recording: str = "one") -> TraceInfo:
    return replace(info(), sessions=(), table="exits", recording=recording)


def write_trace(path: Path, faults: Records, exits: list[Records], gaps: tuple[Gap, ...] = ()) -> None:
    """Both files."""
    write_file(path, FAULTS, [faults], replace(info(), tables=("exits",), recording="one"))
    write_file(path.with_name(f"{path.stem}.exits{path.suffix}"), EXITS, exits, exits_info(), gaps)
