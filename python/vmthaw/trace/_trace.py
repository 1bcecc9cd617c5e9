"""`Trace`: a recorded trace, for looking at."""

from __future__ import annotations

import html
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vmthaw._extras import need
from vmthaw.errors import VmthawValueError
from vmthaw.trace import _schema, plots
from vmthaw.trace._info import KEY, TraceInfo
from vmthaw.trace._reader import MAX_RECORDS, read_any

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from vmthaw.trace._advice import Advice
    from vmthaw.trace._compare import Comparison
    from vmthaw.trace._summary import TraceSummary


class Trace:
    """Fault records and what is known about them. A plain value; safe from several threads.

    `info` has the VMs and their memory, when it was recorded and what is missing; `path` is where it came from.
    """

    def __init__(
        self, records: _schema.Records, info: TraceInfo, *, vcpu: Any = None, path: Path | None = None
    ) -> None:
        if records.dtype != _schema.dtype():
            raise VmthawValueError(f"records must have the dtype of fault records, not {records.dtype}")
        self.info = info
        self.path = path
        self._records = records
        self._vcpu = vcpu

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, max_records: int = MAX_RECORDS) -> Self:
        """Reads a trace: Parquet, or Arrow (a stream that a killed recorder left is read to its last whole batch).

        About 64 bytes of memory a record. Raises VmthawOSError (VmthawFileNotFoundError...), MissingExtraError, and
        TraceError when it is no trace, has been tampered with, is newer than this version or has too many records.
        """
        info, table = read_any(path, max_records)
        records = _schema.to_records(table)
        vcpu = table.column("vcpu")
        return cls(records, info, vcpu=vcpu if vcpu.null_count < len(vcpu) else None, path=Path(path))

    @classmethod
    def from_records(cls, records: _schema.Records, info: TraceInfo | None = None) -> Self:
        """A trace of what `PageServer.trace()` gave, without a file."""
        return cls(records.copy(), info or TraceInfo(started_at=0, started_ns=0))

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        name = self.path.name if self.path else "live"
        vms = len(self.info.sessions)
        return f"<Trace {name}: {len(self)} records of {vms} VM(s), {self.info.dropped} dropped>"

    @property
    def name(self) -> str:
        """What people call it: its note "title", else its file's name, else "live trace"."""
        return self.info.notes.get("title") or (self.path.stem if self.path else "live trace")

    @property
    def records(self) -> _schema.Records:
        """A structured numpy array with the core's dtype: times in ns, addresses and offsets in bytes, 0 for what did
        not happen; enumerations are numbers (`vmthaw.trace.KINDS` and the like have their names)."""
        return self._records

    @cached_property
    def faults(self) -> Any:
        """The same as an Arrow table, with the columns of the file: words for enumerations, null for the unknown."""
        schema = _schema.file_schema({KEY: self.info.to_json()})
        table = _schema.arrow().Table.from_batches([_schema.to_batch(self._records, schema)])
        if self._vcpu is not None:
            table = table.set_column(_schema.COLUMNS.index("vcpu"), schema.field("vcpu"), self._vcpu)
        return table

    def to_pandas(self) -> pandas.DataFrame:
        """The same as a pandas DataFrame. Raises MissingExtraError."""
        need("pandas", "analysis")
        frame: pandas.DataFrame = self.faults.to_pandas()
        return frame

    def sql(self, query: str) -> Any:
        """Runs a query over the table ``faults`` by DuckDB; gives an Arrow table.

        The query sees this table alone: no file and no network. Raises MissingExtraError, VmthawValueError.
        """
        duckdb = need("duckdb", "analysis")
        with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
            connection.register("faults", self.faults)
            try:
                found = connection.sql(query)
                return found.to_arrow_table() if found is not None else None
            except duckdb.Error as error:
                raise VmthawValueError(f"DuckDB: {error}") from error

    def session(self, number: int) -> Self:
        """The part of one VM."""
        chosen = self._records["session"] == number
        if not chosen.any() and number not in {session.id for session in self.info.sessions}:
            raise VmthawValueError(f"{self!r} has no session {number}")
        vcpu = self._vcpu.filter(_schema.arrow().array(chosen)) if self._vcpu is not None else None
        return type(self)(self._records[chosen], self.info, vcpu=vcpu, path=self.path)

    def summary(self) -> TraceSummary:
        """The figures of the trace. See `TraceSummary`."""
        from vmthaw.trace._summary import summarize

        return summarize(self)

    def advice(self) -> list[Advice]:
        """What to do about it, the most important first. See `vmthaw.trace.advise`."""
        from vmthaw.trace._advice import advise

        return advise(self)

    def compare(self, other: Trace) -> Comparison:
        """How this trace and another overlap. See `vmthaw.trace.compare`."""
        from vmthaw.trace._compare import compare

        return compare(self, other)

    def plot_addresses(self, *, title: str | None = None) -> Figure:
        """Address x time. See `vmthaw.trace.plots.plot_addresses`, as for the following."""
        return plots.plot_addresses(self, title=title)

    def plot_blocks(self, *, title: str | None = None) -> Figure:
        """A map of the memory in blocks of 2 MiB."""
        return plots.plot_blocks(self, title=title)

    def plot_composition(self, *, title: str | None = None) -> Figure:
        """Shares of pages and of time."""
        return plots.plot_composition(self, title=title)

    def plot_latency(self, *, title: str | None = None) -> Figure:
        """Latency by kind: histogram and cumulative distribution."""
        return plots.plot_latency(self, title=title)

    def plot_progress(self, *, title: str | None = None) -> Figure:
        """Cumulative faults and installed memory."""
        return plots.plot_progress(self, title=title)

    @property
    def duration_ns(self) -> int:
        """From the first fault to the last install."""
        if not len(self):
            return 0
        last = np.maximum(self._records["t_installed_ns"], self._records["t_fault_ns"]).max()
        return int(last) - int(self._records["t_fault_ns"].min())

    def _repr_html_(self) -> str:
        return f"<p><code>{html.escape(repr(self))}</code></p>{self.summary()._repr_html_()}"
