"""Memories packed to a real S3 server: shared, interrupted, resumed, damaged, and restored from there."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.delayed_link import DelayedLink
from tests.support.s3_server import S3Server
from vmthaw import ExtentKind, FailurePolicy, FileSource, FillMode, PagerConfig, PageServer, _core
from vmthaw._snapshot_pack import PackResult, pack, unpack, verify
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.errors import SourceIoError, SourceOpenError
from vmthaw.source import PackedSource, PackedStoreSource
from vmthaw.source._packed_chunks import packed_chunks
from vmthaw.testing import FakeVmm, FakeVmmDiedError

pytestmark = pytest.mark.timeout(60, func_only=True)

PAGE = 4096
CHUNK = 16 * PAGE
STORE = "s3://snapshots/fleet/packed"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["snapshot", *map(str, arguments)], prog_name="vmthaw")


def packed(memory: Path, name: str = "one", **options: Any) -> PackResult:
    with FileSource(memory) as source:
        return pack(source, STORE, name, **{"chunk_bytes": CHUNK, **options})


@pytest.fixture
def folder(s3: S3Server) -> Path:
    """What the server keeps of the store."""
    return s3.bucket("snapshots") / "fleet" / "packed"


def chunk_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "chunks").rglob("*") if path.is_file())


def remove(s3: S3Server, path: Path) -> None:
    """As an owner does, not behind the server's back."""
    import obstore

    obstore.delete(s3.store(), str(path.relative_to(s3.bucket("snapshots"))))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_what_is_packed_is_unpacked_and_checked(codec: str, folder: Path, memory_file: Path, tmp_path: Path) -> None:
    result = packed(memory_file, codec=codec)
    assert len(chunk_files(folder)) == result.stored > 0
    assert verify(STORE, []) == []
    assert unpack(STORE, "one", tmp_path / "back") == memory_file.stat().st_size
    assert (tmp_path / "back").read_bytes() == memory_file.read_bytes()
    # It is what a directory would hold, byte for byte.
    with PackedSource(folder, "one") as source:
        assert source.read(0, source.size) == memory_file.read_bytes()


def test_equal_chunks_of_many_snapshots_are_stored_once(folder: Path, full_memory_file: Path) -> None:
    first = packed(full_memory_file, "one")
    stamps = {path: path.stat().st_mtime_ns for path in chunk_files(folder)}
    again = packed(full_memory_file, "two")
    assert (again.stored, again.stored_bytes, again.shared) == (0, 0, first.stored + first.shared)
    with full_memory_file.open("r+b") as file:
        file.seek(300 * PAGE)
        file.write(b"another page")
    assert packed(full_memory_file, "three").stored == 1
    assert len(chunk_files(folder)) == len(stamps) + 1
    assert stamps.items() <= {path: path.stat().st_mtime_ns for path in chunk_files(folder)}.items()
    assert verify(STORE, []) == []


