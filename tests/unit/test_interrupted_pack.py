"""What a pack that was interrupted leaves behind."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from vmthaw import PythonSource
from vmthaw._snapshot_pack import pack

PAGE = 4096


def packing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vmthaw-pack")]


def test_what_is_read_after_ctrl_c_is_not_stored(tmp_path: Path) -> None:
    halted, let_go = threading.Event(), threading.Event()

    def read(offset: int, size: int) -> bytes:
        if offset:
            halted.set()
            assert let_go.wait(10)
        return os.urandom(size)

    def interrupt(_done: int, _total: int) -> None:
        assert halted.wait(10)
        raise KeyboardInterrupt

    def stored() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    with PythonSource(read, 32 * PAGE, threads=4) as source:
        with pytest.raises(KeyboardInterrupt):
            pack(source, tmp_path, "one", chunk_bytes=PAGE, threads=2, progress=interrupt)
        assert len(stored()) == 1
        assert packing() != []
        let_go.set()
        eventually(lambda: packing() == [])
        assert len(stored()) == 1
        assert len(source.read(0, PAGE)) == PAGE  # it is the caller's to close
