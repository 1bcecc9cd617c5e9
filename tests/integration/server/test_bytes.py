"""Every byte that the server gives is the right one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.integration.server.support import PAGES, file_reader
from tests.support.eventually import PATIENCE
from vmthaw import FileSource, FillMode, PagerConfig, PageServer, PageSource, PythonSource, ZeroSource
from vmthaw.testing import FakeVmm, write_memory_file


@contextmanager
def restored(
    socket: Path, path: Path, source: PageSource, config: PagerConfig | None = None, **options: Any
) -> Iterator[tuple[PageServer, FakeVmm]]:
    with source, PageServer(socket, source, config=config) as server, FakeVmm(path, **options) as vmm:
        vmm.handover(socket)
        yield server, vmm


@pytest.fixture(params=["mapped", "pread", "python"])
def any_source(request: pytest.FixtureRequest, memory_file: Path) -> PageSource:
    source = FileSource(memory_file, mode="pread" if request.param == "python" else request.param)
    if request.param != "python":
        return source
    extents = [(row["offset"], row["size"], row["kind"]) for row in source.extents()]
    return PythonSource(file_reader(memory_file), memory_file.stat().st_size, extents, threads=2)


@pytest.mark.parametrize("fill_mode", FillMode)
@pytest.mark.parametrize("pattern", ["sequential", "random"])
def test_every_byte_is_right(
    fill_mode: FillMode,
    pattern: Literal["sequential", "random"],
    any_source: PageSource,
    memory_file: Path,
    tmp_socket: Path,
) -> None:
    config = PagerConfig(fill_mode=fill_mode, fill_bytes=64 << 10)
    with restored(tmp_socket, memory_file, any_source, config) as (server, vmm):
        vmm.touch(pattern, seed=3).check()
        assert vmm.resident_pages == PAGES
        vmm.verify(only_touched=False).check()
        stats = server.stats
        assert stats.installed == PAGES
        assert 0 < stats.zero < PAGES
        assert stats.failed == 0
        if fill_mode is FillMode.page:
            assert stats.faults >= PAGES
            assert stats.fault_around == 0
        elif pattern == "sequential":
            # A toucher that catches up with a fill under way faults as well, and joins it.
            assert stats.faults - stats.coalesced < PAGES / 4


@pytest.mark.parametrize("write", [False, True])
def test_many_threads_are_served_at_once(
    write: bool, any_source: PageSource, memory_file: Path, tmp_socket: Path
) -> None:
    with restored(tmp_socket, memory_file, any_source) as (_, vmm):
        vmm.touch("random", seed=4, threads=16, write=write).check()
        vmm.touch("random", seed=5, threads=8, everybody_touches_all=True).check()
        vmm.verify(only_touched=False).check()


def test_threads_that_race_for_the_same_pages_are_all_answered(
    any_source: PageSource, memory_file: Path, tmp_socket: Path
) -> None:
    with restored(tmp_socket, memory_file, any_source) as (_, vmm):
        vmm.touch("sequential", threads=16, everybody_touches_all=True).check()


@pytest.mark.parametrize("kind", ["mapped", "pread", "python"])
@pytest.mark.parametrize("fill_mode", FillMode)
def test_huge_pages_are_right(
    kind: str, fill_mode: FillMode, hugetlb_pages: Callable[[int], int], tmp_path: Path, tmp_socket: Path
) -> None:
    hugetlb_pages(6)
    path = tmp_path / "huge"
    write_memory_file(path, (8 << 20) - 3 * 4096, zero_share=0.5, seed=6)
    source: PageSource = (
        PythonSource(file_reader(path), 8 << 20)
        if kind == "python"
        else FileSource(path, mode="mapped" if kind == "mapped" else "pread")
    )
    with restored(tmp_socket, path, source, PagerConfig(fill_mode=fill_mode), kind="hugetlb") as (server, vmm):
        vmm.touch("random", seed=1, write=True, threads=2).check()
        vmm.verify(only_touched=False).check()
        vmm.remove([(1, 1)]).check()
        vmm.touch("sequential").check()
        vmm.verify(only_touched=False).check()
        assert server.stats.installed == 5


def test_huge_page_that_is_a_hole_is_zeros(
    hugetlb_pages: Callable[[int], int], tmp_path: Path, tmp_socket: Path
) -> None:
    hugetlb_pages(4)
    path = tmp_path / "huge"
    write_memory_file(path, 4 << 20, seed=6)
    with path.open("r+b") as file:
        file.truncate(2 << 20)
        file.truncate(4 << 20)
    with restored(tmp_socket, path, FileSource(path), kind="hugetlb") as (server, vmm):
        vmm.touch("sequential").check()
        vmm.verify(only_touched=False).check()
        assert server.stats.zero == 1


def test_sparse_file_is_zeros_in_its_holes_without_reading(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data" * 1024)
    with restored(tmp_socket, path, FileSource(path)) as (server, vmm):
        vmm.touch("subset", count=500, seed=1).check()
        vmm.touch([8192]).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.source_bytes == 4096


def test_extents_that_say_zero_are_never_asked_for(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "half"
    write_memory_file(path, 128 * 4096, seed=1)
    with path.open("r+b") as file:
        file.seek(64 * 4096)
        file.write(bytes(64 * 4096))
    read = file_reader(path)
    asked: list[int] = []

    def watching(offset: int, size: int) -> bytes:
        asked.append(offset + size)
        return read(offset, size)

    half = 64 * 4096
    source = PythonSource(watching, 2 * half, [(0, half, "data"), (half, half, "zero")])
    with restored(tmp_socket, path, source) as (server, vmm):
        vmm.touch("random", seed=9).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.zero == 64
    assert max(asked) <= half


@pytest.mark.parametrize("mode", ["mapped", "pread"])
def test_file_that_ends_inside_a_page_is_zeros_to_its_end(
    mode: Literal["mapped", "pread"], tmp_path: Path, tmp_socket: Path
) -> None:
    path = tmp_path / "odd"
    write_memory_file(path, 32 * 4096 + 1000, seed=2)
    with restored(tmp_socket, path, FileSource(path, mode=mode)) as (_, vmm):
        assert vmm.pages == 33
        vmm.touch("random").check()
        vmm.verify(only_touched=False).check()


@pytest.mark.parametrize("mode", ["mapped", "pread"])
def test_cold_file_is_read_right(mode: Literal["mapped", "pread"], tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "cold"
    write_memory_file(path, 16 << 20, zero_share=0.2, seed=3)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with restored(tmp_socket, path, FileSource(path, mode=mode)) as (_, vmm):
        vmm.touch("random", seed=8, threads=4).check()
        vmm.verify(only_touched=False).check()


def test_zero_source_gives_zeros(tmp_path: Path, tmp_socket: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(b"")
    os.truncate(path, 1 << 20)
    with restored(tmp_socket, path, ZeroSource(1 << 20)) as (server, vmm):
        vmm.touch("random").check()
        vmm.verify(only_touched=False).check()
        assert server.stats.source_bytes == 0


def test_shmem_of_a_vm_is_served(memory_file: Path, tmp_socket: Path) -> None:
    with restored(tmp_socket, memory_file, FileSource(memory_file), kind="shmem") as (_, vmm):
        vmm.touch("random", write=True).check()
        vmm.remove([(7, 9)]).check()
        vmm.verify(only_touched=False).check()


def test_regions_lie_where_their_offsets_say(full_memory_file: Path, tmp_socket: Path) -> None:
    regions = [(128 * 4096, 256 * 4096), (64 * 4096, 0), (100 * 4096, 64 * 4096)]
    with restored(tmp_socket, full_memory_file, FileSource(full_memory_file), regions=regions) as (server, vmm):
        vmm.touch("random", threads=3).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.installed == 292


def test_one_wrong_byte_of_a_source_is_noticed(full_memory_file: Path, tmp_socket: Path) -> None:
    read = file_reader(full_memory_file)

    def wrong(offset: int, size: int) -> bytes:
        data = bytearray(read(offset, size))
        if offset <= 100 * 4096 + 17 < offset + size:
            data[100 * 4096 + 17 - offset] ^= 1
        return bytes(data)

    source = PythonSource(wrong, full_memory_file.stat().st_size)
    with restored(tmp_socket, full_memory_file, source) as (_, vmm):
        assert [mismatch.page for mismatch in vmm.touch("random").mismatches] == [100]


def test_several_vms_are_served_from_one_source(memory_file: Path, tmp_socket: Path) -> None:
    with (
        FileSource(memory_file) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm.many(16, memory_file) as host,
    ):
        host.handover_all(tmp_socket)
        for report in host.touch_all("random", seed=2, timeout=30 * PATIENCE):
            report.check()
        assert len(server.sessions) == 16
        assert server.stats.installed == 16 * PAGES
