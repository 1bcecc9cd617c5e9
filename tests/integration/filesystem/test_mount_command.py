"""`vmthaw mount`: says where, ends cleanly however it is ended, and refuses what cannot be mounted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.filesystem.conftest import our_mounts
from tests.support import tree as repository
from tests.support.eventually import eventually

pytestmark = pytest.mark.usefixtures("fuse_available")


def readme_example() -> str:
    """The file system of the README, and how it is mounted."""
    text = (repository.ROOT / "README.md").read_text(encoding="utf-8")
    return next(block.partition("```")[0] for block in text.split("```python\n") if "class Hello(" in block)


MORE = """
class Named(Hello):
    def __init__(self, name):
        self.name = name

    def readdir(self, path):
        return [self.name]

class NoFileSystem:
    pass
"""


def module_text() -> str:
    """The same class as a module, with others."""
    return readme_example().partition("\nwith ")[0] + MORE


class Mounted:
    """`vmthaw mount` with these arguments, once it has said that it is mounted."""

    running: ClassVar[list[Mounted]] = []

    def __init__(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmthaw", "mount", "--json", *map(str, arguments)],
            cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.running.append(self)
        assert self.process.stdout is not None
        self.lines: list[dict[str, object]] = []
        while not self.lines or self.lines[-1]["event"] != "mounted":
            line = self.process.stdout.readline()
            assert line, self.process.communicate(timeout=10)
            self.lines.append(json.loads(line))

    def end(self, number: int | None = None) -> int:
        """Its exit code; all it said is in `lines`."""
        if number is not None:
            self.process.send_signal(number)
        said, errors = self.process.communicate(timeout=60)
        self.running.remove(self)
        self.lines += [json.loads(line) for line in said.splitlines()]
        self.errors = errors
        return self.process.returncode

    def events(self) -> list[object]:
        return [line["event"] for line in self.lines if line["event"] != "log"]


def refused(*arguments: str | Path, cwd: Path | None = None) -> tuple[int, str]:
    """Exit code and standard error of a call that mounts nothing."""
    before = our_mounts()
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw", "mount", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert our_mounts() == before
    return done.returncode, done.stderr


@pytest.fixture
def backing(tmp_path: Path) -> Path:
    """A directory with a file."""
    path = tmp_path / "backing"
    path.mkdir()
    (path / "file").write_text("text")
    return path


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    """Where nothing may be mounted at the end."""
    path = tmp_path / "mount"
    path.mkdir()
    yield path
    for left in list(Mounted.running):  # of a test that failed
        left.end(signal.SIGTERM)
    assert str(path) not in our_mounts()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends_it_well(backing: Path, where: Path, number: int) -> None:
    mounted = Mounted(backing, where)
    assert mounted.lines[-1]["mount_point"] == str(where)
    assert (where / "file").read_text() == "text"
    (where / "new").write_text("new")
    assert mounted.end(number) == 0
    assert mounted.events() == ["mounted", "stopping", "unmounted"]
    assert mounted.errors == ""
    assert (backing / "new").read_text() == "new"


def test_an_unmount_ends_it_well(backing: Path, where: Path, root_user: None) -> None:
    mounted = Mounted(backing, where)
    subprocess.run(["umount", str(where)], check=True)
    assert mounted.end() == 0
    assert mounted.events() == ["mounted", "stopping", "unmounted"]


def test_files_that_are_open_do_not_keep_it(backing: Path, where: Path) -> None:
    mounted = Mounted(backing, where, "--stop-timeout", "0.2")
    with (where / "file").open() as file:
        assert mounted.end(signal.SIGTERM) == 0
        with pytest.raises(OSError, match=r"."):
            os.fsync(file.fileno())


def test_kill_9_leaves_no_dead_mount(backing: Path, where: Path) -> None:
    mounted = Mounted(backing, where)
    assert mounted.end(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: str(where) not in our_mounts())


def test_a_dead_mount_is_cleared_away_by_the_next(backing: Path, where: Path) -> None:
    Mounted(backing, where, "--no-guard").end(signal.SIGKILL)
    assert str(where) in our_mounts()
    mounted = Mounted(backing, where)
    assert (where / "file").read_text() == "text"
    assert mounted.end(signal.SIGTERM) == 0
    assert any("dead mount" in str(line) for line in mounted.lines)


def test_read_only_is_for_everybody(backing: Path, where: Path) -> None:
    mounted = Mounted(backing, where, "--read-only")
    with pytest.raises(OSError, match="Read-only"):
        (where / "new").touch()
    assert mounted.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(("name", "listing"), [("Hello", ["hello"]), ("Named", ["chosen"])])
def test_a_class_of_fifteen_lines_is_mounted(where: Path, tmp_path: Path, name: str, listing: list[str]) -> None:
    (tmp_path / "hello_fs.py").write_text(module_text())
    mounted = Mounted("chosen", where, "--fs", f"hello_fs:{name}", cwd=tmp_path)
    try:
        assert os.listdir(where) == listing
        assert (where / "hello").read_text() == "hello!"
        assert (where / "hello").stat().st_size == 6
        with pytest.raises(FileNotFoundError):
            (where / "other").read_text()
        with pytest.raises(OSError, match=r"."):
            (where / "new").touch()
    finally:
        assert mounted.end(signal.SIGTERM) == 0, mounted.errors


def test_memory_needs_no_directory(where: Path) -> None:
    mounted = Mounted("anything", where, "--fs", "memory", "--threads", "2", "--fsname", "mine")
    (where / "file").write_text("text")
    assert (where / "file").read_text() == "text"
    assert "mine" in [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()]
    assert mounted.end(signal.SIGTERM) == 0


def test_what_cannot_be_mounted_is_one_sentence(backing: Path, where: Path, tmp_path: Path) -> None:
    (tmp_path / "hello_fs.py").write_text(module_text())
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        ((backing / "missing", where), 3, "missing"),
        ((backing, tmp_path / "missing"), 3, "make the directory first"),
        ((backing, backing / "file"), 3, "mounted on a directory"),
        ((where, backing), 3, "empty directory"),
        ((backing, "/proc"), 3, "unmount it first"),
        ((backing, where, "--fs", "nonsense"), 2, "module:Class"),
        ((backing, where, "--fs", "no_such_module_here:Class"), 2, "no_such_module_here"),
        ((backing, where, "--fs", "hello_fs:Missing"), 2, "Missing"),
        ((backing, where, "--fs", "hello_fs:NoFileSystem"), 2, "is no vmthaw.filesystem.FileSystem"),
        ((backing, where, "--threads", "0"), 2, "threads"),
        ((backing,), 2, "MOUNTPOINT"),
    ]
    for arguments, code, text in cases:
        status, errors = refused(*arguments, cwd=tmp_path)
        assert (status, text in errors) == (code, True), (arguments, status, errors)
        assert len(errors.strip().splitlines()) == 1, errors


def test_a_second_mount_in_the_same_place_is_refused(backing: Path, where: Path) -> None:
    mounted = Mounted(backing, where)
    status, errors = refused(backing, where)
    assert status == 3
    assert "unmount it first" in errors
    assert (where / "file").read_text() == "text"
    assert mounted.end(signal.SIGTERM) == 0


def test_the_help_names_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw", "mount", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for word in ("--read-only", "--threads", "--allow-other", "module:Class", "SIGKILL", "Exit codes"):
        assert word in done.stdout


def test_the_readme_s_file_system_is_mounted(where: Path) -> None:
    example = readme_example()
    assert len(example.partition("class Hello")[2].partition("\nwith")[0].splitlines()) <= 16
    done = subprocess.run(
        [sys.executable, "-c", example.replace("/mnt/hello", str(where))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("hello!\n", "")
