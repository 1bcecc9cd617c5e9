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
# Blocks of some three milliseconds, which take turns: what else runs here meets a block and its neighbour alike.
BLOCKS = 400
# On all processors: where others compute, too, such a block may take a hundred times as long.
BLOCKS_APART = 100
COUNTS = {"stat": 80, "create": 40, "read": 50, "write": 50}


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


@contextmanager
def _on_processors(cpus: set[int]) -> Iterator[None]:
    """Of this thread, and of what it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def in_turns(
    operation: str, *, same_core: bool = True, peer_splices: bool = False, options: tuple[str, ...] = ()
) -> Callable[[Bench], Sample]:
    """`touched` operations, and as the baseline the time divided by the median ratio of a block to its neighbour, the
    peer's on the same file system.

    On one processor for all three, a time is the work of client and server. On several it is mostly how the scheduler
    lays them out, which differs by a factor of three or more from one second to the next, for either server.
    """

    def measure(bench: Bench) -> Sample:
        base = Path(tempfile.mkdtemp(prefix="fuse-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        try:
            places = [base / name for name in ("ours", "theirs", "at-ours", "at-theirs")]
            for place in places:
                place.mkdir()
            with ExitStack() as stack:
                if same_core:
                    stack.enter_context(_on_processors({bench.other_cpu}))
                stack.enter_context(_mounted_by(_ours(places[0], places[2], *options), "mounted"))
                way = "splice" if peer_splices else "copy"
                stack.enter_context(_mounted_by([peer(), places[1], places[3], str(THREADS), way], "mounted"))
                blocks = BLOCKS if same_core else BLOCKS_APART
                command = [TIMER, operation, str(blocks), str(COUNTS[operation]), places[2], places[3]]
                done = subprocess.run(
                    [*map(str, command)], capture_output=True, text=True, timeout=TIMEOUT, check=False
                )
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip())
            ours, theirs = ([float(word) for word in line.split()] for line in done.stdout.splitlines())
            ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
            return Sample(median(ours), COUNTS[operation], baseline_seconds=median(ours) / ratio)
        finally:
            shutil.rmtree(base, ignore_errors=True)

    return measure


def fuse_cases() -> list[Case]:
    """Only where both can be mounted. No cache: each call asks the server. A page's time is an operation's."""
    if why_no_libfuse():
        return []
    what = {
        "stat": "stat of one of 64 files",
        "create": "open(O_CREAT | O_EXCL) and close",
        "read": "128 KiB, O_DIRECT",
        "write": "128 KiB, O_DIRECT",
    }
    cases = []
    for operation, text in what.items():
        cases.append(Case(f"fuse/{operation}-same-core", in_turns(operation), f"{text}; all on one processor"))
        cases.append(Case(f"fuse/{operation}", in_turns(operation, same_core=False), "the same, on all processors"))
        if operation in ("read", "write"):
            splicing = in_turns(operation, peer_splices=True)
            cases.append(Case(f"fuse/{operation}-splice-same-core", splicing, "against libfuse3 splicing"))
    return cases
