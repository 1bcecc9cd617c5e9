"""Ctrl-C ends packing, unpacking and checking in the middle, where a real S3 server answers no more; what was stored is
found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.delayed_link import DelayedLink
from tests.support.eventually import eventually
from tests.support.interrupted import interrupted
from tests.support.s3_server import S3Server
from vmthaw import FileSource
from vmthaw._snapshot_pack import pack, unpack, verify

pytestmark = pytest.mark.timeout(120, func_only=True)

CHUNK = 4096
CHUNKS = 256
STORE = "s3://snapshots/packed"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(os.urandom(CHUNKS * CHUNK))
    return path


def test_an_interrupted_pack_to_a_store_that_halts_is_resumed(s3: S3Server, memory: Path, tmp_path: Path) -> None:
    chunks = s3.bucket("snapshots") / "packed" / "chunks"

    def stored() -> int:
        return sum(path.is_file() for path in chunks.rglob("*"))

    with DelayedLink(s3.port, 0.02) as link:

        def halt(timeout: float) -> bool:
            eventually(lambda: stored() > 8, timeout)
            s3.freeze()
            return True

        words = f"pack {memory} {STORE} --name one --chunk-kib 4"
        interrupted(words, tmp_path, halt, AWS_ENDPOINT_URL=link.endpoint)
        s3.thaw()
    assert not (chunks.parent / "snapshots").exists()
    found = stored()
    assert 8 < found < CHUNKS
    with FileSource(memory) as source:
        result = pack(source, STORE, "one", chunk_bytes=CHUNK)
    assert (result.shared + result.stored, result.shared >= found) == (CHUNKS, True)
    assert verify(STORE, []) == []
    unpack(STORE, "one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == memory.read_bytes()


@pytest.mark.parametrize("words", ["unpack {store} one out", "verify {store}", "pack packed:{store}#one again"])
def test_reading_from_a_store_that_halts_ends(words: str, s3: S3Server, memory: Path, tmp_path: Path) -> None:
    with FileSource(memory) as source:
        pack(source, STORE, "one", chunk_bytes=CHUNK)
    with DelayedLink(s3.port, 0.02) as link:

        def halt(timeout: float) -> bool:
            eventually(lambda: link.connections > 4, timeout)  # several chunks at once
            s3.freeze()
            return True

        interrupted(words.format(store=STORE), tmp_path, halt, AWS_ENDPOINT_URL=link.endpoint)
        s3.thaw()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out*")) == []
    assert not (tmp_path / "again" / "snapshots").exists()
    assert list(tmp_path.glob("again/**/*.partial")) == []
