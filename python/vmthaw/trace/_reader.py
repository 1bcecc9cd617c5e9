"""Reads trace files, which may come from anywhere: sizes have limits, and an error says which file and what in it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmthaw._extras import need
from vmthaw.errors import TraceError, VmthawFileNotFoundError, os_error_class
from vmthaw.trace._columns import Records, arrow
from vmthaw.trace._files import beside, stream_path
from vmthaw.trace._info import KEY, UPDATE_KEY, TraceInfo, update_from_json
from vmthaw.trace._schema import FAULTS
from vmthaw.trace._table import Table

MAX_RECORDS = 200_000_000
_END_MARK = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_ARROW_FILE_MAGIC = b"ARROW1\x00\x00"
_STREAM_MAGIC = b"\xff\xff\xff\xff"
_PARQUET_MAGIC = b"PAR1"
_THRIFT_LIMIT = 64 << 20  # bytes of strings and containers in Parquet's footer


@dataclass
class Parts:
    """A file of a trace, looked through once. `batches` reads it again."""

    path: Path
    table: Table
    info: TraceInfo
    records: int
    whole: bool

    def batches(self) -> Iterator[Any]:
        """The whole batches."""
        left = self.records
        with _open_stream(self.path) as reader:
            while left > 0:
                batch = reader.read_next_batch()
                left -= batch.num_rows
                yield batch


def read_any(
    path: str | os.PathLike[str], max_records: int = MAX_RECORDS, table: Table = FAULTS
) -> tuple[TraceInfo, Any]:
    """(info, Arrow table) of a trace's file of `table`, in any of its formats.

    Raises TraceError, VmthawOSError, MissingExtraError.
    """
    path = Path(path)
    pa = arrow()
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        if magic[:4] == _PARQUET_MAGIC:
            return _read_parquet(path, max_records, table)
        if magic == _ARROW_FILE_MAGIC:
            return _read_arrow_file(path, max_records, table)
        if magic[:4] == _STREAM_MAGIC:
            with read_parts(path, max_records, table) as parts:
                found = pa.Table.from_batches(parts.batches(), schema=_schema_of(path))
                return parts.info, table.check_table(found, str(path))
    except OSError as error:
        if error.errno is None:  # pyarrow about the content
            raise TraceError(f"{path} cannot be read as a {table.title}: {_first_line(error)}") from error
        raise _os_error(path, error) from error
    except (pa.lib.ArrowException, MemoryError, UnicodeDecodeError, OverflowError) as error:
        raise TraceError(f"{path} cannot be read as a {table.title}: {_first_line(error)}") from error
    raise TraceError(
        f"{path} is no {table.title}: it begins with {magic!r}, which is neither Parquet nor an Arrow stream or file"
        if magic else f"{path} is empty: the recorder was stopped before it wrote anything"
    )  # fmt: skip


def read_beside(path: Path, info: TraceInfo, table: Table, max_records: int) -> tuple[TraceInfo, Records] | None:
    """(info, records) of a further table of the trace whose faults are at `path`; None when it was not recorded.

    Raises TraceError when the table is missing, damaged, or of another recording, as for the faults; VmthawOSError.
    """
    if table.name not in info.tables:
        return None
    file = beside(path, table.name)
    alone = f"without it the faults can be opened alone ({table.name}=False, --no-{table.name} on the command line)"
    try:
        own, found = read_any(file, max_records, table)
        records = table.to_records(found, str(file))
    except FileNotFoundError as error:
        what = table.title.removeprefix("table of ")
        raise TraceError(f"{path} was recorded with its {what}, and {file} is missing; {alone}") from error
    except TraceError as error:
        raise TraceError(f"{error}; {alone}") from error
    if own.recording != info.recording:
        raise TraceError(
            f"{file} is of another recording ({own.recording!r}) than {path} ({info.recording!r}); the right one must "
            f"lie there; {alone}"
        )
    return own, records


def _os_error(path: Path, error: OSError) -> OSError:
    number = error.errno or errno.EIO
    text = f"{path} cannot be opened: {os.strerror(number)}"
    stream = stream_path(path)
    if number == errno.ENOENT and stream.exists():
        text += f"; its recording did not end by itself, open {stream} instead"
        return VmthawFileNotFoundError(number, text)
    found: OSError = os_error_class(number)(number, text)
    return found


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


@contextlib.contextmanager
def _open_stream(path: Path) -> Iterator[Any]:
    pa = arrow()
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        yield reader


def _schema_of(path: Path) -> Any:
    with _open_stream(path) as reader:
        return reader.schema


@contextlib.contextmanager
def read_parts(path: Path, max_records: int = MAX_RECORDS, table: Table = FAULTS) -> Iterator[Parts]:
    """Looks through an Arrow stream up to its last whole batch, which may be where a killed recorder left it."""
    pa = arrow()
    where = str(path)
    records = 0
    ended = False
    with _open_stream(path) as reader:
        info = _info_of(reader.schema, where, table)
        while True:
            try:
                batch, metadata = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                ended = True
                break
            except (pa.lib.ArrowInvalid, OSError):
                break  # cut off in the middle
            batch.validate(full=True)
            records += batch.num_rows
            _check_count(records, max_records, where)
            if metadata is not None and UPDATE_KEY in metadata:
                info = info.with_update(*update_from_json(metadata[UPDATE_KEY], where))
    with path.open("rb") as file:
        file.seek(-min(8, path.stat().st_size), os.SEEK_END)
        ended = ended and file.read() == _END_MARK
    yield Parts(path, table, replace(info, complete=ended), records, ended)


def _read_parquet(path: Path, max_records: int, table: Table) -> tuple[TraceInfo, Any]:
    pq = need("pyarrow.parquet", "analysis")
    with pq.ParquetFile(
        path, thrift_string_size_limit=_THRIFT_LIMIT, thrift_container_size_limit=_THRIFT_LIMIT
    ) as file:
        _check_count(file.metadata.num_rows, max_records, str(path))
        info = _info_of(file.schema_arrow, str(path), table)
        found = file.read()
    found.validate(full=True)
    return info, table.check_table(found, str(path))


def _read_arrow_file(path: Path, max_records: int, table: Table) -> tuple[TraceInfo, Any]:
    pa = arrow()
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        info = _info_of(reader.schema, str(path), table)
        batches = []
        count = 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            count += batch.num_rows
            _check_count(count, max_records, str(path))
            batches.append(batch)
        found = pa.Table.from_batches(batches, schema=reader.schema)
    return info, table.check_table(found, str(path))


def _check_count(records: int, max_records: int, where: str) -> None:
    if not 0 <= records <= max_records:
        raise TraceError(
            f"{where} says that it has {records} records; more than {max_records} are refused (max_records raises that)"
        )


def _info_of(schema: Any, where: str, table: Table) -> TraceInfo:
    metadata = schema.metadata or {}
    if KEY not in metadata:
        raise TraceError(f"{where} is no {table.title} of vmthaw: its schema has no metadata {KEY.decode()!r}")
    return TraceInfo.from_json(metadata[KEY], where, table)
