"""The goals, as ratios of cases of the same round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.bench import Sample

Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class Goal:
    """``value`` of a pair is `measure` (ours, theirs); the median must be at most (or at least) ``limit``."""

    key: str
    text: str
    ours: str
    theirs: str
    measure: Callable[[Sample, Sample], float]
    limit: float
    at_least: bool = False

    def value(self, *samples: Samples) -> float | None:
        """The median over all pairs: the rounds, and what was measured side by side. None when a case was not run."""
        pairs = [
            pair for some in samples for pair in zip(some.get(self.ours, ()), some.get(self.theirs, ()), strict=False)
        ]
        return median(self.measure(ours, theirs) for ours, theirs in pairs) if pairs else None

    def is_close(self, value: float) -> bool:
        """Within a fifth of the limit, where noise may decide."""
        return abs(value - self.limit) <= self.limit / 5

    def passed(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _time(ours: Sample, theirs: Sample) -> float:
    return ours.us_per_page / theirs.us_per_page


def _rate(ours: Sample, theirs: Sample) -> float:
    return theirs.us_per_page / ours.us_per_page


def _cpu(ours: Sample, theirs: Sample) -> float:
    return (ours.cpu_seconds or 0.0) / (theirs.cpu_seconds or float("nan"))


def _p99(ours: Sample, theirs: Sample) -> float:
    return (ours.p99_us or 0.0) / (theirs.p99_us or float("nan"))


def _wasted(ours: Sample, _: Sample) -> float:
    return (ours.wasted or 0) / ours.touched


def _faults(ours: Sample, _: Sample) -> float:
    return (ours.faults or 0) / ours.touched


def _added_ns(ours: Sample, theirs: Sample) -> float:
    return 1000 * (ours.us_per_page - theirs.us_per_page)


def _seconds(ours: Sample, theirs: Sample) -> float:
    return ours.seconds / theirs.seconds


def _ns(ours: Sample, _: Sample) -> float:
    return 1000 * ours.us_per_page


def _in_turns(ours: Sample, _: Sample) -> float:
    return ours.seconds / (ours.baseline_seconds or float("nan"))


def _added_in_turns_us(ours: Sample, _: Sample) -> float:
    return 1e6 * (ours.seconds - (ours.baseline_seconds or float("nan"))) / ours.touched


GOALS = (
    Goal("page-free-random", "one page at a time, nothing pinned, random: time / textbook", "random/page",
         "random/textbook", _time, 0.5),
    Goal("page-free-sequential", "the same, sequential", "sequential/page", "sequential/textbook", _time, 0.5),
    Goal("page-pinned-random", "both pinned to one core, random: time / textbook pinned so", "random/page-same-core",
         "random/textbook-same-core", _time, 1.05),
    Goal("page-pinned-sequential", "the same, sequential", "sequential/page-same-core",
         "sequential/textbook-same-core", _time, 1.05),
    Goal("default-sequential", "default plan, sequential: time / textbook", "sequential/default",
         "sequential/textbook", _time, 0.11),
    Goal("default-cpu", "default plan, sequential: handler CPU / textbook's", "sequential/default",
         "sequential/textbook", _cpu, 0.22),
    Goal("default-random", "default plan, random: time / page by page", "random/default", "random/page", _time, 1.1),
    Goal("default-wasted", "default plan, random: pages wasted per page touched", "random/default", "random/page",
         _wasted, 0.01),
    Goal("working-set", "recorded working set alongside, random, from the hand-over: time / textbook",
         "restore/working-set", "restore/textbook", _time, 0.13),
    Goal("working-set-pinned", "the same: time / textbook pinned to one core", "restore/working-set",
         "restore/textbook-same-core", _time, 0.4),
    Goal("scan-after-working-set", "a scan after a scattered working set: faults per page",
         "restore/scan-after-working-set", "restore/scan", _faults, 0.05),
    Goal("many-16", "16 VMs: faults/s / one pinned VM's", "many/page-16", "many/page-1", _rate, 1.8, True),
    Goal("many-64", "64 VMs: faults/s / one pinned VM's", "many/page-64", "many/page-1", _rate, 1.8, True),
    Goal("failing-p99", "1000 faults beside a failing page: p99 / usual p99", "failing/one-page-fails",
         "failing/usual", _p99, 2.0),
    Goal("trace-record", "tracing: ns that a record adds to a fault", "trace/loop-1", "trace/loop-1-off", _added_ns,
         100),
    Goal("trace-record-2", "the same, two workers recording into one ring", "trace/loop-2", "trace/loop-2-off",
         _added_ns, 250),
    Goal("trace-server", "tracing, random page by page: time / without", "trace/server", "trace/server-off", _time,
         1.05),
    Goal("pause-diff", "a diff of 1 % of the pages: pause / that of a full snapshot", "pause/diff-1", "pause/full",
         _seconds, 0.1),
    Goal("classify-port", "classify_exit of a port write from C++: ns", "exits/port", "exits/port", _ns, 50),
    Goal("classify-mmio", "the same of an MMIO read", "exits/mmio", "exits/mmio", _ns, 50),
    Goal("classify-port-python", "classify_exit of a port write from Python: ns", "exits/port-python",
         "exits/port-python", _ns, 1000),
    Goal("classify-mmio-python", "the same of an MMIO read", "exits/mmio-python", "exits/mmio-python", _ns, 1000),
    Goal("run-port", "port I/O answered in C++: time / a plain C loop in turns", "run/port", "run/port", _in_turns,
         1.03),
    Goal("run-mmio", "the same of MMIO", "run/mmio", "run/mmio", _in_turns, 1.03),
    Goal("run-port-function", "port I/O answered in Python: us added to an exit", "run/port-function",
         "run/port-function", _added_in_turns_us, 5),
    Goal("run-mmio-function", "the same of MMIO", "run/mmio-function", "run/mmio-function", _added_in_turns_us, 5),
    Goal("capture", "capture_registers from C++: time / a drain and two ioctls in turns", "capture/registers",
         "capture/registers", _in_turns, 1.05),
    Goal("dax-window", "DAX set-up and remove: time / two bare mmap(MAP_FIXED) in turns", "dax/window", "dax/window",
         _in_turns, 1.1),
    Goal("dax-live", "DAX set-up and remove among 100,000 mappings: time / among 10", "dax/live-100000", "dax/live-10",
         _time, 3.0),
    Goal("fuse-stat", "stat through /dev/fuse: time / a minimal passthrough on libfuse3 in turns, on one processor",
         "fuse/stat-same-core", "fuse/stat-same-core", _in_turns, 1.05),
    Goal("fuse-create", "the same of a new file", "fuse/create-same-core", "fuse/create-same-core", _in_turns, 1.05),
    Goal("fuse-read", "the same of reading 128 KiB", "fuse/read-same-core", "fuse/read-same-core", _in_turns, 1.05),
    Goal("fuse-write", "the same of writing 128 KiB", "fuse/write-same-core", "fuse/write-same-core", _in_turns, 1.05),
    Goal("source-pipelined", "a UNIX socket, pipelined: pages/s / one request at a time", "source/unix",
         "source/unix-in-turn", _rate, 5.0, True),
    Goal("layered", "a fault on 64 layers, page by page, on one processor: time / on one file in turns",
         "source/fault-layered-64", "source/fault-layered-64", _in_turns, 1.1),
    Goal("layered-lookup", "a look-up in a million runs over 8 GiB: time / a random load from an array as long",
         "source/layered-lookup-dense", "source/layered-lookup-dense", _in_turns, 2.0),
    Goal("s3", "10 % of 512 MiB from S3, 2 ms away, its working set recorded: pages/s / page by page", "s3/working-set",
         "s3/page", _rate, 20.0, True),
    Goal("pack", "snapshot pack: time / zstd -3 over the pages that are no zeros", "pack/pack", "pack/pack", _in_turns,
         1.2),
)  # fmt: skip
