"""`FileSource` and `ZeroSource` as Python sees them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vmthaw import ExtentKind, FileSource, LayeredSource, PageSource, PythonSource, ZeroSource
from vmthaw.errors import (
    PageSourceError,
    ShortReadError,
    SourceOpenError,
    SourceRangeError,
    StateError,
    VmthawError,
    VmthawValueError,
)

PAGE = 4096


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(os.urandom(8 * PAGE))
    return path


@pytest.fixture(params=["mapped", "pread"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_read_gives_the_bytes_of_the_file(memory: Path, mode: str) -> None:
    with FileSource(memory, mode=mode) as source:
        assert source.read(0, 8 * PAGE) == memory.read_bytes()
        assert source.read(5000, 77) == memory.read_bytes()[5000:5077]
        assert source.read(0, 0) == b""
        assert source.mode == mode


def test_a_read_across_the_end_is_zeros_to_the_pages_end(memory: Path, mode: str) -> None:
    os.truncate(memory, PAGE + 100)
    source = FileSource(memory, mode=mode)
    assert source.read(PAGE, PAGE) == memory.read_bytes()[PAGE:] + bytes(PAGE - 100)
    with pytest.raises(SourceRangeError):
        source.read(2 * PAGE, PAGE)


def test_a_read_across_the_end_can_be_an_error(memory: Path, mode: str) -> None:
    os.truncate(memory, PAGE + 100)
    source = FileSource(memory, short="error", mode=mode)
    with pytest.raises(ShortReadError) as caught:
        source.read(PAGE, PAGE)
    assert (caught.value.got, caught.value.expected) == (100, PAGE)


def test_a_file_that_shrinks_is_a_short_read_with_what_is_left(memory: Path, mode: str) -> None:
    source = FileSource(memory, mode=mode)
    os.truncate(memory, 3 * PAGE + 10)
    with pytest.raises(ShortReadError, match="short read: got 10 of 4096 bytes") as caught:
        source.read(3 * PAGE, PAGE)
    assert (caught.value.got, caught.value.expected) == (10, PAGE)
    assert isinstance(caught.value, PageSourceError)
    assert not source.still_whole()
    with pytest.raises(ShortReadError):
        source.prepare(5 * PAGE, PAGE)


def test_an_address_below_ram_start_is_an_error(memory: Path) -> None:
    source = FileSource(memory, ram_start=1 << 30)
    assert source.read((1 << 30) + PAGE, 10) == memory.read_bytes()[PAGE : PAGE + 10]
    with pytest.raises(SourceRangeError, match="below its start") as caught:
        source.read((1 << 30) - PAGE, PAGE)
    assert caught.value.offset == (1 << 30) - PAGE
    assert caught.value.size == PAGE
    assert isinstance(caught.value, ValueError)
    assert source.start == source.ram_start == 1 << 30


def test_an_absurd_size_is_refused_before_memory_is_asked_for(memory: Path) -> None:
    with pytest.raises(SourceRangeError):
        FileSource(memory).read(0, 1 << 62)


def test_extents_are_a_structured_array(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * PAGE)
        os.pwrite(file.fileno(), b"x" * PAGE, 32 * PAGE)
    source = FileSource(path)
    extents = source.extents()
    assert extents.dtype.names == ("offset", "size", "kind")
    assert extents.tolist() == [
        (0, 32 * PAGE, ExtentKind.zero),
        (32 * PAGE, PAGE, ExtentKind.data),
        (33 * PAGE, 31 * PAGE, ExtentKind.zero),
    ]
    assert source.extent_at(PAGE, 1 << 40) == (PAGE, 31 * PAGE, ExtentKind.zero)
    del source
    assert extents["size"].sum() == 64 * PAGE


@pytest.mark.parametrize("use", [lambda s: s.read(0, 1), lambda s: s.extents(), lambda s: s.prepare(0, 1)])
def test_use_after_close_is_a_clear_error(memory: Path, use: Callable[[PageSource], object]) -> None:
    for source in (FileSource(memory), ZeroSource(PAGE)):
        source.close()
        source.close()
        assert source.closed
        assert "closed" in repr(source)
        with pytest.raises(StateError, match="is closed: open a new source"):
            use(source)


@pytest.mark.parametrize(
    ("make", "number", "text"),
    [
        (lambda d: d / "missing", errno.ENOENT, "check the path"),
        (lambda d: d, errno.EISDIR, "it is a directory"),
        (lambda _: "/dev/zero", errno.EINVAL, "not a regular file"),
        (lambda d: os.fsencode(d) + b"/\xff", errno.ENOENT, "check the path"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_its_path(
    tmp_path: Path, make: Callable[[Path], str | bytes | Path], number: int, text: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(SourceOpenError, match=text) as caught:
        FileSource(path)
    assert caught.value.path == os.fsdecode(path)
    assert caught.value.errno == number


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(SourceOpenError, match="the file is empty"):
        FileSource(tmp_path / "empty")


def test_wrong_options_name_the_right_ones(memory: Path) -> None:
    with pytest.raises(VmthawValueError, match='short must be "zero"'):
        FileSource(memory, short="zeros")
    with pytest.raises(VmthawValueError, match='mode must be "mapped"'):
        FileSource(memory, mode="mmap")
    with pytest.raises(VmthawValueError, match="multiple of 4096"):
        FileSource(memory, ram_start=1)
    with pytest.raises(VmthawValueError, match="0 bytes"):
        ZeroSource(0)


def test_zeros_are_zeros_and_end_where_they_were_said_to(memory: Path) -> None:
    source = ZeroSource(10 * PAGE)
    assert source.read(PAGE, 3 * PAGE) == bytes(3 * PAGE)
    assert source.ready(0, 10 * PAGE)
    assert source.extents().tolist() == [(0, 10 * PAGE, ExtentKind.zero)]
    with pytest.raises(SourceRangeError):
        source.read(10 * PAGE, 1)


def test_repr_names_class_path_and_size(memory: Path) -> None:
    assert repr(FileSource(memory)) == f"<FileSource file:{memory}, {8 * PAGE} bytes>"


@pytest.mark.parametrize("kind", [FileSource, LayeredSource, PythonSource])
def test_repr_of_a_source_whose_constructor_raised_says_so(kind: type[PageSource]) -> None:
    assert repr(kind.__new__(kind)) == f"<{kind.__name__}, never opened>"


def test_threads_read_one_source_at_once(memory: Path, mode: str) -> None:
    source = FileSource(memory, mode=mode)
    content = memory.read_bytes()
    wrong: list[int] = []

    def reader() -> None:
        wrong.extend(i for i in range(200) if source.read(i % 8 * PAGE, PAGE) != content[i % 8 * PAGE :][:PAGE])

    threads = [threading.Thread(target=reader) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_dropped_source_gives_its_descriptor_back(memory: Path, mode: str) -> None:
    def open_here() -> list[str]:
        links = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
            except FileNotFoundError:
                continue
        return [link for link in links if link == str(memory)]

    source = FileSource(memory, mode=mode)
    assert len(open_here()) == 1
    del source
    assert open_here() == []


def test_a_source_is_inert_in_a_forked_child(memory: Path) -> None:
    source = FileSource(memory)
    child = os.fork()
    if child == 0:
        try:
            source.read(0, 1)
        except VmthawError as error:
            os._exit(0 if type(error).__name__ == "ForkedError" and source.inherited else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert source.read(0, 1) == memory.read_bytes()[:1]
