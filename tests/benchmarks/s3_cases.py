"""Restores from an object store that is 2 ms away, in chunks and page by page.

The server is versitygw where there is one (``VERSITYGW``, ``build/tools/versitygw``), else a small one of ours; a link
of ours between it and the reader delays every byte by 1 ms in each direction.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample, percentiles, with_counters
from tests.benchmarks.memory_files import PAGE
from tests.benchmarks.processes import OurServer
from tests.support.range_server import serving
from tests.support.s3_server import S3Server
from tests.support.tree import ROOT
from tests.support.versitygw import made_versitygw
from vmthaw import MemoryLayout, WorkingSet, _core
from vmthaw.testing import FakeVmm

_ONE_WAY_S = 0.001
_MOST_PAGES = (512 << 20) // PAGE
_SHARE = 10


@contextmanager
def _link(port: int) -> Iterator[int]:
    """The port of a `DelayedLink` to `port`, in a process of its own: nobody shares an interpreter with it."""
    command = [sys.executable, "-m", "tests.support.delayed_link", str(port), str(_ONE_WAY_S)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as link:
        assert link.stdin is not None
        assert link.stdout is not None
        try:
            yield int(link.stdout.readline())
        finally:
            link.stdin.close()
            link.wait(10)


@contextmanager
def _far_object(memory: Path, size: int) -> Iterator[str]:
    """The first `size` bytes of the file as an object, by its URL; the environment has what a client wants to know."""
    with memory.open("rb") as file:
        content = file.read(size)
    program = made_versitygw()
    if program is None:
        with serving(content) as server, _link(int(server.url.split(":")[2].split("/")[0])) as port:
            yield f"http://127.0.0.1:{port}/snapshots/vm.mem"
        return
    with (
        tempfile.TemporaryDirectory(prefix="s3-", dir=memory.parent) as directory,
        S3Server(program, Path(directory)) as s3,
        _link(s3.port) as port,
    ):
        url = s3.put("vm.mem", content)
        del content
        before = dict(os.environ)
        os.environ.update(s3.environment(f"http://127.0.0.1:{port}"))
        try:
            yield url
        finally:
            os.environ.clear()
            os.environ.update(before)


def restored(*, replay: bool = False, **options: Any) -> Callable[[Bench], Sample]:
    """10 % of the pages of 512 MiB (or of the memory, if it is less), touched at random from the hand-over on;
    ``replay``: their working set was recorded."""

    def measure(bench: Bench) -> Sample:
        pages = min(bench.pages, _MOST_PAGES)
        count = max(1, pages // _SHARE)
        plan: dict[str, Any] = {"count": count, "seed": 1}
        saved = bench.files.path / "far-working-set"
        if replay:
            layout, touched = MemoryLayout.host(), _core.plan_touches("subset", pages, **plan)
            addresses = [layout.guest_address(page * PAGE) for page in touched]
            WorkingSet(np.array(addresses, np.uint64)).save(saved)
            options["working_set"] = saved
        socket, memory = bench.socket(), bench.memory(cold=False)
        with (
            _far_object(memory, pages * PAGE) as url,
            OurServer(socket, memory, object_store=url, **options) as server,
            FakeVmm(memory, size=pages * PAGE) as vmm,
        ):
            bench.make_ready()
            start = time.perf_counter()
            vmm.handover(socket)
            report = vmm.touch("subset", verify=False, timeout=TIMEOUT, **plan).check()
            seconds = time.perf_counter() - start
            found = server.settled_statistics()
            vmm.verify(timeout=TIMEOUT).check()
        sample = Sample(seconds, report.touches, None, *percentiles(report.latencies_ns))
        return with_counters(sample, found)

    return measure


def s3_cases() -> list[Case]:
    """Only where there is obstore."""
    try:
        import obstore  # noqa: F401
    except ImportError:
        return []
    server = "a small server of ours" if made_versitygw() is None else "versitygw"
    return [
        Case("s3/page", restored(by_page=True, fill_mode="page"), f"each page by one ranged GET of {server}"),
        Case("s3/chunks", restored(), "ObjectStoreSource, no working set"),
        Case("s3/working-set", restored(replay=True), "the same, the recorded working set alongside"),
    ]