def test_the_commands_pack_check_and_give_back(s3: S3Server, memory_file: Path, tmp_path: Path) -> None:
    done = run("pack", memory_file, STORE + "/", "--name", "vm-1", "--chunk-kib", "64")
    assert done.exit_code == 0, done.stderr
    assert f"{STORE}/vm-1: " in done.stdout
    taken = run("pack", memory_file, STORE, "--name", "vm-1")
    assert taken.exit_code == Exit.UNABLE
    assert "--force" in taken.stderr
    assert json.loads(run("pack", memory_file, STORE, "--name", "vm-2", "--chunk-kib", "64", "--json").stdout)["shared"]
    assert run("verify", STORE).stdout == "all is well\n"
    assert run("unpack", STORE, "vm-1", tmp_path / "back").exit_code == 0
    assert (tmp_path / "back").read_bytes() == memory_file.read_bytes()
    missing = run("unpack", STORE, "vm-3", tmp_path / "other")
    assert missing.exit_code == Exit.UNABLE
    assert f"{STORE}/snapshots/vm-3.json" in missing.stderr
    assert "was the memory packed to its end?" in missing.stderr
    s3.kill()
    unreachable = run("verify", "s3://snapshots/fleet/packed", "vm-1")
    assert unreachable.exit_code == Exit.UNABLE
    assert f"{STORE}/snapshots" in unreachable.stderr


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there_and_wrong_credentials_are_named(
    memory_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = run("pack", memory_file, "s3://nowhere/packed", "--name", "vm-1")
    assert missing.exit_code == Exit.UNABLE
    assert "NoSuchBucket" in missing.stderr
    assert "s3://nowhere/packed/chunks/" in missing.stderr
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    refused = run("pack", memory_file, STORE, "--name", "vm-1")
    assert refused.exit_code == Exit.UNABLE
    assert "check the credentials" in refused.stderr


def test_a_killed_pack_is_resumed_without_damage(
    s3: S3Server, folder: Path, full_memory_file: Path, tmp_path: Path, eventually: Callable[..., object]
) -> None:
    code = (
        "import sys\nfrom vmthaw import FileSource\nfrom vmthaw._snapshot_pack import pack\n"
        "pack(FileSource(sys.argv[1]), sys.argv[2], 'one', chunk_bytes=16384, threads=2)"
    )
    with DelayedLink(s3.port, 0.02) as link:
        process = subprocess.Popen(
            [sys.executable, "-c", code, full_memory_file, STORE], env={**os.environ, "AWS_ENDPOINT_URL": link.endpoint}
        )
        try:
            eventually(lambda: len(chunk_files(folder)) > 8)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert not (folder / "snapshots").exists()
    whole = len(chunk_files(folder))
    result = packed(full_memory_file, chunk_bytes=16384)
    assert whole - 2 <= result.shared < 128  # two may have been on their way
    assert verify(STORE, []) == []
    unpack(STORE, "one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == full_memory_file.read_bytes()


def test_a_chunk_that_is_damaged_or_gone_is_named_and_packed_again(
    s3: S3Server, folder: Path, full_memory_file: Path, tmp_path: Path
) -> None:
    packed(full_memory_file)
    flipped, gone, mistaken, other = chunk_files(folder)[3:7]
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 4
    flipped.write_bytes(content)
    remove(s3, gone)
    mistaken.write_bytes(other.read_bytes())
    found = {str(one.path): one for one in verify(STORE, [])}
    places = [f"{STORE}/{path.relative_to(folder)}" for path in (flipped, gone, mistaken)]
    assert sorted(found) == sorted(places)
    shown = run("verify", STORE)
    assert shown.exit_code == Exit.FAILED
    assert all(place in shown.stdout for place in places)
    with pytest.raises(SourceIoError):
        unpack(STORE, "one", tmp_path / "back")
    assert list(tmp_path.glob("*back*")) == []
    with PackedStoreSource(STORE, "one", attempts=2) as source:
        for place, number in zip(places, (errno.EBADMSG, errno.ENOENT, errno.EBADMSG), strict=True):
            with pytest.raises(SourceIoError) as caught:
                source.read(found[place].offset, PAGE)
            assert caught.value.errno == number
            assert place in str(caught.value)
        assert source.stats.retries == 2
        remove(s3, flipped)
        remove(s3, mistaken)
        assert packed(full_memory_file).stored == 3
        assert verify(STORE, []) == []
        assert source.read(0, source.size) == full_memory_file.read_bytes(), "the damage was kept"


@pytest.mark.usefixtures("s3")
def test_of_two_who_put_a_chunk_the_first_stores_it() -> None:
    chunks = packed_chunks(STORE)
    for frame in (b"of the first", b"of the second"):
        chunks.put(bytes(range(32)), "zstd", frame)
    assert chunks.get(bytes(range(32)), "zstd") == b"of the first"


@pytest.mark.usefixtures("folder")
def test_what_is_packed_reads_as_the_memory_and_zeros_are_not_fetched(memory_file: Path, tmp_path: Path) -> None:
    with memory_file.open("r+b") as file:
        file.write(bytes(4 * CHUNK))
        file.truncate(memory_file.stat().st_size - PAGE)
    content = memory_file.read_bytes()
    packed(memory_file)
    with PackedStoreSource(STORE, "one", disk=tmp_path / "cache") as source:
        assert source.size == len(content)
        assert source.extents()[0]["kind"] == ExtentKind.zero
        assert source.read(0, 4 * CHUNK) == bytes(4 * CHUNK)
        assert source.stats.requests == 0
        for offset, size in ((7 * CHUNK - 5, 10), (len(content) - 3, 3), (0, len(content))):
            assert source.read(offset, size) == content[offset : offset + size]
    with PackedStoreSource(STORE, "one", disk=tmp_path / "cache") as source:
        assert source.read(0, len(content)) == content
        assert source.stats.requests == 0, "the disk has it all"


@pytest.mark.usefixtures("folder")
def test_a_manifest_that_is_not_there_or_wrong_is_named(s3: S3Server) -> None:
    with pytest.raises(SourceOpenError, match="was the memory packed to its end") as caught:
        PackedStoreSource(STORE, "one")
    assert caught.value.path == f"{STORE}/snapshots/one.json"
    s3.put("fleet/packed/snapshots/one.json", b'{"format": "tar"}')
    with pytest.raises(SourceOpenError) as caught:
        PackedStoreSource(STORE, "one")
    assert caught.value.field == "format"


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_server_that_is_killed_and_started_again_only_delays_a_restore_from_chunks(
    s3: S3Server, full_memory_file: Path, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    packed(full_memory_file)
    with (
        PackedStoreSource(STORE, "one", attempts=40) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file) as vmm,
        ThreadPoolExecutor() as pool,
    ):
        vmm.handover(tmp_socket)
        vmm.touch([0]).check()
        s3.kill()
        touching = pool.submit(vmm.touch, "random", seed=1, threads=4)
        eventually(lambda: source.stats.retries >= 4)
        s3.start()
        touching.result().check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_damaged_chunk_ends_one_vm_and_says_which_while_others_go_on(
    folder: Path, full_memory_file: Path, tmp_socket: Path
) -> None:
    packed(full_memory_file)
    victim = next(path for path in chunk_files(folder) if _holds(path, full_memory_file, 5))
    victim.write_bytes(victim.read_bytes()[:-7])
    config = PagerConfig(failure_policy=FailurePolicy.kill, retries=0, fill_mode=FillMode.page)
    with (
        PackedStoreSource(STORE, "one", attempts=2) as source,
        PageServer(tmp_socket, source, config=config) as server,
        FakeVmm(full_memory_file) as vmm,
        FakeVmm(full_memory_file) as other,
    ):
        vmm.handover(tmp_socket)
        other.handover(tmp_socket)
        with pytest.raises(FakeVmmDiedError):
            vmm.touch([5 * 16 + 2])
        other.touch([page for page in range(512) if page // 16 != 5]).check()
        other.verify().check()
        assert server.stats.failed == 1
        for part in (f"{STORE}/{victim.relative_to(folder)}", "damaged", "pack the memory again"):
            assert part in server.failures[0].text


def _holds(path: Path, memory: Path, chunk: int) -> bool:
    data: bytes = _core.decompress_chunk(path.read_bytes(), "zstd", CHUNK)
    return data == memory.read_bytes()[chunk * CHUNK : (chunk + 1) * CHUNK]
