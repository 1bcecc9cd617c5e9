"""Our server, as a process: ``python -m tests.benchmarks.server_child JSON``. Each line on stdin is answered with the
statistics as JSON; the end of stdin ends it, killing VMs that are left."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import vmthaw
from vmthaw.pager import FillMode, Placement

_COUNTERS = (
    "faults", "installed", "zero", "fault_around", "redundant", "coalesced", "retried", "deferred", "failed",
    "forwarded", "source_bytes", "prefetched",
)  # fmt: skip


class FailingFile:
    """Reads of a file, of which those that begin at ``failing`` raise until ``others`` other pages were read."""

    def __init__(self, path: str, failing: int, others: int) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._failing = failing
        self._others = others
        self.failures = 0

    def __call__(self, offset: int, size: int) -> bytes:
        if offset != self._failing:
            self._others -= 1
        elif self._others > 0:
            self.failures += 1
            raise OSError(5, "this page fails for now")
        return os.pread(self._fd, size, offset)


class PageByPage:
    """What one would write: a ranged GET for whatever is asked, one after the other."""

    def __init__(self, url: str) -> None:
        import obstore
        from obstore.store import from_url

        root, _, self._path = url.rpartition("/")
        self._store = from_url(root, client_options={"allow_http": True})
        self._get = obstore.get_range

    def __call__(self, offset: int, size: int) -> Any:
        return self._get(self._store, self._path, start=offset, length=size)


def main() -> None:
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    # A page that fails on purpose, and VMs that are killed at the end of a case, are no news.
    logging.getLogger("vmthaw").setLevel(logging.CRITICAL)
    if arguments["cpu"] is not None:
        placement = {"placement": Placement.pinned, "cpu": arguments["cpu"]}
    else:
        placement = {"placement": Placement[arguments["placement"]]}
    config = vmthaw.PagerConfig(
        fill_mode=FillMode[arguments["fill_mode"]], fill_bytes=arguments["fill_bytes"],
        **placement, **arguments["retry"],
        working_set_mode=vmthaw.WorkingSetMode[arguments["working_set_mode"]],
        trace_records=arguments["trace_records"],
    )  # fmt: skip
    callable_source: FailingFile | None = None
    source: vmthaw.PageSource
    if arguments["python_source"] is not None:
        callable_source = FailingFile(arguments["memory"], **arguments["python_source"])
        source = vmthaw.PythonSource(callable_source, os.stat(arguments["memory"]).st_size)
    elif arguments["by_page"]:
        size = os.stat(arguments["memory"]).st_size
        source = vmthaw.PythonSource(PageByPage(arguments["object_store"]), size, threads=4)
    elif arguments["object_store"] is not None:
        source = vmthaw.ObjectStoreSource(arguments["object_store"])
    else:
        source = vmthaw.FileSource(arguments["memory"])
    working_set = vmthaw.WorkingSet.load(arguments["working_set"]) if arguments["working_set"] else None
    server = vmthaw.PageServer(arguments["socket"], source, config=config, working_set=working_set).start()
    print("listening", flush=True)
    try:
        while sys.stdin.readline():
            stats = server.stats
            found: dict[str, int] = {name: getattr(stats, name) for name in _COUNTERS}
            found["sessions"] = len(server.sessions)
            found["source_failures"] = callable_source.failures if callable_source is not None else 0
            print(json.dumps(found), flush=True)
    finally:
        server.stop("kill")


if __name__ == "__main__":
    main()
