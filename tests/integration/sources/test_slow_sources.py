"""Sources slower than their guest, and sources that never answer: other pages and other VMs go on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faulty_files import MountedFaults
from tests.support.faulty_restore import PAGE, PAGES, FaultyRestore, assert_says, page_of
from tests.support.file_kinds import CONTENT, SIZE, opened
from tests.support.layers import uuid_of
from vmthaw import (
    CachedSource,
    FailurePolicy,
    FileSource,
    LayeredSource,
    PageExporter,
    PageServer,
    PageSource,
    PythonSource,
    SocketSource,
    SparseDiffSource,
)
from vmthaw.source import LayeredHeader, LayeredMapping
from vmthaw.testing import FakeVmm

pytestmark = pytest.mark.usefixtures("userfaultfd_available")

BAD = 9
SLOW_S = 0.003


class Slow:
    """Reads that take `delay` seconds; one that meets the page BAD waits for `let_go`, where `keeps` is set."""

    def __init__(self, delay: float = 0.0, *, keeps: bool = False) -> None:
        self.delay = delay
        self.keeps = keeps
        self.let_go = threading.Event()

    def __call__(self, offset: int, size: int) -> bytes:
        time.sleep(self.delay)
        if self.keeps and offset <= BAD * PAGE < offset + size:
            self.let_go.wait(60)
        return CONTENT[offset : offset + size]

    async def later(self, offset: int, size: int) -> bytes:
        return await asyncio.to_thread(self, offset, size)


Opened = Iterator[PageSource]


@contextlib.contextmanager
def function(slow: Slow, _folder: Path, timeout: float) -> Opened:
    with PythonSource(slow, SIZE, threads=4, timeout=timeout) as source:
        try:
            yield source
        finally:
            slow.let_go.set()  # or closing waits for the callable


@contextlib.contextmanager
def coroutine(slow: Slow, _folder: Path, timeout: float) -> Opened:
    with PythonSource(slow.later, SIZE, threads=4, timeout=timeout) as source:
        try:
            yield source
        finally:
            slow.let_go.set()


@contextlib.contextmanager
def cached(slow: Slow, folder: Path, timeout: float) -> Opened:
    with function(slow, folder, timeout) as far, CachedSource(far, chunk=PAGE) as source:
        yield source


@contextlib.contextmanager
def layered(slow: Slow, folder: Path, timeout: float) -> Opened:
    rows = (LayeredMapping(0, SIZE, uuid_of(1), 0),)
    header = LayeredHeader(3, PAGE, SIZE, 0, uuid_of(1), uuid_of(1), rows)
    with function(slow, folder, timeout) as far, LayeredSource(header, {uuid_of(1): far}) as source:
        yield source


@contextlib.contextmanager
def below_a_diff(slow: Slow, folder: Path, timeout: float) -> Opened:
    diff = folder / "diff"
    with diff.open("wb") as file:
        file.truncate(SIZE)
    with function(slow, folder, timeout) as far, SparseDiffSource(far, [diff]) as source:
        yield source


@contextlib.contextmanager
def over_a_socket(slow: Slow, folder: Path, timeout: float) -> Opened:
    with (
        function(slow, folder, 60) as far,
        PageExporter(far, folder / "pages") as exporter,
        SocketSource(exporter.address, SIZE, connections=4, timeout=timeout) as source,
    ):
        yield source


Kind = Callable[[Slow, Path, float], "contextlib.AbstractContextManager[PageSource]"]
KINDS: list[Kind] = [function, coroutine, cached, layered, below_a_diff, over_a_socket]


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_slower_than_its_guest_only_delays_it(
    kind: Kind, tmp_path: Path, tmp_socket: Path, good: FileSource
) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(CONTENT)
    with (
        kind(Slow(SLOW_S), tmp_socket.parent, 60) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(memory) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=1, threads=16).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_never_comes_holds_up_no_other(kind: Kind, tmp_socket: Path, good: FileSource) -> None:
    slow = Slow(keeps=True)
    with (
        kind(slow, tmp_socket.parent, 60) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket) as restore,
    ):
        restore.vm.start_read(BAD)
        restore.others_go_on()
        restore.read([page for page in range(PAGES) if page != BAD])
        with pytest.raises(TimeoutError):
            restore.vm.finish_read(0.01)
        assert restore.server.failures == []
        slow.let_go.set()
        assert restore.vm.finish_read() == page_of(CONTENT, BAD)


@pytest.mark.parametrize("policy", [FailurePolicy.kill, FailurePolicy.poison, FailurePolicy.hang])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_never_comes_ends_by_the_policy(
    kind: Kind, policy: FailurePolicy, tmp_socket: Path, good: FileSource
) -> None:
    slow = Slow(keeps=True)
    with (
        kind(slow, tmp_socket.parent, 0.2) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket, policy) as restore,
    ):
        said = restore.fail(BAD)
        assert_says(said, "0x9000", "timed out", "unix:" if kind is over_a_socket else "python:")
        if policy is not FailurePolicy.kill:
            restore.read([page for page in range(PAGES) if page != BAD])
        slow.let_go.set()  # or closing the source waits for it


@pytest.mark.parametrize("name", ["mapped", "pread", "layered_frames", "zstd"])
def test_a_file_that_never_answers_holds_up_no_other_page(
    name: str, mounted: MountedFaults, good: FileSource, tmp_socket: Path
) -> None:
    with (
        opened[name](mounted.place) as built,
        FaultyRestore(built.source, good, CONTENT, tmp_socket) as restore,
    ):
        mounted.hold(built.victim, built.at)
        restore.vm.start_read(built.page)
        assert mounted.fs.waiting.wait(10)
        restore.others_go_on()
        restore.read([*range(built.page - 8), *range(built.page + 12, PAGES)])
        mounted.fs.let_go.set()
        assert restore.vm.finish_read() == page_of(CONTENT, built.page)
        assert restore.server.failures == []
