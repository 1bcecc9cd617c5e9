"""What people do with a file system, done in one of ours that the kernel has mounted."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tree as repository
from tests.support.eventually import PATIENCE
from vmthaw.fuse import FuseServer, MemoryFs, PassthroughFs

EXERCISER = repository.ROOT / "build" / "release" / "vmthaw_file_exerciser"
TIMEOUT_S = 900 * PATIENCE
# A million and more in all: two files at once on each file system.
OPERATIONS = {"passthrough": 300_000, "memory": 220_000}

READER = """
import sqlite3, sys
rows = sqlite3.connect(sys.argv[1], timeout=60).execute("select count(*), total(square) from numbers").fetchone()
print(*rows)
"""


@pytest.fixture(params=["passthrough", "memory"])
def mounted(request: pytest.FixtureRequest, fuse_available: None) -> Iterator[Path]:
    """A directory in a file system of ours, which holds nothing when it is unmounted."""
    base = Path(tempfile.mkdtemp(prefix="vmt-fs-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        (base / "backing").mkdir()
        (base / "mount").mkdir()
        owner = {"root_uid": os.geteuid(), "root_gid": os.getegid()}
        served = PassthroughFs(base / "backing") if request.param == "passthrough" else MemoryFs(**owner)
        with FuseServer(served, base / "mount"):
            yield base / "mount"
        assert (served.held_nodes, served.open_handles) == (0, 0)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Its standard output; AssertionError with all it said when it failed."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_a_million_random_operations_read_back_what_they_must(mounted: Path, request: pytest.FixtureRequest) -> None:
    if not EXERCISER.exists():
        pytest.skip("needs build/release/vmthaw_file_exerciser: run `make build`")
    kind = str(request.node.callspec.params["mounted"])
    seed = int(os.environ.get("VMTHAW_EXERCISER_SEED", random.SystemRandom().randrange(1 << 32)))
    processes = []
    for number in range(2):
        (mounted / str(number)).mkdir()
        command = [EXERCISER, mounted / str(number), str(OPERATIONS[kind]), str(seed + number)]
        processes.append(subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True))
    try:
        for process in processes:
            said = process.communicate(timeout=TIMEOUT_S)[0]
            print(said)  # the seed: VMTHAW_EXERCISER_SEED does the same again
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_git_clones_checks_and_commits(mounted: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    run("git", "init", "-q", "-b", "main", origin)
    identity = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    for number in range(200):
        path = origin / f"directory{number % 17}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"line {number}\n" * number)
    (origin / "link").symlink_to("directory0/file0")
    (origin / "program").write_text("#!/bin/sh\nexit 0\n")
    (origin / "program").chmod(0o755)
    run("git", *identity, "add", "-A", cwd=origin)
    run("git", *identity, "commit", "-q", "-m", "first", cwd=origin)
    run("git", "clone", "-q", "--no-local", origin, mounted / "clone")
    clone = mounted / "clone"
    run("git", "fsck", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    assert run("git", "rev-parse", "HEAD", cwd=clone) == run("git", "rev-parse", "HEAD", cwd=origin)
    (clone / "new").write_text("new\n")
    run("git", *identity, "add", "-A", cwd=clone)
    run("git", *identity, "commit", "-q", "-m", "second", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    assert run("git", "diff", "--stat", "HEAD~1", cwd=clone).strip().endswith("1 insertion(+)")


def test_a_program_is_compiled_and_run(mounted: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    functions = 20
    for number in range(functions):
        (mounted / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    calls = " + ".join(f"part{number}()" for number in range(functions))
    declarations = "".join(f"int part{number}(void);\n" for number in range(functions))
    (mounted / "main.c").write_text(f"{declarations}int main(void) {{ return ({calls}) != 190; }}\n")
    objects = " ".join(f"part{number}.o" for number in range(functions))
    (mounted / "Makefile").write_text(f"program: main.o {objects}\n\t$(CC) -o $@ $^\n")
    run("make", "-j2", f"CC={compiler}", cwd=mounted)
    run(mounted / "program")
    assert "up to date" in run("make", cwd=mounted)


def test_sqlite_writes_ahead_while_another_process_reads(mounted: Path) -> None:
    path = mounted / "numbers.sqlite"
    database = sqlite3.connect(path, timeout=60)
    try:
        assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        database.execute("create table numbers (number integer primary key, square integer)")
        for batch in range(20):
            with database:
                database.executemany(
                    "insert into numbers values (?, ?)",
                    [(number, number * number) for number in range(100 * batch, 100 * batch + 100)],
                )
            count = 100 * batch + 100
            said = run(sys.executable, "-I", "-c", READER, path).split()
            assert said == [str(count), str(float(sum(number * number for number in range(count))))]
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("pragma wal_checkpoint(truncate)").fetchone() == (0, 0, 0)
    finally:
        database.close()
    assert not (mounted / "numbers.sqlite-wal").exists()
