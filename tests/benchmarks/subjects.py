"""What the tables of the README are about: cases by the part of their name before the slash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.bench import Case


@dataclass(frozen=True)
class Subject:
    """One table. ``each``: what a sample counts (``Sample.touched``); ``baseline``: what its ratio is to."""

    name: str
    groups: tuple[str, ...]
    each: str
    baseline: str
    of_memory_file: bool = True  # whether the state of the page cache and the order of touches matter

    def chosen(self, cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if case.group in self.groups]


SUBJECTS = (
    Subject("memory", ("sequential", "random", "many", "failing", "restore", "guest", "trace"), "page", "textbook"),
    Subject("vcpu", ("exits", "run", "capture", "freeze", "pause"), "event", "baseline", of_memory_file=False),
    Subject("dax", ("dax",), "pair", "baseline", of_memory_file=False),
    Subject("window", ("window",), "page", "FUSE READ", of_memory_file=False),
    Subject("fuse", ("fuse",), "call", "libfuse3", of_memory_file=False),
    Subject("source", ("source",), "page", "file"),
    Subject("s3", ("s3",), "page", "page by page"),
    Subject("pack", ("pack",), "page", "zstd -3", of_memory_file=False),
    Subject("unpack", ("unpack",), "page", "file", of_memory_file=False),
)


def complete(cases: Sequence[Case], every: Sequence[Case]) -> list[Subject]:
    """The subjects of whose cases none is missing."""
    names = {case.name for case in cases}
    wanted = {subject: {case.name for case in subject.chosen(every)} for subject in SUBJECTS}
    return [subject for subject in SUBJECTS if wanted[subject] and wanted[subject] <= names]
