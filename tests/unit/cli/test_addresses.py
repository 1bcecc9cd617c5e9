"""The commands that read a memory take the same addresses, say them in their help, and refuse wrong ones alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result

from tests.support.layers import Stack
from vmthaw import FileSource, compress_file, open_source
from vmthaw._snapshot_merge import write_whole
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.cli._memory import ADDRESSES
from vmthaw.errors import VmthawValueError
from vmthaw.testing import write_memory_file

PAGE = 4096
SIZE = 64 * PAGE


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), prog_name="vmthaw")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "vm.mem"
    write_memory_file(path, SIZE, zero_share=0.4, seed=3)
    return path


@pytest.fixture
def diff(tmp_path: Path) -> Path:
    path = tmp_path / "a,b"
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.seek(5 * PAGE)
        file.write(b"\7" * PAGE)
    return path


@pytest.fixture
def stacked(memory: Path, diff: Path) -> str:
    return f"file:{memory},diff:{quote(str(diff))}"


@pytest.fixture
def content(memory: Path) -> bytes:
    found = bytearray(memory.read_bytes())
    found[5 * PAGE : 6 * PAGE] = b"\7" * PAGE
    return bytes(found)


COMMANDS = ["serve", "record", "export", "snapshot inspect", "snapshot merge", "snapshot pack", "snapshot unpack"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_addresses(command: str) -> None:
    text = run(*command.split(), "--help").stdout
    for part in (
        "packed:DIR#NAME",
        "layers:HEADER?builds=DIR",
        "file:base.mem,diff:1.mem,diff:2.mem",
        "%2C %3F %26 %25",
    ):
        assert part in text
    assert max(map(len, ADDRESSES.splitlines())) <= 98  # two more of indentation


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--socket", "s", "--memory", "{stacked}", "--mode", "pread"], "--mode goes with a memory file"),
        (["serve", "--socket", "s", "--memory", "zero:4096", "--short", "zero"], "--short goes with a memory file"),
        (["serve", "--socket", "s", "--memory", "zero:4096", "--ram-start", "0"], "--ram-start goes with a memory"),
        (["serve", "--socket", "s", "--memory", "file:{memory}?mode=pread", "--mode", "mapped"], "in the address too"),
        (["serve", "--socket", "s", "--memory", "{zstd}", "--mode", "pread"], "the file is compressed"),
        (["serve", "--socket", "s", "--memory", "unix:/x"], "'unix:/x' is no address of a memory: .*add size="),
        (["record", "-o", "t.parquet", "--socket", "s", "--memory", "zero:4096,zero:4096"], "lie over another"),
        (["export", "zero:x", "unix:/x"], "'zero:x' is no address"),
        (["export", "zero:4096", "unix:/x", "--ram-start", "0"], "--ram-start goes with a memory file"),
        (["snapshot", "inspect", "diff:a"], "lies over another memory"),
        (["snapshot", "inspect", "zero:4096", "--builds", "."], "layers:HEADER.builds=DIR"),
        (["snapshot", "merge", "cache:", "diff", "-o", "x"], "lies over another memory"),
        (["snapshot", "pack", "zero:4096", "."], "--name NAME"),
        (["snapshot", "pack", "ftp://a/b", "."], "no such kind"),
        (["snapshot", "unpack", "out"], "DIR NAME or ADDRESS"),
        (["snapshot", "unpack", "packed:x", "out"], "write packed:DIRECTORY#NAME"),
        (["snapshot", "verify", "packed:"], "write packed:DIRECTORY#NAME"),
    ],
)
def test_a_wrong_address_is_a_wrong_command_line(
    arguments: list[str], said: str, memory: Path, stacked: str, tmp_path: Path
) -> None:
    with FileSource(memory) as source:
        for chunk in (4096, 8192, 16384, 32768):
            compress_file(source, tmp_path / "zstd", "zstd", chunk)
            if (tmp_path / "zstd").stat().st_size % PAGE:
                break
    places = {"memory": memory, "stacked": stacked, "zstd": tmp_path / "zstd"}
    result = run(*(word.format(**places) for word in arguments))
    assert result.exit_code == Exit.USAGE, result.output
    (line,) = result.stderr.splitlines()
    assert re.search(said, line)


@pytest.mark.parametrize("address", ["zstd:{memory}", "packed:{memory}#x", "layers:{memory}", "file:{memory}.none",
                                     "unix:/nowhere/at/all?size=4096", "machine:/nowhere"])  # fmt: skip
def test_what_is_not_there_is_no_mistake_of_the_command_line(address: str, memory: Path) -> None:
    result = run("serve", "--socket", "s", "--memory", address.format(memory=memory))
    assert result.exit_code == Exit.UNABLE
    assert len(result.stderr.splitlines()) == 1


def test_inspect_reads_any_memory(stacked: str, memory: Path, content: bytes, tmp_path: Path) -> None:
    found = json.loads(run("snapshot", "inspect", stacked, "--json").stdout)
    data = sum(any(content[at : at + PAGE]) for at in range(0, SIZE, PAGE)) * PAGE
    assert (found["kind"], found["path"], found["size"], found["problems"]) == ("memory", stacked, SIZE, [])
    assert found["layers"][0]["bytes"] - found["layers"][0]["zero_bytes"] == data
    with FileSource(memory) as source:
        compress_file(source, tmp_path / "packed", chunk=4096)
    address = f"zstd:{tmp_path}/packed"
    assert "; its file" not in run("snapshot", "inspect", address).stdout
    with (tmp_path / "packed").open("r+b") as file:
        file.seek(30)
        file.write(b"\xff" * 40)
    broken = run("snapshot", "inspect", address)
    assert broken.exit_code == Exit.FAILED
    assert "problem: " in broken.stdout


def test_a_compressed_file_by_its_path_is_what_it_holds(
    memory: Path, diff: Path, content: bytes, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    with FileSource(memory) as source:
        for chunk in (4096, 8192, 16384, 32768):
            compress_file(source, packed, chunk=chunk)
            if packed.stat().st_size % PAGE:
                break
    assert json.loads(run("snapshot", "inspect", packed, "--json").stdout)["size"] == SIZE
    assert run("snapshot", "merge", packed, diff, "-o", tmp_path / "out").exit_code == Exit.OK
    assert (tmp_path / "out").read_bytes() == content


def test_merge_takes_any_base(stacked: str, content: bytes, tmp_path: Path) -> None:
    with (tmp_path / "more").open("wb") as file:
        file.truncate(SIZE)
        file.write(b"\11" * PAGE)
    out = tmp_path / "out"
    assert run("snapshot", "merge", f"{stacked},cache:", tmp_path / "more", "-o", out).exit_code == Exit.OK
    assert out.read_bytes() == b"\11" * PAGE + content[PAGE:]
    plain = run("snapshot", "merge", tmp_path / "vm.mem", tmp_path / "more", "--force", "-o", out)
    assert plain.exit_code == Exit.OK


def test_pack_unpack_and_verify_take_addresses(stacked: str, content: bytes, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    assert run("snapshot", "pack", stacked, store).exit_code == Exit.OK
    for words in (["packed:{store}#vm.mem"], ["{store}", "vm.mem"], [stacked]):
        done = run("snapshot", "unpack", *(word.format(store=store) for word in words), out, "--force", "--json")
        assert json.loads(done.stdout) == {"path": str(out), "size": SIZE}
        assert out.read_bytes() == content
    assert out.stat().st_blocks * 512 < SIZE  # sparse
    for place in (store, f"packed:{store}", f"packed:{store}#vm.mem"):
        assert "all is well" in run("snapshot", "verify", place).stdout
    assert run("snapshot", "verify", f"packed:{store}#other").exit_code == Exit.UNABLE
    assert run("snapshot", "pack", f"packed:{store}#vm.mem", store, "--name", "two").exit_code == Exit.OK
    assert (store / "snapshots" / "two.json").exists()


def test_layers_are_unpacked(tmp_path: Path) -> None:
    stack = Stack(64)
    stack.write(1, [1, 2, 3])
    stack.write(2, [2])
    (tmp_path / "header").write_bytes(stack.header(3).write())
    for build, path in stack.store(tmp_path).items():
        path.rename(tmp_path / str(build))
    assert run("snapshot", "unpack", f"layers:{tmp_path}/header", tmp_path / "out").exit_code == Exit.OK
    assert (tmp_path / "out").read_bytes() == stack.memory()


def test_a_failed_write_leaves_nothing(stacked: str, memory: Path, tmp_path: Path) -> None:
    folder = tmp_path / "to"
    folder.mkdir()

    def fail(_done: int) -> None:
        raise KeyboardInterrupt

    with open_source(stacked) as source, pytest.raises(KeyboardInterrupt):
        write_whole(source, folder / "out", fail)
    with FileSource(memory, PAGE) as source, pytest.raises(VmthawValueError, match="not at 0"):
        write_whole(source, folder / "out", fail)
    assert list(folder.iterdir()) == []
