"""What whoever opens a `SocketSource` says of its zeros: the wire has no word for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmthaw import ExtentKind, FileSource, PageExporter, SocketSource
from vmthaw.errors import VmthawValueError

PAGE = 4096
PAGES = 600
RAM_START = 1 << 31


@pytest.fixture(params=[0, 1000], ids=["whole-pages", "cut-page"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Data in pages 0 to 2, 100 to 109 and 512 to 529; then a hole, which may end in the middle of a page."""
    path = tmp_path / "memory"
    with path.open("wb") as file:
        file.truncate(PAGES * PAGE - request.param)
        for first, count in ((0, 3), (100, 10), (512, 18)):
            file.seek(first * PAGE)
            file.write(os.urandom(count * PAGE))
    return path


@pytest.fixture(params=[0, RAM_START], ids=["from-0", "from-2GiB"])
def file(request: pytest.FixtureRequest, memory: Path) -> Iterator[FileSource]:
    with FileSource(memory, request.param) as source:
        yield source


@pytest.fixture
def exporter(file: FileSource, tmp_socket: Path) -> Iterator[PageExporter]:
    with PageExporter(file, tmp_socket) as exporter:
        yield exporter


def opened(exporter: PageExporter, file: FileSource, **options: Any) -> SocketSource:
    return SocketSource(exporter.address, file.size, **{"ram_start": file.start, **options})


def test_zeros_that_are_known_are_never_asked_for(exporter: PageExporter, file: FileSource, memory: Path) -> None:
    content, start = memory.read_bytes(), file.start
    with opened(exporter, file, extents=file.extents()) as source:
        assert source.extents().tolist() == file.extents().tolist()
        assert source.extent_at(start + 4 * PAGE, PAGE) == (start + 4 * PAGE, PAGE, ExtentKind.zero)
        assert source.read(start, file.size) == content
        assert source.stats["pages"] == 3 + 10 + 18
        assert source.read(start + 50 * PAGE + 7, 49 * PAGE) == bytes(49 * PAGE)
        assert source.stats["pages"] == 31
        assert source.read(start + 99 * PAGE + 5, 2 * PAGE) == content[99 * PAGE + 5 : 101 * PAGE + 5]
        last = start + (PAGES - 1) * PAGE
        assert source.read(last, PAGE) == bytes(PAGE)  # to the end of the page, as far as the memory may end before
    with opened(exporter, file, extents=file.extents(), page_size=2 << 20) as source:
        assert source.read(start, file.size) == content
    with opened(exporter, file) as source:
        assert source.read(start, file.size) == content
        assert source.stats["pages"] == PAGES


def test_a_last_page_of_data_is_one_request(exporter: PageExporter, file: FileSource) -> None:
    begin = file.start + 599 * PAGE
    rows = [(file.start, 599 * PAGE, "zero"), (begin, file.size - 599 * PAGE, "data")]
    with opened(exporter, file, extents=rows) as source:
        assert source.read(begin - PAGE, 2 * PAGE) == bytes(2 * PAGE)
        assert source.stats["pages"] == 1


def test_what_is_said_to_be_zeros_is_not_looked_at(exporter: PageExporter, file: FileSource) -> None:
    with opened(exporter, file, extents=[(file.start, file.size, ExtentKind.zero)]) as source:
        assert source.read(file.start, file.size) == bytes(file.size)
        assert source.stats["pages"] == 0


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "empty"),
        ([(0, PAGE, "data")], r"extents\[0\].*must end at the source's size"),
        ([(0, PAGE, "zero"), (2 * PAGE, 2 * PAGE, "data")], r"extents\[1\].*must begin at 0x1000"),
        ([(0, 5 * PAGE, "zero")], r"extents\[0\].*ends behind"),
        ([(0, 100, "zero"), (90, 4 * PAGE - 90, "data")], r"extents\[1\].*must begin at 0x64"),
        ([(0, 4 * PAGE, "unchanged")], r"extents\[0\].*layer below"),
        ([(0, 4 * PAGE, "nothing")], "is no extent"),
        ([(0, 4 * PAGE)], "is no extent"),
    ],
)
def test_extents_that_leave_doubt_are_refused(rows: list[Any], match: str, tmp_socket: Path) -> None:
    with pytest.raises(VmthawValueError, match=match):  # before anybody is asked
        SocketSource(f"unix:{tmp_socket}", 4 * PAGE, extents=rows)


def test_extents_are_of_the_addresses_that_are_asked_for(exporter: PageExporter, file: FileSource) -> None:
    other = 0 if file.start else RAM_START
    with pytest.raises(VmthawValueError, match=f"must begin at {file.start:#x}"):
        opened(exporter, file, extents=[(other, file.size, "data")])
