"""Parquet out of the parts of a table, a batch at a time."""

from __future__ import annotations

from pathlib import Path

from vmthaw._extras import need
from vmthaw.trace._columns import arrow
from vmthaw.trace._info import KEY
from vmthaw.trace._reader import Parts

_ROW_GROUP = 1 << 20


def write_parquet(path: Path, parts: Parts) -> None:
    """Raises OSError and TraceError; leaves what is half written to the caller."""
    pa = arrow()
    pq = need("pyarrow.parquet", "analysis")
    schema = parts.table.schema({KEY: parts.info.to_json()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[object] = []
        count = 0
        for batch in parts.batches():
            parts.table.check_table(pa.Table.from_batches([batch]), str(parts.path))
            waiting.append(batch.replace_schema_metadata(schema.metadata))
            count += batch.num_rows
            if count >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting, schema=schema))
                waiting, count = [], 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema=schema))
