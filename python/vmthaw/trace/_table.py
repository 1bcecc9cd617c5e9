"""`Table`: what a table of a trace looks like in a file and in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmthaw.errors import TraceError
from vmthaw.trace._columns import Column, Records, arrow


@dataclass(frozen=True)
class Table:
    """`name` is what it is called in SQL and in the metadata, `title` what errors call a file of it; `dtype` makes the
    numpy dtype of the core's records; `check` looks at decoded records once more, and raises TraceError."""

    name: str
    title: str
    version: int
    columns: tuple[Column, ...]
    dtype: Callable[[], np.dtype[np.void]]
    check: Callable[[Records], None] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, in the file's order."""
        return tuple(column.name for column in self.columns)

    def empty_records(self) -> Records:
        """None at all."""
        return np.empty(0, dtype=self.dtype())

    def schema(self, metadata: Mapping[bytes, bytes] | None = None) -> Any:
        """The Arrow schema of a file."""
        pa = arrow()
        fields = [pa.field(column.name, column.type, nullable=column.nullable) for column in self.columns]
        return pa.schema(fields, metadata=metadata)

    def to_batch(self, records: Records, schema: Any, given: Mapping[str, Any] | None = None) -> Any:
        """A record batch. `given` has Arrow arrays for columns that the records do not hold."""
        given = given or {}
        arrays = [given[column.name] if column.name in given else column.encode(records) for column in self.columns]
        return arrow().record_batch(arrays, schema=schema)

    def check_table(self, table: Any, where: str) -> Any:
        """The table with exactly these columns. Raises TraceError that names what is wrong."""
        missing = [name for name in self.names if name not in table.column_names]
        if missing:
            raise TraceError(f"{where} is no {self.title}: it has no column {', '.join(missing)}")
        table = table.select(list(self.names))
        for wanted in self.columns:
            column = table.column(wanted.name)
            if not wanted.accepts(column.type):
                raise TraceError(f"{where}: column {wanted.name} is {column.type}; it must be {wanted.type}")
            if column.null_count and not wanted.nullable:
                raise TraceError(f"{where}: column {wanted.name} has {column.null_count} nulls; it may have none")
        return table

    def to_records(self, table: Any, where: str) -> Records:
        """The numpy records of an Arrow table that `check_table` passed. Raises TraceError that names the column."""
        records = np.zeros(table.num_rows, dtype=self.dtype())
        try:
            for column in self.columns:
                column.decode(table.column(column.name), records)
            for column in self.columns:
                known = column.known(records)
                if known is not None:
                    _check_nulls(column.name, table.column(column.name), known)
            if self.check is not None:
                self.check(records)
        except TraceError as error:
            raise TraceError(f"{where}: {error}") from None
        return records


def _check_nulls(name: str, column: Any, known: NDArray[np.bool_]) -> None:
    wrong = np.flatnonzero(column.is_valid().to_numpy() != known)
    if len(wrong):
        row = int(wrong[0])
        what = "is null" if known[row] else "has a value"
        raise TraceError(f"column {name} {what} in row {row}, which the other columns of that row do not allow")
