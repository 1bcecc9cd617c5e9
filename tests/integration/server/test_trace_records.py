"""What a session's trace ring says is what was touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.integration.server.support import PAGES
from vmthaw import FileSource, FillMode, PagerConfig, PageServer
from vmthaw.testing import FakeVmm
from vmthaw.trace._collector import collector

PAGE = 4096


def records_of(
    socket: Path, memory_file: Path, config: PagerConfig, limit: int = 1 << 20
) -> tuple[np.ndarray[tuple[int], np.dtype[np.void]], int]:
    with (
        FileSource(memory_file) as source,
        PageServer(socket, source, config=config) as server,
        FakeVmm(memory_file) as vmm,
    ):
        vmm.handover(socket)
        vmm.touch("random", seed=5).check()
        (session,) = server.sessions
        records = server.trace(limit)
        dropped = session._dropped_records()
        regions = session.regions
    spans = [(region.guest_address, region.guest_address + region.size) for region in regions]
    assert all(any(low <= int(row["guest_address"]) < high for low, high in spans) for row in records)
    return records, dropped


def test_records_match_what_was_touched(tmp_socket: Path, memory_file: Path) -> None:
    config = PagerConfig(trace_records=65536, fill_mode=FillMode.page)
    records, dropped = records_of(tmp_socket, memory_file, config)
    assert dropped == 0
    assert records.dtype.itemsize == 64
    assert set(records["kind"]) == {0}  # demand
    installed = records[records["outcome"] == 0]
    assert installed["pages"].sum() == PAGES
    assert sorted(set(installed["offset"])) == [page * PAGE for page in range(PAGES)]
    assert (records["page_size_log2"] == 12).all()
    assert (records["t_fault_ns"] > 0).all()
    assert (records["t_fault_ns"] <= records["t_installed_ns"]).all()
    fetched = records[records["t_fetched_ns"] > 0]
    assert len(fetched) == (records["page_class"] == 0).sum() > 0
    assert (fetched["t_fault_ns"] <= fetched["t_fetched_ns"]).all()
    assert (fetched["t_fetched_ns"] <= fetched["t_installed_ns"]).all()


def test_fill_around_is_told_apart_from_demand(tmp_socket: Path, memory_file: Path) -> None:
    config = PagerConfig(trace_records=65536, fill_mode=FillMode.block, fill_bytes=64 << 10)
    records, _ = records_of(tmp_socket, memory_file, config)
    installed = records[records["outcome"] == 0]
    assert installed["pages"].sum() == PAGES
    assert (installed["pages"][installed["kind"] == 0] == 1).all()
    assert (installed["kind"] == 1).any()


def test_the_limit_holds_and_a_small_ring_counts_what_it_dropped(tmp_socket: Path, memory_file: Path) -> None:
    config = PagerConfig(trace_records=64, fill_mode=FillMode.page)
    with collector()._lock:  # nobody takes them meanwhile
        records, dropped = records_of(tmp_socket, memory_file, config, limit=10)
    assert len(records) == 10
    assert dropped == PAGES - 64


def test_without_a_ring_there_are_no_records(tmp_socket: Path, memory_file: Path) -> None:
    with (
        FileSource(memory_file) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=5).check()
        (session,) = server.sessions
        assert len(session._take_records()) == session._dropped_records() == 0
