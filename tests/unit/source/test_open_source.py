"""`open_source`: each kind of address, stacked, and what is closed when."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import pytest

import vmthaw
from tests.support.layers import Stack, uuid_of
from tests.support.range_server import serving
from vmthaw import (
    CachedSource,
    CompressedSource,
    FileSource,
    LayeredSource,
    PackedSource,
    PageExporter,
    PageSource,
    SocketSource,
    SparseDiffSource,
    ZeroSource,
    compress_file,
    open_source,
)
from vmthaw._snapshot_pack import pack
from vmthaw.errors import SourceOpenError
from vmthaw.source import Codec

PAGE = 4096
PAGES = 64
SIZE = PAGES * PAGE


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


@pytest.fixture
def content() -> bytes:
    """Every page another, with a hole's worth of zeros in the middle."""
    return b"".join(bytes(PAGE) if 20 <= number < 30 else page(number % 250 + 1) for number in range(PAGES))


@pytest.fixture
def memory(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "vm.mem"
    path.write_bytes(content)
    return path


def sparse(path: Path, pages: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
        for number, data in pages.items():
            file.seek(number * PAGE)
            file.write(data)
    return path


def changed(content: bytes, pages: dict[int, bytes]) -> bytes:
    found = bytearray(content)
    for number, data in pages.items():
        found[number * PAGE : (number + 1) * PAGE] = data
    return bytes(found)


def check(address: str | os.PathLike[str], kind: type[PageSource], content: bytes) -> None:
    with open_source(address) as source:
        assert isinstance(source, kind)
        assert source.read(source.start, SIZE) == content
    assert source.closed


def compressed(memory: Path, path: Path, codec: str, odd: bool = True) -> Path:
    """A compressed file whose size is no whole number of pages, or is one."""
    with FileSource(memory) as source:
        for level in range(1, 10):
            for chunk in (4096, 8192, 16384, 32768):
                compress_file(source, path, codec, chunk, level)
                if (path.stat().st_size % PAGE != 0) is odd:
                    return path
                path.unlink()
    raise AssertionError(f"no {codec} file of that size")


def test_it_is_public_in_both_places() -> None:
    assert vmthaw.open_source is vmthaw.source.open_source


def test_a_file_by_its_path_and_by_its_kind(memory: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(memory.parent)
    for address in (memory, str(memory), f"file:{memory}", "vm.mem", "file:vm.mem", "./vm.mem"):
        check(address, FileSource, content)
    with open_source("file:vm.mem?ram-start=1MiB&short=error&mode=pread&format=raw") as source:
        assert isinstance(source, FileSource)
        assert (source.ram_start, source.short, source.mode) == (1 << 20, "error", "pread")


@pytest.mark.parametrize("name", [
    "a,b", "a?b=c&d", "50%25", "100%", "a#b", "cache:", "a b", "+", "%00", "ümlaut", "a\nb", "zero:1,diff:x",
    b"\xff\xfe",
])  # fmt: skip
def test_a_name_of_any_characters_is_a_path_or_written_with_percent_signs(
    name: str | bytes, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(content)
    check(str(path), FileSource, content)
    check(path, FileSource, content)
    check(f"file:{quote(os.fsencode(path))}", FileSource, content)
    check(f"zero:{SIZE},diff:{quote(os.fsencode(path))}", SparseDiffSource, content)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_file_is_known_by_its_first_bytes(
    codec: str, memory: Path, content: bytes, tmp_path: Path
) -> None:
    other = {"zstd": "lz4", "lz4": "zstd"}[codec]
    path = compressed(memory, tmp_path / "packed", codec)
    for address in (path, f"file:{path}", f"{codec}:{path}", f"compressed:{path}?cache=1MiB"):
        check(address, CompressedSource, content)
    with open_source(f"file:{path}?format=raw") as source:
        assert isinstance(source, FileSource)
        assert source.read(0, 100) == path.read_bytes()[:100]
    with pytest.raises(vmthaw.errors.SourceAddressError, match=f"compressed by {codec}: say {codec}:"):
        open_source(f"{other}:{path}")


@pytest.mark.parametrize("magic", ["28b52ffd", "04224d18", "02214c18"])
def test_a_guest_cannot_choose_how_its_memory_is_read(magic: str, memory: Path) -> None:
    """It writes its own first page; whole pages that begin like a compressed file are never guessed at."""
    with memory.open("r+b") as file:
        file.write(bytes.fromhex(magic))
    for address in (memory, f"file:{memory}"):
        with pytest.raises(vmthaw.errors.SourceAddressError, match=r"format=raw for a memory whose guest wrote that"):
            open_source(address)
    check(f"file:{memory}?format=raw", FileSource, memory.read_bytes())


def test_a_compressed_file_of_whole_pages_is_opened_by_its_kind(memory: Path, content: bytes, tmp_path: Path) -> None:
    path = compressed(memory, tmp_path / "packed", "zstd")
    missing = -path.stat().st_size % PAGE - 8
    frame = b"\x50\x2a\x4d\x18" + (missing + PAGE * (missing < 0)).to_bytes(4, "little")
    path.write_bytes(path.read_bytes() + frame + bytes(missing + PAGE * (missing < 0)))
    assert path.stat().st_size % PAGE == 0
    with pytest.raises(vmthaw.errors.SourceAddressError, match="say zstd:PATH"):
        open_source(path)
    with pytest.raises(SourceOpenError):  # the seek table is not at its end any more
        open_source(f"zstd:{path}")


def test_a_packed_memory_by_its_directory_and_name(memory: Path, content: bytes, tmp_path: Path) -> None:
    store = tmp_path / "st#re"
    with FileSource(memory) as source:
        pack(source, store, "vm-1")
    for path in (str(store), quote(str(store))):
        check(f"packed:{path}#vm-1?cache=1MiB", PackedSource, content)
    check(f"packed:{store}#vm-1", PackedSource, content)


def test_diffs_lie_over_any_memory(memory: Path, content: bytes, tmp_path: Path) -> None:
    first, second = {3: page(251), 4: bytes(PAGE)}, {4: page(252), 25: page(253)}
    one, two = sparse(tmp_path / "one", first), sparse(tmp_path / "two", second)
    wanted = changed(content, {**first, **second})
    check(f"file:{memory},diff:{one},diff:{two}", SparseDiffSource, wanted)
    with open_source(f"file:{memory},diff:{one},diff:{two}") as source:
        assert isinstance(source, SparseDiffSource)
        assert source.depth == 2  # one look-up for both
    packed = compressed(memory, tmp_path / "packed", "lz4")
    check(f"lz4:{packed},diff:{one},cache:,diff:{two}", SparseDiffSource, wanted)
    with open_source(f"diff:{one},diff:{two}", base=memory) as source:
        assert source.read(0, SIZE) == wanted
    given = FileSource(memory)
    with open_source(f"diff:{one},diff:{two}", base=given) as source:
        assert source.read(0, SIZE) == wanted
    assert given.closed


def test_layers_find_their_builds(tmp_path: Path) -> None:
    stack = Stack(PAGES)
    stack.write(1, list(range(40)))
    stack.write(2, [3, 4, 50], zeros=[7])
    stack.write(3, [4, 60])
    folder = tmp_path / "builds"
    folder.mkdir()
    (folder / "sources").mkdir()
    paths = stack.store(folder / "sources", {2: Codec.zstd})
    header = tmp_path / "header"
    header.write_bytes(stack.header().write())
    for build, path in paths.items():
        path.rename(folder / str(build))
    check(f"layers:{header}?builds={folder}", LayeredSource, stack.memory())

    one, two, three = (uuid_of(number) for number in (1, 2, 3))
    plain = (folder / str(three)).rename(tmp_path / "three")
    with pytest.raises(SourceOpenError, match=f"build {three} cannot be opened.*builds/{three}"):
        open_source(f"layers:{header}?builds={folder}")
    check(f"layers:{header}?builds={folder}&{three}={plain}", LayeredSource, stack.memory())
    check(f"layers:{header}?builds={folder}&{three}=file:{plain}%3Fmode=pread", LayeredSource, stack.memory())
    check(f"layers:{header}?{one}={folder}/{one}&{two}=file:{folder}/{two}&{three}={plain}", LayeredSource,
          stack.memory())  # fmt: skip
    (folder / str(one)).rename(tmp_path / "one")
    with FileSource(tmp_path / "one") as source:
        compress_file(source, folder / f"{one}.zst")
        compress_file(source, tmp_path / "one.lz4", "lz4")
    check(f"layers:{header}?builds={folder}&{three}={plain}", LayeredSource, stack.memory())
    check(f"layers:{header}?builds={folder}&{one}=lz4:{tmp_path}/one.lz4&{three}={plain}", LayeredSource,
          stack.memory())  # fmt: skip
    given = FileSource(plain)
    builds: dict[UUID, str | Path | PageSource] = {one: tmp_path / "one", three: given, UUID(int=9): "nowhere"}
    with open_source(f"layers:{header}?builds={folder}&{one}=nowhere,cache:", builds=builds) as source:
        assert isinstance(source, CachedSource)
        assert source.read(0, SIZE) == stack.memory()
    assert given.closed


@pytest.mark.parametrize("form", ["unix", "abstract", "tcp"])
def test_a_page_server(form: str, memory: Path, content: bytes, tmp_socket: Path) -> None:
    at = {"unix": f"unix:{tmp_socket}", "abstract": f"unix:@{tmp_socket.name}-{os.getpid()}", "tcp": "tcp:127.0.0.1:0"}
    with FileSource(memory) as source, PageExporter(source, at[form]) as exporter:
        check(f"{exporter.address}?size={SIZE}", SocketSource, content)
        check(f"{exporter.address}?size=256KiB&timeout=5&in-flight=8&connections=2&page-size=8KiB,cache:?chunk=64KiB",
              CachedSource, content)  # fmt: skip


def test_an_object_behind_http_and_its_cache(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    with serving(content) as server:
        check(server.url, vmthaw.ObjectStoreSource, content)
        check(f"{server.url}?concurrency=2&attempts=1&hedge=no&timeout=5", vmthaw.ObjectStoreSource, content)
        assert server.url.endswith("/vm.mem")
        check(server.url.replace("vm.mem", "vm%2Cmem"), vmthaw.ObjectStoreSource, content)
        disk = tmp_path / "disk"
        cached = f"{server.url},cache:{disk}?memory=1MiB&chunk=16KiB&disk-size=8MiB"
        check(cached, vmthaw.ObjectStoreSource, content)  # its own cache, not one over it
        server.gets.clear()
        check(cached, vmthaw.ObjectStoreSource, content)
        assert server.gets == []


def test_a_cache_on_disk_over_any_memory(memory: Path, content: bytes, tmp_path: Path) -> None:
    address = f"file:{memory},cache:{tmp_path}/disk?identity=vm%201&chunk=16KiB"
    check(address, CachedSource, content)
    memory.write_bytes(bytes(SIZE))
    with open_source(address) as source:
        assert source.read(0, PAGE) == page(1)  # the old bytes: the identity said that they are the same


def test_zeros(content: bytes) -> None:
    check(f"zero:{SIZE // 1024}KiB", ZeroSource, bytes(SIZE))


@pytest.mark.parametrize("address", ["file:{memory},diff:{short}", "file:{memory},cache:?chunk=5000",
                                     "file:{memory},cache:,diff:{short}", "file:{memory},diff:{missing}"])  # fmt: skip
def test_a_failed_open_closes_what_it_opened(
    address: str, memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[FileSource] = []

    def spy(*arguments: object, **options: object) -> FileSource:
        opened.append(FileSource(*arguments, **options))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr("vmthaw.source._open_source.FileSource", spy)
    (tmp_path / "short").write_bytes(bytes(PAGE))
    text = address.format(memory=memory, short=tmp_path / "short", missing=tmp_path / "missing")
    with pytest.raises((vmthaw.errors.SourceAddressError, SourceOpenError)):
        open_source(text)
    assert [source.closed for source in opened] == [True]


def test_a_failed_open_leaves_what_was_given_open(memory: Path, tmp_path: Path) -> None:
    with FileSource(memory) as given:
        for address in (f"diff:{tmp_path}/missing", f"cache:,diff:{tmp_path}/missing", "cache:?chunk=5000"):
            with pytest.raises((vmthaw.errors.SourceAddressError, SourceOpenError)):
                open_source(address, base=given)
            assert not given.closed


def test_threads_under_a_stack_end_with_it(content: bytes, eventually: Callable[..., None], tmp_path: Path) -> None:
    """What is written in Python is closed as Python does it, whatever C++ lies over it."""
    source = vmthaw.PythonSource(lambda offset, size: content[offset : offset + size], SIZE, name="below")
    diff = sparse(tmp_path / "diff", {1: page(200)})
    with open_source(f"diff:{diff},cache:", base=source) as stack:
        assert stack.read(0, SIZE) == changed(content, {1: page(200)})
        threads = source._callers.threads
        assert all(thread.is_alive() for thread in threads)
    assert not any(thread.is_alive() for thread in threads)
