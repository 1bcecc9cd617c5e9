"""VMs restored from a page server: every byte right, while the link is cut and mended under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.cut_link import CutLink
from tests.support.eventually import PATIENCE
from vmthaw import (
    ExtentKind,
    FailurePolicy,
    FileSource,
    FillMode,
    PageExporter,
    PagerConfig,
    PageServer,
    PythonSource,
    SocketSource,
)
from vmthaw.testing import FakeVmm, FakeVmmDiedError, write_memory_file

PAGES = 512


@pytest.fixture(autouse=True)
def _needs(userfaultfd_available: None) -> None:
    """Every test here serves real faults."""


@pytest.fixture
def exporter(full_memory_file: Path, tmp_socket: Path) -> Iterator[PageExporter]:
    with FileSource(full_memory_file) as source, PageExporter(source, tmp_socket.with_name("pages")) as exporter:
        yield exporter


@pytest.fixture
def link(exporter: PageExporter, tmp_socket: Path) -> Iterator[CutLink]:
    with CutLink(tmp_socket.with_name("link"), exporter.address) as link:
        yield link


def source_of(address: str, path: Path, **options: Any) -> SocketSource:
    return SocketSource(address, path.stat().st_size, **{"timeout": 30.0 * PATIENCE, **options})


@pytest.mark.parametrize("fill_mode", FillMode)
def test_every_byte_is_right(
    fill_mode: FillMode, exporter: PageExporter, full_memory_file: Path, tmp_socket: Path
) -> None:
    config = PagerConfig(fill_mode=fill_mode, fill_bytes=64 << 10)
    with (
        source_of(exporter.address, full_memory_file) as source,
        PageServer(tmp_socket, source, config=config) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=3, threads=4).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
        assert source.stats["pages"] >= PAGES
        assert source.stats["lost"] == 0


@pytest.mark.parametrize("fill_mode", FillMode)
def test_zeros_that_are_known_are_never_asked_for(fill_mode: FillMode, tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "sparse"
    write_memory_file(path, PAGES * 4096, zero_share=0.6, seed=5)
    config = PagerConfig(fill_mode=fill_mode, fill_bytes=64 << 10)
    asked: set[int] = set()

    def read(offset: int, size: int) -> bytes:
        asked.update(range(offset // 4096, (offset + size) // 4096))
        return content[offset : offset + size]

    content = path.read_bytes()
    with FileSource(path) as file:
        rows = file.extents().tolist()
    data = {
        page
        for offset, size, kind in rows
        if kind == ExtentKind.data
        for page in range(offset // 4096, (offset + size) // 4096)
    }
    assert 0 < len(data) < PAGES
    with (
        PythonSource(read, len(content)) as there,
        PageExporter(there, tmp_socket.with_name("pages")) as exporter,
        source_of(exporter.address, path, extents=rows) as source,
        PageServer(tmp_socket, source, config=config) as server,
        FakeVmm(path) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=3, threads=4).check()
        vmm.verify(only_touched=False).check()
        assert asked == data
        assert server.stats.zero == PAGES - len(data)


def test_a_link_that_is_cut_and_mended_in_the_middle_only_delays(
    link: CutLink, full_memory_file: Path, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    with (
        source_of(link.address, full_memory_file) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file) as vmm,
        ThreadPoolExecutor() as pool,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=1, pages=PAGES // 4).check()
        link.cut()
        touching = pool.submit(vmm.touch, "random", seed=2, threads=4)
        eventually(lambda: source.stats["lost"] >= 1)
        assert not touching.done()
        link.mend()
        touching.result().check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0


def test_a_link_that_breaks_over_and_over_costs_no_byte(
    exporter: PageExporter, full_memory_file: Path, tmp_socket: Path
) -> None:
    with (
        CutLink(tmp_socket.with_name("link"), exporter.address, cut_every=150_001) as link,
        source_of(link.address, full_memory_file) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=5, threads=8).check()
        vmm.verify(only_touched=False).check()
        assert source.stats["lost"] >= 5
        assert server.stats.failed == 0


def test_other_vms_go_on_while_one_link_is_cut(
    link: CutLink, exporter: PageExporter, full_memory_file: Path, tmp_socket: Path
) -> None:
    other_socket = tmp_socket.with_name("other")
    with (
        source_of(link.address, full_memory_file) as cut_source,
        source_of(exporter.address, full_memory_file) as good_source,
        PageServer(tmp_socket, cut_source),
        PageServer(other_socket, good_source),
        FakeVmm(full_memory_file) as cut_vmm,
        FakeVmm(full_memory_file) as good_vmm,
        ThreadPoolExecutor() as pool,
    ):
        cut_vmm.handover(tmp_socket)
        good_vmm.handover(other_socket)
        link.cut()
        touching = pool.submit(cut_vmm.touch, "sequential", threads=8)
        good_vmm.touch("random", seed=1, threads=4).check()
        good_vmm.verify(only_touched=False).check()
        assert not touching.done()
        link.mend()
        touching.result().check()
        cut_vmm.verify(only_touched=False).check()


def test_a_link_that_stays_cut_fails_the_page_and_says_why(
    link: CutLink, full_memory_file: Path, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    config = PagerConfig(failure_policy=FailurePolicy.kill, retries=0)
    with (
        source_of(link.address, full_memory_file, timeout=0.2) as source,
        PageServer(tmp_socket, source, config=config) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        link.cut()
        with pytest.raises(FakeVmmDiedError):
            vmm.touch([0])
        eventually(lambda: server.failures)
        text = server.failures[0].text
        assert f"offset 0x0 of {link.address}" in text
        assert "start the server again" in text
