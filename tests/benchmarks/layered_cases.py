"""What reading a page of layered memory costs, warm, beside the same pages in one file; and what a look-up costs."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from uuid import UUID

from tests.benchmarks.bench import Bench, Case, Sample
from tests.benchmarks.memory_files import PAGE
from vmthaw import FileSource, LayeredHeader, LayeredSource, PageSource, _core
from vmthaw.source import LayeredMapping

_MOST_PAGES = 16384
_TURN = 512
"""Pages in a turn."""
_LONGEST_RUN = 16
_LOOKUPS = 1_000_000
_LOOKUP_BLOCKS = (8 << 30) // PAGE


def generations(bench: Bench, pages: int, count: int) -> tuple[LayeredHeader, dict[UUID, Path]]:
    """The first pages of the warm file as `count` builds: runs of up to 16 pages, each of a build at random, all
    packed. Written once for all who ask."""
    chance = random.Random(count)
    folder = bench.files.path / f"layers-{count}-{pages}"
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    paths = {UUID(int=number): folder / f"{number}" for number in range(1, count + 1)}
    ends = dict.fromkeys(paths, 0)
    mappings: list[LayeredMapping] = []
    with ExitStack() as stack:
        source = stack.enter_context(bench.memory(cold=False).open("rb"))
        files = {uuid: stack.enter_context(path.open("ab", buffering=0)) for uuid, path in paths.items()}
        page = 0
        while page < pages:
            run = min(pages - page, chance.randint(1, _LONGEST_RUN))
            build = UUID(int=chance.randint(1, count))
            mappings.append(LayeredMapping(page * PAGE, run * PAGE, build, ends[build]))
            ends[build] += run * PAGE
            for _ in range(run if is_new else 0):  # 4 KiB at a time, as the memory file itself
                files[build].write(source.read(PAGE))
            page += run
    return LayeredHeader(5, PAGE, pages * PAGE, count, UUID(int=count), UUID(int=1), tuple(mappings)), paths


def _seconds(source: PageSource, pages: Sequence[int]) -> float:
    began = time.perf_counter()
    for page in pages:
        source.read(page * PAGE, PAGE)
    return time.perf_counter() - began


def from_layers(count: int) -> Callable[[Bench], Sample]:
    """Each page once, in the same random order, in turns with the one file; after a round that warms all up. `seconds`
    are the median turn's times their number."""

    def measure(bench: Bench) -> Sample:
        pages = min(bench.pages, _MOST_PAGES) // _TURN * _TURN
        order = list(range(pages))
        random.Random(1).shuffle(order)
        times: tuple[list[float], list[float]] = ([], [])
        with LayeredSource(*generations(bench, pages, count)) as layers, FileSource(bench.memory(cold=False)) as file:
            for source in (layers, file):
                _seconds(source, order)
            for number, start in enumerate(range(0, pages, _TURN)):
                for which in (0, 1) if number % 2 else (1, 0):
                    times[which].append(_seconds((layers, file)[which], order[start : start + _TURN]))
        ours, theirs = (median(some) * len(some) for some in times)
        return Sample(ours, pages, baseline_seconds=theirs)

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
    """The pages are read from Python; what they cost a VM is in `source_fault_cases`."""
    return [
        Case("source/layered-1", from_layers(1), "LayeredSource.read of a page at random, 1 generation, in turns"),
        Case("source/layered-8", from_layers(8), "8 generations"),
        Case("source/layered-64", from_layers(64), "64 generations"),
        Case("source/layered-lookup", look_up(65536), "a look-up alone, 65536 runs in 8 GiB"),
        Case("source/layered-lookup-dense", look_up(1 << 20), "a look-up alone, a million runs in 8 GiB"),
    ]
