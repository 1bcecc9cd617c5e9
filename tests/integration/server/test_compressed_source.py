"""A restore from a compressed memory: every byte, chunks decompressed once, damage kept to its pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.server.raw_vmm import RawVmm
from tests.integration.server.support import PAGES, the_session
from vmthaw import (
    CompressedSource,
    EndReason,
    FailurePolicy,
    FileSource,
    FillMode,
    PagerConfig,
    PageServer,
    compress_file,
)
from vmthaw.testing import FakeVmm

CHUNK = 128 << 10


def packed(memory: Path, codec: str = "zstd") -> Path:
    path = memory.with_name(f"{memory.name}.{codec}")
    with FileSource(memory) as source:
        compress_file(source, path, codec=codec, chunk=CHUNK)
    return path


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("fill_mode", FillMode)
def test_every_byte_is_right_and_every_chunk_is_decompressed_once(
    codec: str, fill_mode: FillMode, memory_file: Path, tmp_socket: Path
) -> None:
    config = PagerConfig(fill_mode=fill_mode, fill_bytes=64 << 10)
    with (
        CompressedSource(packed(memory_file, codec)) as source,
        PageServer(tmp_socket, source, config=config) as server,
        FakeVmm(memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", threads=4, seed=3).check()
        vmm.verify(only_touched=False).check()
        assert vmm.resident_pages == PAGES
        assert server.stats.failed == 0
        stats = source.cache_stats()
        assert stats["loads"] == source.chunks
        assert stats["evictions"] == 0


def test_a_cache_of_two_chunks_serves_all_the_same(full_memory_file: Path, tmp_socket: Path) -> None:
    with (
        CompressedSource(packed(full_memory_file), cache_bytes=1) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", threads=4, seed=4).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
        assert source.cache_stats()["evictions"] > 0


def test_a_damaged_chunk_fails_by_policy_while_other_pages_go_on(full_memory_file: Path, tmp_socket: Path) -> None:
    path = packed(full_memory_file)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    pages = CHUNK // 4096
    config = PagerConfig(
        failure_policy=FailurePolicy.poison, fill_mode=FillMode.page, retries=2, retry_min=0.01, retry_max=0.02
    )
    with (
        CompressedSource(path) as source,
        PageServer(tmp_socket, source, config=config) as server,
        RawVmm(PAGES) as vmm,
    ):
        vmm.handover(tmp_socket)
        failed = set()
        expected = full_memory_file.read_bytes()
        for page in range(0, PAGES, pages // 2):
            try:
                assert vmm.read(page) == expected[page * 4096 : (page + 1) * 4096]
            except OSError:  # what the kernel says when it reads poison for the VM
                failed.add(page // pages)
        assert len(failed) == 1
        session = the_session(server)
        assert session.end_reason is EndReason.none
        assert "Bad message" in session.failures[0]
