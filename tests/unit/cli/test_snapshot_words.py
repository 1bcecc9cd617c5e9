"""What is said to `vmthaw snapshot` reaches what does it: each diff in its order, each name, each folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.layers import PAGE, Stack, page_of, uuid_of
from vmthaw import FileSource
from vmthaw._snapshot_merge import write_whole
from vmthaw._snapshot_pack import pack
from vmthaw._whole_file import whole_file, write_at
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.source import LayeredHeader

MIB = 1 << 20


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["snapshot", *map(str, arguments)], prog_name="vmthaw")


def layer(path: Path, pages: dict[int, bytes], count: int = 8) -> Path:
    with path.open("wb") as file:
        file.truncate(count * PAGE)
        for page, content in pages.items():
            file.seek(page * PAGE)
            file.write(content)
    return path


@pytest.mark.parametrize("base", ["{base}", "file:{base},cache:"])
def test_a_later_diff_lies_over_an_earlier_one_and_none_is_left_out(base: str, tmp_path: Path) -> None:
    below = layer(tmp_path / "base", {page: page_of(1, page) for page in range(8)})
    diffs = [
        layer(tmp_path / "a-diff", {page: page_of(2, page) for page in (1, 2, 3)}),
        layer(tmp_path / "an-older-name", {page: page_of(3, page) for page in (2, 3, 4)}),
        layer(tmp_path / "0-diff", {3: page_of(4, 3)}),
    ]
    done = run("merge", base.format(base=below), *diffs, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    newest = [1, 2, 3, 4, 3, 1, 1, 1]
    assert (tmp_path / "out").read_bytes() == b"".join(page_of(who, page) for page, who in enumerate(newest))


def test_the_builds_are_looked_for_where_it_is_said(tmp_path: Path) -> None:
    made = Stack(2)
    made.write(1, [0, 1])
    (tmp_path / "builds").mkdir()
    (tmp_path / "builds" / str(uuid_of(1))).write_bytes(made.builds[1])
    header = LayeredHeader(3, PAGE, 2 * PAGE, 0, uuid_of(1), uuid_of(1), made.mappings())
    (tmp_path / "header").write_bytes(header.write())
    assert f"problem: build {uuid_of(1)} is not in" in run("inspect", tmp_path / "header", "--verify").stdout
    found = run("inspect", tmp_path / "header", "--builds", tmp_path / "builds", "--verify")
    assert (found.exit_code, "problem" in found.stdout) == (0, False)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store with the memories `good`, and `bad`, whose only chunk is damaged."""
    for name in ("good", "bad"):
        (tmp_path / name).write_bytes(os.urandom(PAGE))
        with FileSource(tmp_path / name) as source:
            before = set((tmp_path / "store").glob("chunks/*/*"))
            pack(source, tmp_path / "store", name, chunk_bytes=PAGE)
    (chunk,) = set((tmp_path / "store").glob("chunks/*/*")) - before
    chunk.write_bytes(chunk.read_bytes()[:-1])
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("words", "is_damaged"),
    [
        (["{store}"], True),
        (["{store}", "good"], False),
        (["{store}", "bad"], True),
        (["{store}", "good", "bad"], True),
        (["packed:{store}"], True),
        (["packed:{store}#good"], False),
        (["packed:{store}#bad"], True),
        (["packed:{store}#good", "bad"], True),
        (["packed:{store}#bad", "good"], True),
    ],
)
def test_what_is_named_is_verified_and_nothing_else(words: list[str], is_damaged: bool, damaged: Path) -> None:
    spoken = [word.format(store=damaged) for word in words]
    assert run("verify", *spoken).exit_code == (Exit.FAILED if is_damaged else Exit.OK)
    as_json = run("verify", *spoken, "--json")
    assert as_json.exit_code == (Exit.FAILED if is_damaged else Exit.OK)
    assert [one["snapshot"] for one in json.loads(as_json.stdout)["damage"]] == ["bad"] * is_damaged


def test_a_memory_of_many_pieces_is_written_to_its_places(tmp_path: Path) -> None:
    marks = {0: b"first", 8 * MIB - PAGE: b"end of a piece", 8 * MIB: b"next piece", 19 * MIB + PAGE: b"last"}
    with (tmp_path / "memory").open("wb") as file:
        file.write(b"\0" * (17 * MIB))  # data that is zeros: one extent of several pieces
        file.truncate(20 * MIB + 5)
        for offset, mark in marks.items():
            file.seek(offset)
            file.write(mark)
    done: list[int] = []
    with FileSource(tmp_path / "memory") as source:
        merged = write_whole(source, tmp_path / "out", done.append)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "memory").read_bytes()
    assert (merged.size, merged.data) == (20 * MIB + 5, len(marks) * PAGE)
    assert (tmp_path / "out").stat().st_blocks * 512 < MIB
    assert done == sorted(done)
    assert done[-1] == merged.size


def test_a_file_is_on_the_disk_and_beside_its_place_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def sync(file: int) -> None:
        where = Path(f"/proc/self/fd/{file}").readlink()
        synced.append((str(where.parent), (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    with whole_file(tmp_path / "file") as file:
        write_at(file, 0, b"x")
    assert synced == [(str(tmp_path), False)]
