"""`SparseDiffSource` as Python sees it: diffs over a base, by their holes or by what was written down."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from vmthaw import ExtentKind, FileSource, SparseDiffSource, ZeroSource
from vmthaw.errors import ShortReadError, SourceOpenError, StateError, VmthawValueError

PAGE = 4096


def page(value: int) -> bytes:
    return bytes([value]) * PAGE


def sparse(path: Path, pages: int, data: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(pages * PAGE)
        for number, content in data.items():
            file.seek(number * PAGE)
            file.write(content)
    return path


def bits(*numbers: int, pages: int) -> bytes:
    words = bytearray((pages + 63) // 64 * 8)
    for number in numbers:
        words[number // 8] |= 1 << number % 8
    return bytes(words)


@pytest.fixture
def base(tmp_path: Path) -> FileSource:
    """Eight pages: 1 to 6 have data, 0 and 7 are holes."""
    return FileSource(sparse(tmp_path / "base", 8, {number: page(number) for number in range(1, 7)}))


def kinds(source: SparseDiffSource, diff: int | None = None) -> list[tuple[int, int, str]]:
    rows = source.extents() if diff is None else source.diff_extents(diff)
    return [(offset // PAGE, size // PAGE, ExtentKind(kind).name) for offset, size, kind in rows.tolist()]


def test_each_page_comes_from_the_newest_layer_that_has_it(base: FileSource, tmp_path: Path) -> None:
    old = sparse(tmp_path / "old", 8, {0: page(100), 3: page(103), 4: bytes(PAGE)})
    new = sparse(tmp_path / "new", 8, {3: page(203), 7: page(207)})
    with SparseDiffSource(base, [old, new]) as source:
        wanted = [page(100), page(1), page(2), page(203), bytes(PAGE), page(5), page(6), page(207)]
        assert source.read(0, 8 * PAGE) == b"".join(wanted)
        for number in range(8):
            assert source.read(number * PAGE, PAGE) == wanted[number]
        assert [source.layer_at(number * PAGE) for number in range(8)] == [1, 0, 0, 2, 1, 0, 0, 2]
        assert (source.size, source.depth) == (8 * PAGE, 2)
        assert source.read(3 * PAGE - 7, 14) == page(2)[:7] + page(203)[:7]


def test_written_down_pages_count_more_than_holes(base: FileSource, tmp_path: Path) -> None:
    diff = sparse(tmp_path / "diff", 8, {2: page(102), 3: page(103)})
    with SparseDiffSource(base, [diff], [bits(3, 4, pages=8)]) as source:
        assert source.read(0, 8 * PAGE) == b"".join(
            [bytes(PAGE), page(1), page(2), page(103), bytes(PAGE), page(5), page(6), bytes(PAGE)]
        )
        assert kinds(source) == [(0, 1, "zero"), (1, 3, "data"), (4, 1, "zero"), (5, 2, "data"), (7, 1, "zero")]
        assert kinds(source, 1) == [(0, 3, "unchanged"), (3, 1, "data"), (4, 1, "zero"), (5, 3, "unchanged")]


def test_what_a_diff_does_not_have_is_unchanged_and_its_zeros_are_data(base: FileSource, tmp_path: Path) -> None:
    old = sparse(tmp_path / "old", 8, {0: page(100), 3: page(103), 4: bytes(PAGE)})
    new = sparse(tmp_path / "new", 8, {7: page(207)})
    with SparseDiffSource(base, [old, new]) as source:
        assert kinds(source, 1) == [(0, 1, "data"), (1, 2, "unchanged"), (3, 2, "data"), (5, 3, "unchanged")]
        assert kinds(source, 2) == [(0, 7, "unchanged"), (7, 1, "data")]
        for layer in (0, 3):
            with pytest.raises(VmthawValueError, match=f"layer {layer} is no diff: there are 2"):
                source.diff_extents(layer)
    with pytest.raises(StateError):
        source.diff_extents(1)


@pytest.mark.parametrize("seed", range(10))
def test_random_layers_are_what_a_list_of_pages_says(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    pages = draw.choice([1, 63, 64, 65, 200])
    model = [bytes(PAGE)] * pages
    diffs, changed = [], []
    for layer in range(draw.randint(0, 9)):
        data = {number: draw.choice([bytes(PAGE), page(draw.randint(1, 255))])
                for number in draw.sample(range(pages), draw.randint(0, pages))}  # fmt: skip
        diffs.append(sparse(tmp_path / f"{layer}", pages, data))
        changed.append(draw.choice([None, bits(*data, pages=pages)]))
        for number, content in data.items():
            model[number] = content
    with SparseDiffSource(ZeroSource(pages * PAGE), diffs, changed) as source:
        assert source.read(0, pages * PAGE) == b"".join(model)
        covered = 0
        for offset, size, kind in source.extents().tolist():
            assert offset == covered
            covered += size
            if kind == ExtentKind.zero:
                assert not any(b"".join(model)[offset:covered])
        assert covered == pages * PAGE
        for layer, written_down in enumerate(changed, 1):
            rows = source.diff_extents(layer).tolist()
            assert [offset for offset, _, _ in rows] == [0, *(offset + size for offset, size, _ in rows[:-1])]
            assert sum(size for _, size, _ in rows) == pages * PAGE
            if written_down is not None:
                same = [kind == ExtentKind.unchanged for _, size, kind in rows for _ in range(size // PAGE)]
                changes = (number for number, is_same in enumerate(same) if not is_same)
                assert written_down == bits(*changes, pages=pages)
        for _ in range(20):
            start = draw.randrange(pages * PAGE)
            size = draw.randint(1, pages * PAGE - start)
            assert source.read(start, size) == b"".join(model)[start : start + size]


def test_a_diff_of_another_size_is_refused_by_name(base: FileSource, tmp_path: Path) -> None:
    for pages in (7, 9):
        diff = sparse(tmp_path / f"{pages}", pages, {0: page(1)})
        with pytest.raises(SourceOpenError, match=rf"/{pages}.*does not belong to file:.*base"):
            SparseDiffSource(base, [diff])
    with pytest.raises(SourceOpenError, match="missing"):
        SparseDiffSource(base, [tmp_path / "missing"])


@pytest.mark.parametrize("changed", [b"", bytes(7), bytes(16), bits(8, pages=9)])
def test_changed_pages_of_another_memory_are_refused(base: FileSource, tmp_path: Path, changed: bytes) -> None:
    diff = sparse(tmp_path / "diff", 8, {1: page(1)})
    with pytest.raises(VmthawValueError, match="changed pages"):
        SparseDiffSource(base, [diff], [changed])
    with pytest.raises(VmthawValueError, match="1 diffs"):
        SparseDiffSource(base, [diff], [])


def test_a_base_must_begin_at_the_memorys_beginning(tmp_path: Path) -> None:
    file = sparse(tmp_path / "base", 8, {1: page(1)})
    with pytest.raises(VmthawValueError, match="begins at offset 0"):
        SparseDiffSource(FileSource(file, PAGE), [])


def test_a_diff_that_is_cut_and_a_closed_source_are_found(base: FileSource, tmp_path: Path) -> None:
    diff = sparse(tmp_path / "diff", 8, {1: page(1)})
    source = SparseDiffSource(base, [diff])
    assert source.still_whole()
    os.truncate(diff, PAGE)
    assert not source.still_whole()
    with pytest.raises(ShortReadError) as caught:
        source.read(PAGE, PAGE)
    assert f"file:{diff} (diff 1 of 1 in {source.description})" in str(caught.value)
    assert f"{diff} was cut: it has {PAGE} of the {8 * PAGE} bytes that it had" in str(caught.value)
    source.close()
    with pytest.raises(StateError, match="closed"):
        source.read(0, PAGE)
    assert base.closed
