"""The table of DAX events: its columns, and its files.

::

    session.enable_trace()
    ...
    write_dax_records("boot.dax.parquet", session.take_records())
    table = dax_table(read_dax_records("boot.dax.parquet"))

A `TraceRecorder` writes such a file beside those of the faults and exits. Times are theirs (CLOCK_MONOTONIC), so that
the three tables can be joined by them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmthaw import _core
from vmthaw._extras import need
from vmthaw.errors import TraceError, VmthawFileExistsError
from vmthaw.trace._columns import Number, Records, Words
from vmthaw.trace._info import KEY, TraceInfo
from vmthaw.trace._reader import MAX_RECORDS, read_any
from vmthaw.trace._schema import TIME_LIMIT
from vmthaw.trace._stream import replacing
from vmthaw.trace._table import Table

DAX_VERSION = 1
EVENTS = ("set_up", "replace", "remove", "evict", "reset", "lost")  # DaxEventKind (src/trace/dax_record.hpp)
_PROTS = ("", "read", "write", "read write")  # kDaxRead, kDaxWrite


SET_UP, REPLACE, REMOVE, EVICT, RESET, LOST = range(6)


def _has_file(records: Records) -> NDArray[np.bool_]:
    """Set-ups, and what the quota or a failed set-up ended, are about a file."""
    known: NDArray[np.bool_] = (records["kind"] != REMOVE) & (records["kind"] != RESET)
    return known


def _check(records: Records) -> None:
    """Durations are differences of unsigned times."""
    wrong = np.flatnonzero(records["t_done_ns"] < records["t_start_ns"])
    if len(wrong):
        row = int(wrong[0])
        done, start = records["t_done_ns"][row], records["t_start_ns"][row]
        raise TraceError(f"column t_done_ns holds {done} in row {row}, before its t_start_ns {start}")


DAX = Table(
    name="dax",
    title="table of DAX events",
    version=DAX_VERSION,
    columns=(
        Number("t_start_ns", "uint64", limit=TIME_LIMIT),
        Number("t_done_ns", "uint64", limit=TIME_LIMIT),
        Number("session", "uint32"),
        Words("kind", EVENTS),
        Number("guest_address", "uint64"),
        Number("window_offset", "uint64"),
        Number("length", "uint64"),
        Number("node", "uint64", null=_has_file),
        Number("file_offset", "uint64", null=_has_file),
        Words("prot", _PROTS),
        Number("error", "int32", limit=4096),
    ),
    dtype=_core.dax_record_dtype,
    check=_check,
)
DAX_COLUMNS = DAX.names


def dax_table(records: Records) -> Any:
    """`DaxSession.take_records()` as an Arrow table: words for kinds and permissions, null where no file is meant.
    Raises MissingExtraError."""
    pa = need("pyarrow", "analysis")
    return pa.Table.from_batches([DAX.to_batch(records, DAX.schema())])


def write_dax_records(path: str | os.PathLike[str], records: Records, *, overwrite: bool = False) -> None:
    """Writes them as Parquet; beside a trace ``boot.parquet`` the file is best called ``boot.dax.parquet``.

    Raises FileExistsError unless `overwrite`, OSError, MissingExtraError.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise VmthawFileExistsError(17, f"{path} exists; choose another name, or overwrite=True")
    pq = need("pyarrow.parquet", "analysis")
    info = TraceInfo(time.time_ns(), time.monotonic_ns(), schema_version=DAX.version, table=DAX.name)
    batch = DAX.to_batch(records, DAX.schema({KEY: info.to_json()}))
    with replacing(path) as temporary, pq.ParquetWriter(temporary, batch.schema, compression="zstd") as writer:
        writer.write_batch(batch)


def read_dax_records(path: str | os.PathLike[str], max_records: int = MAX_RECORDS) -> Records:
    """The records of such a file, which may come from anywhere. Raises TraceError, OSError, MissingExtraError."""
    _, found = read_any(path, max_records, DAX)
    return DAX.to_records(found, str(path))
