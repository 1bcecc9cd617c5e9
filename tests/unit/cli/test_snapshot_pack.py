"""`vmthaw snapshot pack`, `unpack`, `verify`, and the source that reads what they keep."""

from __future__ import annotations

import errno
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.eventually import eventually
from vmthaw import ExtentKind, FileSource, PackedSource, _core, _snapshot_pack
from vmthaw._snapshot_pack import pack, unpack, verify
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.errors import SourceIoError, SourceOpenError, VmthawValueError
from vmthaw.testing import write_memory_file

PAGE = 4096


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["snapshot", *map(str, arguments)], prog_name="vmthaw")


def packed(memory: Path, store: Path, name: str = "one", **options: Any) -> Any:
    with FileSource(memory) as source:
        return pack(source, store, name, **options)


def chunk_files(store: Path) -> list[Path]:
    return sorted(path for path in (store / "chunks").rglob("*") if path.is_file())


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    write_memory_file(path, 512 * PAGE, zero_share=0.5, seed=31)
    with path.open("r+b") as file:
        file.seek(128 * PAGE)
        file.write(bytes(100 * PAGE))  # zeros that are no hole
        file.truncate(512 * PAGE - 777)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.mark.parametrize("seed", range(12))
def test_what_is_packed_is_unpacked(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    content = bytearray()
    for _ in range(chance.randrange(1, 60)):
        kind = chance.choice(["zero", "same", "random"])
        data = {"zero": bytes(PAGE), "same": b"vmthaw!!" * 512, "random": chance.randbytes(PAGE)}[kind]
        content += data * chance.randrange(1, 9)
    del content[len(content) - chance.choice([0, 1, 1000]) :]
    memory, back = tmp_path / "memory", tmp_path / "back"
    memory.write_bytes(content)
    options: dict[str, Any] = {"codec": chance.choice(["zstd", "lz4"]), "chunk_bytes": PAGE << chance.randrange(4)}
    result = packed(memory, tmp_path / "store", threads=chance.randrange(1, 4), **options)
    assert result.size == unpack(tmp_path / "store", "one", back) == len(content)
    assert back.read_bytes() == content
    assert verify(tmp_path / "store", []) == []
    assert len(chunk_files(tmp_path / "store")) == result.stored
    with PackedSource(tmp_path / "store", "one", cache_bytes=1) as source:
        for _ in range(30):
            offset = chance.randrange(len(content))
            size = chance.randrange(1, min(5 * PAGE, len(content) - offset) + 1)
            assert source.read(offset, size) == content[offset : offset + size]
        for row in source.extents():
            if row["kind"] == ExtentKind.zero:
                assert not any(content[row["offset"] : row["offset"] + row["size"]])


def test_equal_chunks_of_many_snapshots_are_stored_once(memory: Path, store: Path) -> None:
    first = packed(memory, store, "one", chunk_bytes=16384)
    files = chunk_files(store)
    again = packed(memory, store, "two", chunk_bytes=16384)
    assert (again.stored, again.stored_bytes) == (0, 0)
    assert again.shared == first.stored + first.shared
    with memory.open("r+b") as file:
        file.seek(300 * PAGE)
        file.write(b"another page")
    assert packed(memory, store, "three", chunk_bytes=16384).stored == 1
    assert len(chunk_files(store)) == len(files) + 1


def test_equal_chunks_of_a_memory_are_held_once(store: Path, tmp_path: Path) -> None:
    memory = tmp_path / "equal"
    pages = [bytes([number]) * PAGE for number in (1, 2, 1, 0, 2, 1, 3)]
    memory.write_bytes(b"".join(pages) + pages[0][:100])  # the last is a part of the first
    packed(memory, store, chunk_bytes=PAGE)
    content = memory.read_bytes()
    with PackedSource(store, "one") as source:
        assert source.read(2 * PAGE, PAGE) == pages[2]
        assert source.ready(0, PAGE)
        assert not source.ready(PAGE, PAGE)
        assert source.read(0, source.size) == content
        assert source.cache_stats()["loads"] == 4
        assert [source.read(at, PAGE) for at in range(0, 7 * PAGE, PAGE)] == pages
        assert source.cache_stats()["loads"] == 4
    with PackedSource(store, "one", cache_bytes=1) as source:  # two chunks
        chance = random.Random(1)
        for _ in range(200):
            at = chance.randrange(len(content))
            size = chance.randint(1, len(content) - at)
            assert source.read(at, size) == content[at : at + size]


def test_a_manifest_that_gives_one_chunk_anothers_hash_fails_for_that_alone(store: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(bytes([1]) * PAGE + bytes([2]) * 100)
    packed(memory, store, chunk_bytes=PAGE)
    path = store / "snapshots" / "one.json"
    manifest = json.loads(path.read_text())
    manifest["chunks"][1] = manifest["chunks"][0]  # whose bytes are more
    path.write_text(json.dumps(manifest))
    with PackedSource(store, "one") as source:
        assert source.read(0, PAGE) == bytes([1]) * PAGE
        with pytest.raises(SourceIoError):
            source.read(PAGE, 100)


def test_the_commands_pack_check_and_give_back(memory: Path, store: Path, tmp_path: Path) -> None:
    done = run("pack", memory, store, "--name", "vm-1", "--chunk-kib", "16")
    assert done.exit_code == 0, done.stderr
    assert f"{store}/vm-1" in done.stdout
    taken = run("pack", memory, store, "--name", "vm-1")
    assert taken.exit_code == Exit.UNABLE
    assert "--force" in taken.stderr
    assert run("pack", memory, store, "--name", "vm-1", "--force").exit_code == 0
    assert run("verify", store).stdout == "all is well\n"
    assert run("unpack", store, "vm-1", tmp_path / "back").exit_code == 0
    assert (tmp_path / "back").read_bytes() == memory.read_bytes()
    assert run("unpack", store, "vm-1", tmp_path / "back").exit_code == Exit.UNABLE
    assert json.loads(run("pack", memory, store, "--name", "vm-3", "--json").stdout)["shared"] > 0
    missing = run("unpack", store, "vm-2", tmp_path / "other")
    assert missing.exit_code == Exit.UNABLE
    assert "was the memory packed to its end?" in missing.stderr
    assert not (tmp_path / "other").exists()


def test_a_flipped_byte_is_named(memory: Path, store: Path, tmp_path: Path) -> None:
    packed(memory, store, chunk_bytes=16384)
    victim = chunk_files(store)[3]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    found = verify(store, [])
    assert [one.path for one in found] == [victim]
    shown = run("verify", store)
    assert shown.exit_code == Exit.FAILED
    assert str(victim) in shown.stdout
    assert [one["path"] for one in json.loads(run("verify", store, "--json").stdout)["damage"]] == [str(victim)]
    with pytest.raises(SourceIoError, match="pack the memory again") as caught:
        unpack(store, "one", tmp_path / "back")
    assert str(victim) in str(caught.value)
    assert caught.value.errno == errno.EBADMSG
    assert [path.name for path in tmp_path.iterdir() if "back" in path.name] == []
    victim.unlink()
    with PackedSource(store, "one") as source, pytest.raises(SourceIoError, match="it is not there"):
        source.read(found[0].offset, PAGE)
    assert packed(memory, store, chunk_bytes=16384, level=9).stored == 1
    assert verify(store, ["one"]) == []


class _FirstTwoMeet:
    """The first two to come wait for each other; BrokenBarrierError when the second does not come."""

    def __init__(self) -> None:
        self._comers = itertools.count()
        self._together = threading.Barrier(2, timeout=10)

    def come(self) -> None:
        if next(self._comers) < 2:
            self._together.wait()


def test_unpack_and_verify_work_on_several_threads(
    memory: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(memory, store, chunk_bytes=16384)
    really = _core.decompress_chunk
    checked, read = _FirstTwoMeet(), _FirstTwoMeet()

    def decompress(frame: bytes, codec: str, size: int) -> bytes:
        checked.come()
        return really(frame, codec, size)

    class Slow(PackedSource):
        def read(self, offset: int, size: int) -> bytes:
            read.come()
            return super().read(offset, size)

    monkeypatch.setattr(_core, "decompress_chunk", decompress)
    monkeypatch.setattr(_snapshot_pack, "PackedSource", Slow)
    assert verify(store, [], threads=2) == []
    unpack(store, "one", tmp_path / "back", threads=2)
    assert (tmp_path / "back").read_bytes() == memory.read_bytes()


def test_an_interrupted_unpack_ends_its_threads_before_the_file_goes(memory: Path, store: Path, tmp_path: Path) -> None:
    packed(memory, store, chunk_bytes=4096)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        unpack(store, "one", tmp_path / "back", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir() if "back" in path.name] == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("vmthaw-unpack")] == []
    assert caught.tb is not None  # whose frames would have kept them


def test_a_chunk_that_took_anothers_place_is_found(memory: Path, store: Path) -> None:
    packed(memory, store, chunk_bytes=16384)
    one, other = chunk_files(store)[:2]
    one.write_bytes(other.read_bytes())
    found = verify(store, [])
    assert [(damage.path, "hash" in damage.why) for damage in found] == [(one, True)]
    with PackedSource(store, "one") as source, pytest.raises(SourceIoError, match="checksum"):
        source.read(found[0].offset, PAGE)


def _pack_in_a_process(memory: Path, store: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys\nfrom pathlib import Path\nfrom vmthaw import FileSource\nfrom vmthaw._snapshot_pack import pack\n"
        "pack(FileSource(sys.argv[1]), Path(sys.argv[2]), 'one', chunk_bytes=4096, level=19)"
    )
    return subprocess.Popen([sys.executable, "-c", code, memory, store])


def _has_begun(process: subprocess.Popen[bytes], store: Path, chunks: int) -> bool:
    return process.poll() is not None or len(chunk_files(store)) > chunks


def test_a_killed_pack_is_resumed_without_damage(memory: Path, store: Path, tmp_path: Path) -> None:
    for chunks in (5, 60, 150):
        process = _pack_in_a_process(memory, store)
        try:
            eventually(partial(_has_begun, process, store, chunks))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (store / "snapshots" / "one.json").exists():  # it was done before it was killed
            assert verify(store, ["one"]) == []
    whole = [path for path in chunk_files(store) if not path.name.endswith(".partial")]
    result = packed(memory, store, chunk_bytes=4096)
    assert result.shared >= len(whole)
    assert verify(store, []) == []
    unpack(store, "one", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == memory.read_bytes()


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set("format", "tar"), "format"),
        (_set("version", 2), "format"),
        (_set("size", -1), "size"),
        (_set("size", True), "size"),
        (_set("size", 1 << 40), "chunks"),
        (_set("chunk_bytes", 5000), "chunk_bytes"),
        (_set("chunk_bytes", "4096"), "chunk_bytes"),
        (_set("codec", "gzip"), "codec"),
        (_set("chunks", {}), "chunks"),
        (lambda manifest: manifest["chunks"].pop(), "chunks"),
        (lambda manifest: manifest["chunks"].__setitem__(2, 5), "chunks[2]"),
        (lambda manifest: manifest["chunks"].__setitem__(2, ["../../etc", 1, 1]), "chunks[2]"),
        (lambda manifest: manifest["chunks"].__setitem__(2, ["00" * 32, 1, 1]), "chunks[2]"),
        (lambda manifest: manifest["chunks"].__setitem__(2, ["ab" * 32, 0, 1]), "chunks[2]"),
        (lambda manifest: manifest["chunks"].__setitem__(2, ["ab" * 32, 1, -1]), "chunks[2]"),
    ],
)
def test_a_manifest_that_is_wrong_names_its_field(
    change: Callable[[dict[str, Any]], None], field: str, memory: Path, store: Path
) -> None:
    packed(memory, store, chunk_bytes=65536)
    path = store / "snapshots" / "one.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(SourceOpenError) as caught:
        PackedSource(store, "one")
    assert caught.value.field == field
    assert caught.value.path == str(path)


def test_a_manifest_that_is_no_json_and_names_that_lead_astray_are_refused(memory: Path, store: Path) -> None:
    packed(memory, store)
    (store / "snapshots" / "one.json").write_text("{")
    with pytest.raises(SourceOpenError) as caught:
        PackedSource(store, "one")
    assert caught.value.field == "json"
    for name in ("../one", "", ".hidden", "a/b", "x" * 300):
        with pytest.raises(SourceOpenError):
            packed(memory, store, name)


@pytest.mark.parametrize("options", [{"codec": "gzip"}, {"chunk_bytes": 1000}, {"level": 99}])
def test_arguments_that_cannot_be_right_are_refused(options: dict[str, Any], memory: Path, store: Path) -> None:
    with pytest.raises(VmthawValueError):
        packed(memory, store, **options)
