"""What one source says of its zeros, handed to another that stands for it: layers speak in blocks of 512 bytes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.layer_writer import LayerWriter
from vmthaw import FileSource, PageExporter, PageSource, PythonSource, SocketSource, SparseDiffSource
from vmthaw.errors import VmthawValueError
from vmthaw.source import ExtentKind, LayeredSource

PAGE = 4096
BLOCK = 512
PAGES = 48
SIZE = PAGES * PAGE


def write_sparse(path: Path, model: bytearray, pages: list[int]) -> Path:
    """`pages` of the model; the rest are holes."""
    with path.open("wb") as file:
        file.truncate(len(model))
        for page in pages:
            file.seek(page * PAGE)
            file.write(model[page * PAGE : (page + 1) * PAGE])
    return path


def layers_of_small_blocks(chance: random.Random, folder: Path, model: bytearray) -> PageSource:
    """Three generations of 512-byte blocks over a file; some blocks became zeros."""
    model[:] = os.urandom(SIZE // 2) + bytes(SIZE // 2)
    base = FileSource(write_sparse(folder / "base", model, list(range(PAGES // 2))))
    writer = LayerWriter(chance, folder, BLOCK, model)
    for _ in range(3):
        blocks = sorted(chance.sample(range(SIZE // BLOCK), 90))
        for block in blocks:
            model[block * BLOCK : (block + 1) * BLOCK] = chance.choice([bytes(BLOCK), os.urandom(BLOCK)])
        writer.write(blocks)
    header, builds = writer.finish(base)
    return LayeredSource(header, builds)


def diffs_over_layers(chance: random.Random, folder: Path, model: bytearray) -> PageSource:
    """A diff, whose holes are unchanged and whose zeros are zeros, over such layers."""
    base = layers_of_small_blocks(chance, folder, model)
    pages = sorted(chance.sample(range(PAGES), 12))
    for page in pages:
        model[page * PAGE : (page + 1) * PAGE] = chance.choice([bytes(PAGE), os.urandom(PAGE)])
    return SparseDiffSource(base, [write_sparse(folder / "diff", model, pages)])


def file_with_a_cut_page(chance: random.Random, folder: Path, model: bytearray) -> PageSource:
    """A sparse file that ends inside a page."""
    pages = sorted(chance.sample(range(PAGES), 20))
    model[:] = bytes(SIZE - 1000)
    for page in pages:
        model[page * PAGE : (page + 1) * PAGE] = os.urandom(min(PAGE, len(model) - page * PAGE))
    return FileSource(write_sparse(folder / "cut", model, pages))


KINDS = [layers_of_small_blocks, diffs_over_layers, file_with_a_cut_page]


@pytest.fixture(
    params=[(kind, seed) for kind in KINDS for seed in (1, 2)],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[PageSource, bytes]]:
    """A source and what its bytes must be."""
    build, seed = request.param
    model = bytearray(SIZE)
    with build(random.Random(seed), tmp_path, model) as source:
        yield source, bytes(model)


def pages_with_data(source: PageSource) -> set[int]:
    """The pages that `source` calls data, be it in part."""
    rows = source.extents().tolist()
    data = [(offset, offset + size) for offset, size, kind in rows if kind == ExtentKind.data]
    return {page for begin, end in data for page in range(begin // PAGE, (end - 1) // PAGE + 1)}


def reads_as(source: PageSource, model: bytes, seed: int) -> None:
    """The whole and any part of `source` are what the model says."""
    assert source.read(0, len(model)) == model
    chance = random.Random(seed)
    for _ in range(100):
        offset = chance.randrange(len(model))
        size = min(chance.choice([1, BLOCK, PAGE, 5 * PAGE]), len(model) - offset)
        assert source.read(offset, size) == model[offset : offset + size]


def test_a_python_source_takes_any_sources_extents_and_reads_as_it(memory: tuple[PageSource, bytes]) -> None:
    below, model = memory
    asked: set[int] = set()

    def read(offset: int, size: int) -> bytes:
        asked.update(range(offset // PAGE, (offset + size - 1) // PAGE + 1))
        return below.read(offset, size)

    with PythonSource(read, below.size, below.extents()) as source:
        reads_as(source, model, 3)
        assert asked == pages_with_data(source) == pages_with_data(below)
        with PythonSource(source.read, source.size, source.extents()) as above:
            assert above.extents().tolist() == source.extents().tolist()
            reads_as(above, model, 4)


def test_a_page_that_is_data_in_part_is_one_request(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return bytes(size)

    rows = [(0, 3 * PAGE, "zero")]
    rows += [(3 * PAGE + at, BLOCK, ("data", "zero")[at // BLOCK % 2]) for at in range(0, 2 * PAGE, BLOCK)]
    with PythonSource(read, 9 * PAGE, [*rows, (5 * PAGE, 4 * PAGE, "zero")]) as source:
        source.read(0, 9 * PAGE)
        assert asked == [(3 * PAGE, 2 * PAGE)]
        assert [tuple(row) for row in source.extents().tolist()] == [
            (0, 3 * PAGE, ExtentKind.zero),
            (3 * PAGE, 2 * PAGE, ExtentKind.data),
            (5 * PAGE, 4 * PAGE, ExtentKind.zero),
        ]


def test_a_socket_source_takes_any_sources_extents_and_reads_as_it(
    memory: tuple[PageSource, bytes], tmp_socket: Path
) -> None:
    below, model = memory
    with ExitStack() as stack:
        exporter = stack.enter_context(PageExporter(below, tmp_socket))
        source = stack.enter_context(SocketSource(exporter.address, below.size, extents=below.extents()))
        assert source.read(0, len(model)) == model
        assert source.stats["pages"] == len(pages_with_data(below))
        reads_as(source, model, 5)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([(0, 1000, "data"), (900, SIZE - 900, "zero")], r"extents\[1\] \(offset 0x384.*must begin at 0x3e8"),
        ([(1000, SIZE - 1000, "data"), (0, 1000, "zero")], r"extents\[0\] \(offset 0x3e8.*must begin at 0x0"),
        ([(0, 1000, "data"), (1001, SIZE - 1001, "zero")], r"extents\[1\].*must begin at 0x3e8"),
        ([(0, 1000, "data"), (1000, SIZE, "zero")], r"extents\[1\].*ends behind"),
        ([(0, 1000, "data"), (1000, (1 << 64) - 1000, "zero")], r"extents\[1\].*ends behind"),
        ([(0, 1000, "data"), (1000, 0, "zero"), (1000, SIZE - 1000, "data")], r"extents\[1\].*empty"),
        ([(0, 1000, "data"), (1000, SIZE - 1001, "zero")], r"extents\[1\].*must end at the source's size"),
        ([(0, 1000, "zero"), (1000, SIZE - 1000, "unchanged")], r"extents\[1\].*no layer below"),
    ],
)
def test_extents_that_contradict_each_other_are_refused_by_their_number(rows: list[Any], match: str) -> None:
    with pytest.raises(VmthawValueError, match=match):
        PythonSource(lambda _offset, size: bytes(size), SIZE, rows)


def test_a_memory_that_ends_where_numbers_end_is_rounded_to_its_end() -> None:
    size = (1 << 64) - 1
    rows = [(0, 1000, "data"), (1000, size - 1500, "zero"), (size - 500, 500, "data")]
    with PythonSource(lambda _offset, count: b"x" * count, size, rows) as source:
        last = size // PAGE * PAGE
        assert [row[0] for row in source.extents().tolist()] == [0, PAGE, last]
        assert source.read(last - PAGE, 2 * PAGE - 1) == bytes(PAGE) + b"x" * (PAGE - 1)
