"""`Channel`: one table of a recording, from the collector to its file."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmthaw._core import Region
from vmthaw.trace._files import stream_path
from vmthaw.trace._info import Gap, RegionInfo, SessionInfo, TraceInfo
from vmthaw.trace._reader import read_parts
from vmthaw.trace._rings import RecordRing, SessionRing
from vmthaw.trace._schema import FAULTS, vcpu_column
from vmthaw.trace._stream import StreamWriter, replacing
from vmthaw.trace._write import write_parquet

if TYPE_CHECKING:
    from vmthaw._core import PagerSession
    from vmthaw.trace._columns import Records
    from vmthaw.trace._table import Table

_BATCH_RECORDS = 65536

Parts = list[tuple[RecordRing, "Records", int]]
"""What the collector gave, in its order: records of a ring, and how many are missing behind them."""


def session_info(session: PagerSession) -> SessionInfo:
    """What a trace says of a session."""
    regions: list[Region] = session._first_regions()
    return SessionInfo(
        session.id,
        session.label,
        session.pid,
        tuple(
            RegionInfo(number, region.guest_address, region.source_offset, region.size, region.page_size)
            for number, region in enumerate(regions)
        ),
    )


class Channel:
    """A sink of the collector that keeps at most `max_pending` records until they are written to `path`.

    `take` is the collector's, `swap` and `write` one other thread's; `news` guards what they share, and is notified
    when a batch is full. `recorded` and `dropped` are totals of the file. Writing raises OSError and TraceError.
    """

    def __init__(self, table: Table, path: Path, max_pending: int, news: threading.Condition) -> None:
        self.table = table
        self.path = path
        self.recorded = 0
        self.dropped = 0
        self._max_pending = max_pending
        self._news = news
        self._pending: deque[tuple[RecordRing, Records, int]] = deque()
        self._pending_records = 0
        self._lost: dict[RecordRing, int] = {}  # the disk was too slow
        self._writer: StreamWriter | None = None
        self._closed = False

    @property
    def stream_path(self) -> Path:
        """The file that is written while recording."""
        return stream_path(self.path)

    def open(self, info: TraceInfo, *, overwrite: bool) -> None:
        """Makes the stream."""
        self._writer = StreamWriter(self.stream_path, info, self.table, overwrite=overwrite)

    def take(self, ring: RecordRing, records: Records, dropped: int) -> None:
        """For the collector."""
        with self._news:
            if self._closed:
                return
            if self._pending_records + len(records) > self._max_pending:
                self._lost[ring] = self._lost.get(ring, 0) + len(records) + dropped
                return
            self._pending.append((ring, records, dropped))
            self._pending_records += len(records)
            if self._pending_records >= _BATCH_RECORDS:
                self._news.notify()

    def swap(self) -> tuple[Parts, dict[RecordRing, int]]:
        """What is to be written. With `news` held."""
        pending, self._pending = list(self._pending), deque()
        lost, self._lost = self._lost, {}
        self._pending_records = 0
        return pending, lost

    def write(self, pending: Parts, lost: Mapping[RecordRing, int]) -> None:
        """Writes it."""
        for ring, records, dropped in pending:
            sessions = self._introduce(ring)
            for first in range(0, max(1, len(records)), _BATCH_RECORDS):
                part = records[first : first + _BATCH_RECORDS]
                last = first + _BATCH_RECORDS >= len(records)
                after = self.recorded + len(part)
                self._write(part, sessions, [Gap(after, ring.number, dropped, "ring")] if dropped and last else [])
                self.recorded = after
                sessions = []
            self.dropped += dropped
        for ring, count in lost.items():
            gap = Gap(self.recorded, ring.number, count, "writer")
            self._write(self.table.empty_records(), self._introduce(ring), [gap])
            self.dropped += count

    def _write(self, records: Records, sessions: list[SessionInfo], gaps: list[Gap]) -> None:
        assert self._writer is not None
        self._writer.write(self.table.to_batch(records, self._writer.schema, self._given(records)), sessions, gaps)

    def _introduce(self, ring: RecordRing) -> list[SessionInfo]:
        """What the file is to say of a ring that it has not heard of."""
        return []

    def _given(self, records: Records) -> Mapping[str, Any] | None:
        """Columns that the records do not hold."""
        return None

    def close(self) -> None:
        """The stream is whole, and on the disk."""
        assert self._writer is not None
        self._writer.close()

    def abandon(self) -> None:
        """Takes nothing any more; what is written stays readable. Idempotent."""
        with self._news:
            self._closed = True
            self._pending.clear()
        if self._writer is not None:
            self._writer.abandon()

    def discard(self) -> None:
        """Removes the stream, if it was made; nothing is in it."""
        if self._writer is not None:
            self.abandon()
            self.stream_path.unlink(missing_ok=True)

    @contextmanager
    def parquet(self) -> Iterator[None]:
        """With a closed stream: makes the Parquet of it, which takes its name at the end of the block."""
        with replacing(self.path) as temporary:
            with read_parts(self.stream_path, table=self.table) as parts:
                write_parquet(temporary, parts)
            yield


class FaultChannel(Channel):
    """The faults of sessions. `vcpus`: of thread ids."""

    def __init__(self, path: Path, max_pending: int, news: threading.Condition, vcpus: Mapping[int, int]) -> None:
        super().__init__(FAULTS, path, max_pending, news)
        self._vcpus = dict(vcpus)
        self._known: set[int] = set()

    def _introduce(self, ring: RecordRing) -> list[SessionInfo]:
        if not isinstance(ring, SessionRing) or ring.number in self._known:
            return []
        self._known.add(ring.number)
        return [session_info(ring.session)]

    def _given(self, records: Records) -> Mapping[str, Any] | None:
        return {"vcpu": vcpu_column(records["tid"], self._vcpus)} if self._vcpus else None
