"""Frames and chunks that are not what they were: named with the way out, costing their own pages alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faulty_restore import PAGE, PAGES, FaultyRestore, assert_says
from tests.support.file_kinds import CHUNK, CONTENT, SIZE, Built, Place, opened
from vmthaw import CachedSource, FailurePolicy, FileSource, PythonSource, _core

pytestmark = pytest.mark.usefixtures("userfaultfd_available")


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def flip_a_bit(path: Path, built: Built) -> None:
    flip(path, built.at)


def lengthen(path: Path, _built: Built) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path, built: Built) -> None:
    with path.open("r+b") as file:
        file.truncate(built.at)


def replace(path: Path, _built: Built) -> None:
    """By a frame that is whole, and of other bytes."""
    path.write_bytes(_core.ChunkCompressor("zstd").compress(bytes(range(256)) * (CHUNK // 256)))


DAMAGES: list[tuple[str, Callable[[Path, Built], None], str]] = [
    ("layered_frames", flip_a_bit, "take another copy of the build"),
    ("zstd", flip_a_bit, "take another copy of the file"),
    ("lz4", flip_a_bit, "take another copy of the file"),
    ("packed", flip_a_bit, "pack the memory again"),
    ("packed", lengthen, "pack the memory again"),
    ("packed", cut, "pack the memory again"),
    ("packed", replace, "checksum"),
    ("packed", lambda path, _built: path.unlink(), "pack the memory again"),
]


@pytest.mark.parametrize(
    ("name", "damage", "said"), DAMAGES, ids=["layered", "zstd", "lz4", "flip", "long", "short", "other", "missing"]
)
def test_damage_costs_its_own_pages_alone(
    name: str, damage: Callable[[Path, Built], None], said: str, on_disk: Place, good: FileSource, tmp_path: Path,
    tmp_socket: Path,
) -> None:  # fmt: skip
    with opened[name](on_disk) as built, FaultyRestore(built.source, good, CONTENT, tmp_socket) as restore:
        damage(tmp_path / built.victim, built)
        assert_says(restore.fail(built.page), *built.said, said)
        first = built.page // built.chunk * built.chunk
        assert restore.failing() == set(range(first, first + built.chunk))


@pytest.mark.parametrize("policy", [FailurePolicy.kill, FailurePolicy.hang])
@pytest.mark.parametrize("name", ["layered_frames", "zstd", "lz4", "packed"])
def test_damage_ends_by_the_policy_and_other_faults_go_on(
    name: str, policy: FailurePolicy, on_disk: Place, good: FileSource, tmp_path: Path, tmp_socket: Path
) -> None:
    with opened[name](on_disk) as built, FaultyRestore(built.source, good, CONTENT, tmp_socket, policy) as restore:
        flip(tmp_path / built.victim, built.at)
        restore.read(built.others[::7])
        assert_says(restore.fail(built.page), *built.said)
        if policy is not FailurePolicy.kill:
            restore.read(built.others)


def test_damage_that_is_mended_while_it_is_tried_again_costs_nothing(
    on_disk: Place, good: FileSource, tmp_path: Path, tmp_socket: Path
) -> None:
    with (
        opened["packed"](on_disk) as built,
        FaultyRestore(built.source, good, CONTENT, tmp_socket, retries=1000) as restore,
    ):
        flip(tmp_path / built.victim, built.at)
        restore.vm.start_read(built.page)
        restore.others_go_on()
        restore.read([built.page - 4])
        assert restore.server.failures == []
        flip(tmp_path / built.victim, built.at)
        assert restore.vm.finish_read() == CONTENT[built.page * PAGE :][:PAGE]
        assert restore.server.stats.retried > 0


def test_a_damaged_chunk_of_a_disk_cache_is_fetched_again(good: FileSource, tmp_path: Path, tmp_socket: Path) -> None:
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(offset)
        return CONTENT[offset : offset + size]

    def open_cache() -> CachedSource:
        far = PythonSource(read, SIZE)
        return CachedSource(far, chunk=CHUNK, memory=0, disk=tmp_path / "cache", identity="it")

    with open_cache() as source:
        source.read(0, SIZE)
    asked.clear()
    chunks = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size >= CHUNK]
    for path in chunks[::2]:
        flip(path, CHUNK // 2)
    with open_cache() as source, FaultyRestore(source, good, CONTENT, tmp_socket) as restore:
        restore.read(range(PAGES))
        assert restore.server.failures == []
        assert source.cache_stats["disk_damaged"] == len(chunks[::2]) == len(set(asked))
