"""`vmthaw snapshot inspect` and `vmthaw snapshot merge`."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.layers import PAGE, Stack, page_of, uuid_of
from vmthaw._snapshot_merge import merge
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.errors import SourceOpenError
from vmthaw.source import Codec, FileSource, LayeredBuild, LayeredHeader, LayeredMapping, SparseDiffSource


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["snapshot", *map(str, arguments)], prog_name="vmthaw")


def sparse(path: Path, size: int, pages: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for page, content in pages.items():
            file.seek(page * PAGE)
            file.write(content[: size - page * PAGE])
    return path


def chain(folder: Path, seed: int) -> list[Path]:
    """A base and some diffs: pages, pages full of zeros, holes; a size that is no multiple of a page."""
    chance = random.Random(seed)
    size = chance.randrange(3, 200) * PAGE - chance.choice([0, 1, 3000])
    pages = range(-(-size // PAGE))
    return [
        sparse(
            folder / f"layer-{layer}",
            size,
            {page: chance.choice([bytes(PAGE), page_of(layer + 1, page)]) for page in pages if chance.random() < 0.4},
        )
        for layer in range(chance.randrange(2, 6))
    ]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_merged_reads_as_the_chain_does_and_is_sparse(tmp_path: Path, seed: int) -> None:
    base, *diffs = chain(tmp_path, seed)
    expected = SparseDiffSource(FileSource(base), diffs)
    seen: list[int] = []
    done = merge(base, diffs, tmp_path / "out", seen.append)
    content = (tmp_path / "out").read_bytes()
    assert content == expected.read(0, expected.size)
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    assert done.data == sum(len(page) for page in pages if any(page))
    assert (tmp_path / "out").stat().st_blocks * 512 <= -(-done.data // PAGE) * PAGE + (64 << 10)
    assert seen == sorted(seen)
    assert seen[-1] == expected.size


def test_where_data_cannot_be_shared_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: int) -> int:
        raise OSError(errno.EXDEV, "other file systems")

    base, *diffs = chain(tmp_path, 3)
    expected = SparseDiffSource(FileSource(base), diffs)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    merge(base, diffs, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected.read(0, expected.size)


def test_data_is_asked_to_be_shared_in_whole_pages_from_where_it_is_to_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, int]] = []
    really = os.copy_file_range

    def record(source: int, target: int, count: int, at: int, to: int) -> int:
        assert at == to
        asked.append((Path(os.readlink(f"/proc/self/fd/{source}")).name, at, count))
        return really(source, target, count, at, to)

    size = 8 * PAGE - 1000
    base = sparse(tmp_path / "base", size, {page: page_of(1, page) for page in range(8)})
    diff = sparse(tmp_path / "diff", size, {2: page_of(2, 2), 3: page_of(2, 3), 4: bytes(PAGE)})
    monkeypatch.setattr(os, "copy_file_range", record)
    monkeypatch.delattr(os, "pwrite")  # nothing is written
    merge(base, [diff], tmp_path / "out")
    assert asked == [("base", 0, 2 * PAGE), ("diff", 2 * PAGE, 2 * PAGE), ("base", 5 * PAGE, size - 5 * PAGE)]


def test_a_merge_that_fails_leaves_nothing_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    base, *diffs = chain(tmp_path, 1)
    (tmp_path / "out").write_text("mine")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "copy_file_range", fail)
    result = run("merge", base, *diffs, "-o", tmp_path / "out", "--force")
    assert result.exit_code == Exit.UNABLE
    assert "No space left" in result.stderr
    assert (tmp_path / "out").read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == before


def test_a_diff_of_another_size_is_named(tmp_path: Path) -> None:
    base = sparse(tmp_path / "base", 4 * PAGE, {0: page_of(1, 0)})
    diff = sparse(tmp_path / "diff", 5 * PAGE, {0: page_of(2, 0)})
    with pytest.raises(SourceOpenError, match=str(diff)):
        merge(base, [diff], tmp_path / "out")
    assert run("merge", base, tmp_path / "nothing", "-o", tmp_path / "out").exit_code == Exit.UNABLE
    assert not (tmp_path / "out").exists()


def test_the_result_may_replace_its_base_with_force_alone(tmp_path: Path) -> None:
    base, *diffs = chain(tmp_path, 2)
    expected = SparseDiffSource(FileSource(base), diffs).read(0, base.stat().st_size)
    base.chmod(0o640)
    refused = run("merge", base, *diffs, "-o", base)
    assert refused.exit_code == Exit.UNABLE
    assert "--force" in refused.stderr
    assert run("merge", base, *diffs, "-o", base, "--force").exit_code == 0
    assert base.read_bytes() == expected
    assert base.stat().st_mode & 0o777 == 0o640


@pytest.fixture
def stack(tmp_path: Path) -> tuple[Path, Stack]:
    """Six pages: two of build 1, one of build 2, one of zeros in build 2, two nil; the builds lie beside the header."""
    made = Stack(6)
    made.write(1, [0, 1, 2, 3])
    made.write(2, [1, 3], zeros=[4])
    made.builds[2] = page_of(2, 1) + bytes(PAGE)
    made.store(tmp_path)
    for number in (1, 2):
        (tmp_path / f"build-{number}").rename(tmp_path / str(uuid_of(number)))
    builds = tuple(
        LayeredBuild(uuid_of(number), len(data), hashlib.sha256(data).digest()) for number, data in made.builds.items()
    )
    header = LayeredHeader(5, PAGE, 6 * PAGE, 1, uuid_of(2), uuid_of(1), made.mappings(), builds)
    (tmp_path / "header").write_bytes(header.write())
    return tmp_path / "header", made


def as_json(*arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("inspect", *arguments, "--json").stdout)
    return found


def test_a_header_is_told_by_its_layers(stack: tuple[Path, Stack]) -> None:
    found = as_json(stack[0], "--verify")
    assert (found["kind"], found["size"], found["zero_bytes"], found["depth"]) == ("header", 6 * PAGE, 2 * PAGE, 2)
    assert found["header"]["version"] == 5
    layers = {layer["name"]: (layer["bytes"], layer["mappings"], layer["zero_bytes"]) for layer in found["layers"]}
    assert layers == {str(uuid_of(1)): (2 * PAGE, 2, 0), str(uuid_of(2)): (2 * PAGE, 2, PAGE)}
    assert found["problems"] == []
    text = run("inspect", stack[0]).stdout
    assert f"{uuid_of(2)}: 8 KiB, 33.3 %, 2 runs; 50.0 % of it zeros" in text
    assert "zeros: 8 KiB, 33.3 % (nil, never read)" in text


def test_verify_names_a_build_that_is_missing_short_or_another(stack: tuple[Path, Stack]) -> None:
    path = stack[0].parent / str(uuid_of(1))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    assert "SHA-256" in run("inspect", stack[0], "--verify").stdout
    assert run("inspect", stack[0]).exit_code == 0
    path.write_bytes(content[: 2 * PAGE])
    (first, second) = as_json(stack[0], "--verify")["problems"]
    assert "has 8192 bytes, the header says 16384" in first
    assert f"build {uuid_of(1)}" in second
    assert "short" in second
    path.unlink()
    result = run("inspect", stack[0], "--verify")
    assert result.exit_code == Exit.FAILED
    assert f"problem: build {uuid_of(1)} is not in" in result.stdout
    assert "its file is not here" in run("inspect", stack[0]).stdout


def test_a_damaged_frame_is_found(tmp_path: Path) -> None:
    made = Stack(8)
    made.write(1, list(range(8)))
    path = made.store(tmp_path, {1: Codec.zstd})[uuid_of(1)].rename(tmp_path / str(uuid_of(1)))
    (tmp_path / "header").write_bytes(made.header().write())
    assert as_json(tmp_path / "header", "--verify")["problems"] == []
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)
    (problem,) = as_json(tmp_path / "header", "--verify")["problems"]
    assert f"build {uuid_of(1)}" in problem


@pytest.mark.parametrize("codec", [Codec.zstd, Codec.lz4])
@pytest.mark.parametrize("tail", [0, 100])
def test_verify_holds_what_a_compressed_build_decompresses_to_against_its_checksum(
    tmp_path: Path, codec: Codec, tail: int
) -> None:
    made = Stack(8)
    made.write(1, list(range(8)))
    made.builds[1] += bytes(range(tail))  # a build need not end with a page
    path = made.store(tmp_path, {1: codec}, frame_pages=3)[uuid_of(1)].rename(tmp_path / str(uuid_of(1)))
    build = made.compressed[1]

    def check(**changes: Any) -> tuple[str, list[str]]:
        made.compressed[1] = dataclasses.replace(build, **changes)
        (tmp_path / "header").write_bytes(made.header().write())
        found = as_json(tmp_path / "header", "--verify")
        return found["layers"][0]["checksum"], found["problems"]

    good = hashlib.sha256(made.builds[1]).digest()
    assert check() == ("unknown", [])
    assert check(checksum=good) == ("matches", [])
    assert "SHA-256 matches" in run("inspect", tmp_path / "header", "--verify").stdout
    state, (problem,) = check(checksum=hashlib.sha256(path.read_bytes()).digest())
    assert state == "differs"
    assert f"{path}, decompressed, has the SHA-256 {good.hex()}" in problem
    made.owner[6:] = [(0, 0)] * 2  # no mapping uses the last frame
    assert check(checksum=good, frames=build.frames[:-1]) == ("incomplete", [])
    made.owner[:3] = [(0, 0)] * 3
    assert check(checksum=good, frames=build.frames[1:]) == ("incomplete", [])


def test_a_header_with_an_error_is_refused_by_its_field(tmp_path: Path) -> None:
    header = LayeredHeader(3, PAGE, PAGE, 0, uuid_of(1), uuid_of(1), (LayeredMapping(0, PAGE, uuid_of(1), 0),))
    (tmp_path / "header").write_bytes(header.write()[:-1])
    result = run("inspect", tmp_path / "header")
    assert result.exit_code == Exit.UNABLE
    assert "mappings: " in result.stderr


def test_a_memory_file_is_told_by_its_holes_and_zeros(tmp_path: Path) -> None:
    path = sparse(tmp_path / "memory", 64 * PAGE, {0: page_of(1, 0), 1: bytes(PAGE)})
    found = as_json(path)
    assert (found["kind"], found["size"], found["depth"]) == ("memory", 64 * PAGE, 1)
    (layer,) = found["layers"]
    assert layer["zero_bytes"] == layer["bytes"] - PAGE
    assert "memory file" in run("inspect", path).stdout


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "nothing")
    assert result.exit_code == Exit.UNABLE
    assert len(result.stderr.splitlines()) == 1
