"""What the server's tests share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy  # noqa: F401 - here, because it starts threads of its own when it is imported

from tests.support.eventually import eventually
from vmthaw import PagerSession, PageServer, PythonSource, _core

PAGES = 512


def file_reader(path: Path) -> Callable[[int, int], bytes]:
    """A callable for `PythonSource` that reads `path`, with zeros behind its end."""

    def read(offset: int, size: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset).ljust(size, b"\0")

    return read


class FlakySource:
    """A `PythonSource` over a file of which some pages fail, or wait until they are let go."""

    def __init__(self, path: Path, *, threads: int = 4, size: int | None = None) -> None:
        self._read = file_reader(path)
        self.failing: set[int] = set()
        self.held: set[int] = set()
        self.asked: list[int] = []
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.delay = 0.0
        self.source = PythonSource(self._serve, size or path.stat().st_size, threads=threads, timeout=20.0)

    def _serve(self, offset: int, size: int) -> bytes:
        pages = range(offset // 4096, (offset + size + 4095) // 4096)
        self.asked.extend(pages)
        if self.delay:
            time.sleep(self.delay)
        if self.held.intersection(pages):
            self.entered.set()
            self.let_go.wait(15)
        if self.failing.intersection(pages):
            raise OSError(5, "this page cannot be read")
        return self._read(offset, size)

    def __enter__(self) -> FlakySource:
        return self

    def __exit__(self, *error: object) -> None:
        self.let_go.set()
        self.source.close()


def the_session(server: PageServer, timeout: float = 10.0) -> PagerSession:
    """The one session, live or ended."""
    return eventually(lambda: [*server.sessions, *server.ended_sessions], timeout, what="a session came")[0]


def failure_texts(server: PageServer) -> str:
    return "\n".join(failure.text for failure in server.failures)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> dict[int, str]:
    """Name of every thread of this process, by thread id."""
    names = {}
    for entry in Path("/proc/self/task").iterdir():
        try:
            names[int(entry.name)] = (entry / "comm").read_text().strip()
        except FileNotFoundError:
            continue
    return names


def left_behind(before: tuple[int, int] | None = None) -> tuple[int, int]:
    """(descriptors, threads but for the lanes, which grow and stay). Waits until they are no more than `before`."""

    def now() -> tuple[int, int]:
        gc.collect()  # an exception that a test caught holds its frames, and they the server
        return descriptors(), sum(not name.startswith("vmthaw-source") for name in tasks().values())

    _core._threads()  # the runtime, and what belongs to it, is there from the first server on
    from vmthaw import _lifecycle

    _lifecycle.ensure_drainer()
    if before is None:
        return now()
    wanted = before
    try:
        eventually(lambda: all(n <= b for n, b in zip(now(), wanted, strict=True)), 5.0)
    except AssertionError:
        links = []
        for entry in os.listdir("/proc/self/fd"):
            try:
                links.append(f"{entry} -> {os.readlink(f'/proc/self/fd/{entry}')}")
            except FileNotFoundError:
                continue
        raise AssertionError(f"before {wanted}, after {now()}: {links}, {tasks()}") from None
    return now()


@contextmanager
def script(code: str, *arguments: object, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A Python of its own that runs `code` and is killed at the end."""
    process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def run_script(code: str, *arguments: object, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "default", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
