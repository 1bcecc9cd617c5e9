"""A passthrough through /dev/fuse, in turns with a minimal one on libfuse3: stat, create, 128 KiB reads and writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from statistics import median

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample

ROOT = Path(__file__).resolve().parents[2]
TIMER = ROOT / "build" / "release" / "vmthaw_file_timer"
PEER = Path(__file__).with_name("libfuse_passthrough.cpp")
THREADS = 4
# Blocks of some ten milliseconds, which take turns.
BLOCKS = 40
COUNTS = {"stat": 400, "create": 200, "read": 400, "write": 400}


def why_no_libfuse() -> str | None:
    """None where both can be mounted and the peer be built."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs root and /dev/fuse"
    if not TIMER.exists():
        return f"needs {TIMER.relative_to(ROOT)}: run `make build`"
    if shutil.which("pkg-config") is None or subprocess.run(["pkg-config", "fuse3"], check=False).returncode != 0:
        return "needs libfuse3-dev and pkg-config"
    return None


@cache
def peer() -> Path:
    """The comparison, built with the flags of a release."""
    path = ROOT / "build" / "libfuse_passthrough"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["c++", "-std=c++20", "-O3", "-DNDEBUG", str(PEER), "-o", str(path), *flags], check=True)
    return path


@contextmanager
def _mounted_by(command: list[str | Path], ready: str) -> Iterator[None]:
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if ready not in line:
            raise RuntimeError(f"{command[0]} did not mount: {line!r}")
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def _ours(backing: Path, where: Path, *options: str) -> list[str | Path]:
    return [sys.executable, "-m", "vmthaw", "mount", "--json", "--no-guard", "--threads", str(THREADS), *options,
            "--entry-timeout", "0", "--attr-timeout", "0", backing, where]  # fmt: skip


def in_turns(operation: str, *, peer_splices: bool = False, options: tuple[str, ...] = ()) -> Callable[[Bench], Sample]:
    """`touched` operations; the peer's time for as many, in turns on the same files' file system, is the baseline."""

    def measure(_bench: Bench) -> Sample:
        base = Path(tempfile.mkdtemp(prefix="fuse-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        try:
            places = [base / name for name in ("ours", "theirs", "at-ours", "at-theirs")]
            for place in places:
                place.mkdir()
            with ExitStack() as stack:
                stack.enter_context(_mounted_by(_ours(places[0], places[2], *options), "mounted"))
                way = "splice" if peer_splices else "copy"
                stack.enter_context(_mounted_by([peer(), places[1], places[3], str(THREADS), way], "mounted"))
                command = [TIMER, operation, str(BLOCKS), str(COUNTS[operation]), places[2], places[3]]
                done = subprocess.run(
                    [*map(str, command)], capture_output=True, text=True, timeout=TIMEOUT, check=False
                )
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip())
            ours, theirs = ([float(word) for word in line.split()] for line in done.stdout.splitlines())
            return Sample(median(ours), COUNTS[operation], baseline_seconds=median(theirs))
        finally:
            shutil.rmtree(base, ignore_errors=True)

    return measure


def fuse_cases() -> list[Case]:
    """Only where both can be mounted. No cache: each call asks the server. A page's time is an operation's."""
    if why_no_libfuse():
        return []
    return [
        Case("fuse/stat", in_turns("stat"), "stat of one of 64 files, in turns with libfuse3"),
        Case("fuse/create", in_turns("create"), "open(O_CREAT | O_EXCL) and close, likewise"),
        Case("fuse/read", in_turns("read"), "128 KiB, O_DIRECT, libfuse3 copying"),
        Case("fuse/read-splice", in_turns("read", peer_splices=True), "the same, libfuse3 splicing"),
        Case("fuse/write", in_turns("write"), "128 KiB, O_DIRECT, libfuse3 copying"),
        Case("fuse/write-splice", in_turns("write", peer_splices=True), "the same, libfuse3 splicing"),
    ]
