"""What a trace says about itself: `TraceInfo`, kept as JSON in the file's schema metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from vmthaw._version import __version__
from vmthaw.errors import TraceError
from vmthaw.trace._schema import FAULTS, SCHEMA_VERSION
from vmthaw.trace._table import Table

KEY = b"vmthaw.trace"  # of the schema's metadata
UPDATE_KEY = b"vmthaw.update"  # of a batch's: what has come since the last
MAX_JSON_BYTES = 64 << 20
_MAX_SESSIONS = 1 << 20
_MAX_GAPS = 1 << 20
_MAX_TABLES = 16


@dataclass(frozen=True)
class RegionInfo:
    """A run of guest memory: its number in the records, and addresses and sizes in bytes."""

    number: int
    guest_address: int
    offset: int
    size: int
    page_size: int


@dataclass(frozen=True)
class SessionInfo:
    """A VM of the trace, or a `DaxSession` (its region is the window, in granules). ``id`` is what the column `session`
    holds; ``pid`` is -1 where it is not known."""

    id: int
    label: str
    pid: int = -1
    regions: tuple[RegionInfo, ...] = ()


@dataclass(frozen=True)
class Gap:
    """``dropped`` records of a session are missing behind the first ``after`` records of the table.

    They are missing because nobody took them in time (``"ring"``: the core's ring was full) or because the disk was
    slower than the guest (``"writer"``). Among exits, ``session`` is the number of a run of the machine, from 1; among
    DAX events, that of the `DaxSession`.
    """

    after: int
    session: int
    dropped: int
    where: str


@dataclass(frozen=True)
class TraceInfo:
    """About the trace. ``clock`` is that of the time columns; ``started_at`` is wall-clock time in ns since 1970, at
    the moment ``started_ns`` of that clock. ``complete`` is False when the recording did not end by itself.

    A table has a file of its own: ``table`` is the one of this file, and ``recording`` is the same text in all files of
    a recording. ``tables`` are those that were recorded beside the faults; it stands in the faults' file.
    """

    started_at: int
    started_ns: int
    clock: str = "CLOCK_MONOTONIC"
    schema_version: int = SCHEMA_VERSION
    vmthaw_version: str = __version__
    sessions: tuple[SessionInfo, ...] = ()
    gaps: tuple[Gap, ...] = ()
    complete: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)
    table: str = FAULTS.name
    tables: tuple[str, ...] = ()
    recording: str = ""

    @property
    def dropped(self) -> int:
        """Records that are missing, all gaps together."""
        return sum(gap.dropped for gap in self.gaps)

    @property
    def memory_bytes(self) -> int:
        """The memory of all VMs of the trace."""
        return sum(region.size for session in self.sessions for region in session.regions)

    def with_update(self, sessions: Iterable[SessionInfo], gaps: Iterable[Gap]) -> Self:
        """The same with more sessions (a later one replaces its namesake) and gaps."""
        known = {session.id: session for session in self.sessions}
        known.update({session.id: session for session in sessions})
        return replace(self, sessions=tuple(known.values()), gaps=(*self.gaps, *gaps))

    def to_json(self) -> bytes:
        """For the file."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes, where: str, table: Table = FAULTS) -> Self:
        """Checks everything: the file may come from anywhere. Raises TraceError that names the field."""
        found = _object(_load(text, where), where)
        name = _str(found, "table", where, FAULTS.name)
        if name != table.name:
            raise TraceError(f"{where} is no {table.title}: it holds the table {name!r:.60} of a trace")
        version = _int(found, "schema_version", where)
        if version > table.version:
            raise TraceError(
                f"{where} has version {version} of the schema of a {table.title}; this vmthaw ({__version__}) knows "
                f"{table.version}: open it with a newer one"
            )
        notes = _object(found.get("notes", {}), where)
        return cls(
            started_at=_int(found, "started_at", where),
            started_ns=_int(found, "started_ns", where),
            clock=_str(found, "clock", where),
            schema_version=version,
            vmthaw_version=_str(found, "vmthaw_version", where),
            sessions=tuple(_session(row, where) for row in _list(found, "sessions", where, _MAX_SESSIONS)),
            gaps=tuple(_gap(row, where) for row in _list(found, "gaps", where, _MAX_GAPS)),
            complete=bool(found.get("complete", True)),
            notes={str(key): str(value) for key, value in notes.items()},
            table=name,
            tables=tuple(_text(each, "tables", where) for each in _list(found, "tables", where, _MAX_TABLES)),
            recording=_str(found, "recording", where, ""),
        )


def update_to_json(sessions: Iterable[SessionInfo], gaps: Iterable[Gap]) -> bytes:
    """What a batch carries beside its records."""
    found = {"sessions": [asdict(session) for session in sessions], "gaps": [asdict(gap) for gap in gaps]}
    return json.dumps(found, separators=(",", ":")).encode()


def update_from_json(text: bytes, where: str) -> tuple[list[SessionInfo], list[Gap]]:
    """The way back. Raises TraceError that names the field."""
    found = _object(_load(text, where), where)
    sessions = [_session(row, where) for row in _list(found, "sessions", where, _MAX_SESSIONS)]
    return sessions, [_gap(row, where) for row in _list(found, "gaps", where, _MAX_GAPS)]


def _session(row: Any, where: str) -> SessionInfo:
    row = _object(row, where)
    regions = [_object(region, where) for region in _list(row, "regions", where, 1 << 16)]
    return SessionInfo(
        id=_int(row, "id", where),
        label=_str(row, "label", where),
        pid=_int(row, "pid", where, least=-1),
        regions=tuple(
            RegionInfo(**{name: _int(region, name, where) for name in RegionInfo.__dataclass_fields__})
            for region in regions
        ),
    )


def _gap(row: Any, where: str) -> Gap:
    row = _object(row, where)
    numbers = {name: _int(row, name, where) for name in ("after", "session", "dropped")}
    return Gap(**numbers, where=_str(row, "where", where))


def _load(text: bytes, where: str) -> Any:
    if len(text) > MAX_JSON_BYTES:
        raise TraceError(f"{where}: the metadata have {len(text)} bytes; more than {MAX_JSON_BYTES} are refused")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where}: the metadata are no JSON: {error}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TraceError(f"{where}: the metadata hold {type(value).__name__} where an object must be")
    return value


def _int(row: dict[str, Any], name: str, where: str, least: int = 0) -> int:
    value = row.get(name)
    if type(value) is not int or not least <= value < 1 << 64:
        raise TraceError(
            f"{where}: the metadata's {name} is {value!r:.60}; it must be a number from {least} to 2**64-1"
        )
    return value


def _str(row: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    return _text(row.get(name, default), name, where)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise TraceError(f"{where}: the metadata's {name} must be a text of at most 4096 characters")
    return value


def _list(row: dict[str, Any], name: str, where: str, limit: int) -> list[Any]:
    value = row.get(name, [])
    if not isinstance(value, list) or len(value) > limit:
        raise TraceError(f"{where}: the metadata's {name} must be a list of at most {limit}")
    return value
