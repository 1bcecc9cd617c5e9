"""`Trace`: a recorded trace, for looking at."""

from __future__ import annotations

import html
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vmthaw._extras import need
from vmthaw.errors import VmthawValueError
from vmthaw.trace import plots
from vmthaw.trace._columns import arrow
from vmthaw.trace._dax_schema import DAX
from vmthaw.trace._exit_schema import EXITS
from vmthaw.trace._info import KEY, TraceInfo
from vmthaw.trace._reader import MAX_RECORDS, read_any, read_beside
from vmthaw.trace._schema import FAULTS
from vmthaw.trace._table import Table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from vmthaw.trace._advice import Advice
    from vmthaw.trace._columns import Records
    from vmthaw.trace._compare import Comparison
    from vmthaw.trace._summary import TraceSummary


def _check_dtype(records: Records, table: Table) -> None:
    if records.dtype != table.dtype():
        raise VmthawValueError(f"records must have the dtype of records of {table.name}, not {records.dtype}")


def _arrow_table(records: Records, table: Table, info: TraceInfo) -> Any:
    schema = table.schema({KEY: info.to_json()})
    return arrow().Table.from_batches([table.to_batch(records, schema)])


class Trace:
    """Records of faults, exits and DAX events, and what is known about them. A plain value; safe from several threads.

    `info` has the VMs and their memory, when it was recorded and which faults are missing; `exits_info` the same of the
    exits and `dax_info` of the DAX events (its sessions and their windows), None when they were not recorded; `path` is
    where it came from.
    """

    def __init__(
        self,
        records: Records,
        info: TraceInfo,
        *,
        vcpu: Any = None,
        path: Path | None = None,
        exits: Records | None = None,
        exits_info: TraceInfo | None = None,
        dax: Records | None = None,
        dax_info: TraceInfo | None = None,
    ) -> None:
        _check_dtype(records, FAULTS)
        self.info = info
        self.path = path
        self._records = records
        self._vcpu = vcpu
        self._exit_records = EXITS.empty_records() if exits is None else exits
        _check_dtype(self._exit_records, EXITS)
        self.exits_info = exits_info
        self._dax_records = DAX.empty_records() if dax is None else dax
        _check_dtype(self._dax_records, DAX)
        self.dax_info = dax_info

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, max_records: int = MAX_RECORDS, exits: bool = True, dax: bool = True
    ) -> Self:
        """Reads a trace: Parquet, or Arrow (a stream that a killed recorder left is read to its last whole batch).

        Exits and DAX events that were recorded with it are read from the files beside it (``boot.exits.parquet`` and
        ``boot.dax.parquet`` of ``boot.parquet``); ``exits=False`` and ``dax=False`` leave them alone. About 64 bytes of
        memory a fault or DAX event, 72 an exit. Raises VmthawOSError (VmthawFileNotFoundError...), MissingExtraError,
        and TraceError when a file is none of a trace, has been tampered with, is newer than this version or has too
        many records, or one beside it is missing or another recording's.
        """
        path = Path(path)
        info, table = read_any(path, max_records)
        records = FAULTS.to_records(table, str(path))
        vcpu = table.column("vcpu")
        exits_info, exit_records = (read_beside(path, info, EXITS, max_records) if exits else None) or (None, None)
        dax_info, dax_records = (read_beside(path, info, DAX, max_records) if dax else None) or (None, None)
        return cls(
            records,
            info,
            vcpu=vcpu if vcpu.null_count < len(vcpu) else None,
            path=path,
            exits=exit_records,
            exits_info=exits_info,
            dax=dax_records,
            dax_info=dax_info,
        )

    @classmethod
    def from_records(
        cls,
        records: Records,
        info: TraceInfo | None = None,
        *,
        exits: Records | None = None,
        dax: Records | None = None,
    ) -> Self:
        """A trace of what `PageServer.trace()`, `Machine.take_exit_records()` and `DaxSession.take_records()` gave,
        without a file."""
        info = info or TraceInfo(started_at=0, started_ns=0)
        beside: dict[str, Any] = {}
        for table, name, given in ((EXITS, "exits", exits), (DAX, "dax", dax)):
            if given is not None:
                about = replace(info, schema_version=table.version, table=table.name, sessions=(), gaps=(), tables=())
                beside |= {name: given.copy(), f"{name}_info": about}
        return cls(records.copy(), info, **beside)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        name = self.path.name if self.path else "live"
        vms = len(self.info.sessions)
        exits = f", {len(self._exit_records)} exits" if self.exits_info else ""
        dax = f", {len(self._dax_records)} DAX events" if self.dax_info else ""
        return f"<Trace {name}: {len(self)} records of {vms} VM(s), {self.info.dropped} dropped{exits}{dax}>"

    @property
    def name(self) -> str:
        """What people call it: its note "title", else its file's name, else "live trace"."""
        return self.info.notes.get("title") or (self.path.stem if self.path else "live trace")

    @property
    def records(self) -> Records:
        """A structured numpy array with the core's dtype: times in ns, addresses and offsets in bytes, 0 for what did
        not happen; enumerations are numbers (`vmthaw.trace.KINDS` and the like have their names)."""
        return self._records

    @cached_property
    def faults(self) -> Any:
        """The same as an Arrow table, with the columns of the file: words for enumerations, null for the unknown."""
        table = _arrow_table(self._records, FAULTS, self.info)
        if self._vcpu is not None:
            table = table.set_column(FAULTS.names.index("vcpu"), table.schema.field("vcpu"), self._vcpu)
        return table

    @property
    def exit_records(self) -> Records:
        """Exits of vCPUs, as `records`: on the same clock, as they came. Empty when none were recorded. Of `flags`, 1
        is a write, 2 that a function of yours was asked, 4 that the registers are true."""
        return self._exit_records

    @cached_property
    def exits(self) -> Any:
        """The same as an Arrow table, as `faults`: words for reason (KVM's names) and action; null for the address of
        an exit that has none, for registers that were not asked, and for the reason where KVM_RUN failed (then `error`
        is its errno). From t_enter_ns to t_exit_ns the guest ran; at t_decided_ns it had been answered."""
        return _arrow_table(self._exit_records, EXITS, self.exits_info or self.info)

    @property
    def dax_records(self) -> Records:
        """Events of DAX sessions, as `records`: on the same clock, those of one session in the order of what happened.
        Empty when none were recorded. `kind` is an index into `vmthaw.dax.EVENTS`; `prot` is READ 1, WRITE 2."""
        return self._dax_records

    @cached_property
    def dax(self) -> Any:
        """The same as an Arrow table, as `faults`: words for kind and prot, null for the file of what is about none (a
        remove, a reset). `error` is an errno, 0 when the request succeeded; `window_offset` is the
        request's moffset. From t_start_ns to t_done_ns the session was at it."""
        return _arrow_table(self._dax_records, DAX, self.dax_info or self.info)

    def to_pandas(self) -> pandas.DataFrame:
        """The faults as a pandas DataFrame (of others: ``trace.exits.to_pandas()``). Raises MissingExtraError."""
        need("pandas", "analysis")
        frame: pandas.DataFrame = self.faults.to_pandas()
        return frame

    def sql(self, query: str) -> Any:
        """Runs a query over the tables ``faults``, ``exits`` and ``dax`` by DuckDB; gives an Arrow table.

        All are on one clock, so that a join by time says which faults a run of the guest met. The query sees these
        tables alone: no file and no network. Raises MissingExtraError, VmthawValueError.
        """
        duckdb = need("duckdb", "analysis")
        with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
            connection.register("faults", self.faults)
            connection.register("exits", self.exits)
            connection.register("dax", self.dax)
            try:
                found = connection.sql(query)
                return found.to_arrow_table() if found is not None else None
            except duckdb.Error as error:
                raise VmthawValueError(f"DuckDB: {error}") from error

    def session(self, number: int) -> Self:
        """The part of one VM: its faults, and the exits and DAX events where the trace has no other VM."""
        chosen = self._records["session"] == number
        if not chosen.any() and number not in {session.id for session in self.info.sessions}:
            raise VmthawValueError(f"{self!r} has no session {number}")
        vcpu = self._vcpu.filter(arrow().array(chosen)) if self._vcpu is not None else None
        beside: dict[str, Any] = {}
        if chosen.all() and {session.id for session in self.info.sessions} <= {number}:
            beside = {"exits": self._exit_records, "exits_info": self.exits_info}
            beside |= {"dax": self._dax_records, "dax_info": self.dax_info}
        return type(self)(self._records[chosen], self.info, vcpu=vcpu, path=self.path, **beside)

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
