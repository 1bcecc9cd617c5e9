"""DAX events as a table, in a file and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from vmthaw.dax import EVENTS, DaxSession, HostFiles, RecordingMapper
from vmthaw.errors import TraceError
from vmthaw.trace import DAX_COLUMNS, dax_table, read_dax_records, write_dax_records

CHUNK = 2 << 20


def recorded(tmp_path: Path) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    files = HostFiles()
    node = files.add(path)
    session = DaxSession(files, RecordingMapper(), guest_base=0x1000_0000, size=16 * CHUNK, quota=2 * CHUNK)
    session.enable_trace()
    session.set_up(node, 0, CHUNK, CHUNK)
    session.set_up(node, 0, CHUNK, CHUNK, write=True)
    session.set_up(node, CHUNK, 0, CHUNK)
    session.set_up(node, 2 * CHUNK, 0, CHUNK)
    session.remove(CHUNK, CHUNK)
    with pytest.raises(FileNotFoundError):
        session.set_up(99, 0, 0, CHUNK)
    session.reset()
    return session.take_records()


def test_events_come_back_from_a_file_as_they_were(tmp_path: Path) -> None:
    records = recorded(tmp_path)
    path = tmp_path / "boot.dax.parquet"
    write_dax_records(path, records)
    found = read_dax_records(path)
    for name in DAX_COLUMNS:
        assert found[name].tolist() == records[name].tolist(), name
    with pytest.raises(FileExistsError, match="overwrite"):
        write_dax_records(path, records)
    write_dax_records(path, records[:2], overwrite=True)
    assert len(read_dax_records(path)) == 2


def test_the_table_has_words_and_nulls(tmp_path: Path) -> None:
    table = dax_table(recorded(tmp_path)).to_pydict()
    assert table["kind"] == ["set_up", "replace", "set_up", "evict", "set_up", "remove", "set_up", "reset"]
    assert table["prot"][:2] == ["read", "read write"]
    assert table["node"][5] is None
    assert table["file_offset"][0] == CHUNK
    assert table["error"][6] == 2
    assert set(table["kind"]) <= set(EVENTS)


def test_a_file_that_is_no_table_of_events_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(TraceError, match="table of DAX events"):
        read_dax_records(path)
