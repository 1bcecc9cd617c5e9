"""What a page of layered memory costs to read, warm, beside the same pages in one file; and what a look-up costs."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from tests.benchmarks.bench import Bench, Case, Sample
from tests.benchmarks.memory_files import PAGE
from vmthaw import FileSource, LayeredHeader, LayeredSource, PageSource, _core
from vmthaw.source import LayeredMapping

_MOST_PAGES = 16384
_LONGEST_RUN = 16
_LOOKUPS = 1_000_000
_LOOKUP_BLOCKS = (8 << 30) // PAGE


def _read_at_random(source: PageSource, pages: int) -> Sample:
    """Reads each page once, in the same random order for every source, after one round that warms all up."""
    order = list(range(pages))
    random.Random(1).shuffle(order)
    for page in order:
        source.read(page * PAGE, PAGE)
    began = time.perf_counter()
    for page in order:
        source.read(page * PAGE, PAGE)
    return Sample(time.perf_counter() - began, pages)


def _generations(path: Path, folder: Path, pages: int, count: int) -> tuple[LayeredHeader, dict[UUID, Path]]:
    """The first pages of `path` as `count` builds: runs of up to 16 pages, each of a build at random, all packed."""
    chance = random.Random(count)
    folder.mkdir(exist_ok=True)
    paths = {UUID(int=number): folder / f"{number}" for number in range(1, count + 1)}
    files = {uuid: target.open("wb", buffering=0) for uuid, target in paths.items()}
    mappings: list[LayeredMapping] = []
    with path.open("rb") as source:
        page = 0
        while page < pages:
            run = min(pages - page, chance.randint(1, _LONGEST_RUN))
            build = UUID(int=chance.randint(1, count))
            mappings.append(LayeredMapping(page * PAGE, run * PAGE, build, files[build].tell()))
            for _ in range(run):  # 4 KiB at a time, as the memory file itself
                files[build].write(source.read(PAGE))
            page += run
    for file in files.values():
        file.close()
    return LayeredHeader(5, PAGE, pages * PAGE, count, UUID(int=count), UUID(int=1), tuple(mappings)), paths


def from_file(bench: Bench) -> Sample:
    with FileSource(bench.memory(cold=False)) as source:
        return _read_at_random(source, min(bench.pages, _MOST_PAGES))


def from_layers(count: int) -> Callable[[Bench], Sample]:
    def measure(bench: Bench) -> Sample:
        pages = min(bench.pages, _MOST_PAGES)
        header, builds = _generations(bench.memory(cold=False), bench.files.path / f"layers-{count}", pages, count)
        with LayeredSource(header, builds) as source:
            return _read_at_random(source, pages)

    return measure


def look_up(runs: int) -> Callable[[Bench], Sample]:
    """8 GiB in blocks of 4 KiB, found as `LayeredSource` does it; the baseline is a random load from such an array."""

    def measure(_: Bench) -> Sample:
        chance = random.Random(runs)
        cuts = [0, *sorted(chance.sample(range(1, _LOOKUP_BLOCKS), runs - 1)), _LOOKUP_BLOCKS]
        builds = [UUID(int=number).bytes for number in (1, 2)]
        filled = [0, 0]
        rows = []
        for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
            rows.append((begin * PAGE, (end - begin) * PAGE, builds[number % 2], filled[number % 2] * PAGE))
            filled[number % 2] += end - begin
        header = _core.LayeredHeader(5, PAGE, _LOOKUP_BLOCKS * PAGE, 0, builds[0], builds[1], rows, [])
        lookup_ns, load_ns = _core.layered_lookup_ns(header, runs > _core.LAYERED_FEW_RUNS, _LOOKUPS)
        return Sample(lookup_ns * _LOOKUPS / 1e9, _LOOKUPS, baseline_seconds=load_ns * _LOOKUPS / 1e9)

    return measure


def layered_cases() -> list[Case]:
    """`source/file-random` is the baseline of the others but the look-ups, which bring their own."""
    return [
        Case("source/file-random", from_file, "FileSource, page by page at random"),
        Case("source/layered-1", from_layers(1), "layered, 1 generation"),
        Case("source/layered-8", from_layers(8), "8 generations"),
        Case("source/layered-64", from_layers(64), "64 generations"),
        Case("source/layered-lookup", look_up(65536), "a look-up alone, 65536 runs in 8 GiB"),
        Case("source/layered-lookup-dense", look_up(1 << 20), "a look-up alone, a million runs in 8 GiB"),
    ]
