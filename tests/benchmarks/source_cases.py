"""What a page costs to read from each source, warm, beside `FileSource`; and what pipelining is worth on a socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.bench import Bench, Case, Sample
from tests.benchmarks.memory_files import PAGE
from vmthaw import FileSource, PageExporter, PageSource, SocketSource

_AT_ONCE = 64
"""Pages that one read asks for, as the pager's background fill does."""
_MOST_PAGES = 16384


def read_through(source: PageSource, pages: int, at_once: int) -> Sample:
    """Reads `pages` pages of the source, `at_once` by one call, and compares none: the tests do."""
    size = at_once * PAGE
    pages -= pages % at_once
    source.read(0, size)
    began = time.perf_counter()
    for offset in range(0, pages * PAGE, size):
        source.read(offset, size)
    return Sample(time.perf_counter() - began, pages)


def from_file(at_once: int) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        with FileSource(bench.memory(cold=False)) as source:
            return read_through(source, min(bench.pages, _MOST_PAGES), at_once)

    return measure


def from_socket(at_once: int, share: int = 1, **options: Any) -> Callable[[Bench], Sample]:
    """From an exporter in this process: its threads are C++'s, and so are the reader's."""

    def measure(bench: Bench) -> Sample:
        path = bench.memory(cold=False)
        with (
            FileSource(path) as file,
            PageExporter(file, bench.socket()) as exporter,
            SocketSource(exporter.address, bench.pages * PAGE, **options) as source,
        ):
            return read_through(source, min(bench.pages, _MOST_PAGES) // share, at_once)

    return measure


def source_cases() -> list[Case]:
    """A page's time, whoever asked for it."""
    return [
        Case("source/file", from_file(_AT_ONCE), f"FileSource, {_AT_ONCE} pages a read"),
        Case("source/file-single", from_file(1), "FileSource, page by page"),
        Case("source/unix", from_socket(_AT_ONCE), "UNIX socket, pipelined"),
        Case(
            "source/unix-in-turn",
            from_socket(_AT_ONCE, 8, connections=1, max_in_flight=1),
            "UNIX socket, one request at a time",
        ),
        Case("source/unix-single", from_socket(1, 8), "UNIX socket, one reader that asks page by page"),
    ]
