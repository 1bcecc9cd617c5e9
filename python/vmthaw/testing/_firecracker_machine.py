"""The machine behind the double of Firecracker: real memory, a real userfaultfd, and a guest that touches pages.

A state file of the double is JSON: ``regions`` (size, file offset in bytes), ``memory`` (the file that every byte is
compared with; as the process sees it), and what the ``guest`` does once it runs.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmthaw import _core
from vmthaw.testing._firecracker_api import RefusedError

_PAGE_BYTES = 4096
_TURN_PAGES = 64
_FOR_EVER_S = 86400.0
_RESTORE = "Load snapshot error: Failed to restore from snapshot: "


def _os_error(error: OSError) -> str:
    number = error.errno or errno.EIO
    return f"{os.strerror(number)} (os error {number})"


def say(text: str) -> None:
    """A line on the console. Unbuffered: the process may end at any moment."""
    os.write(1, f"{text}\n".encode())


class DoubleMachine:
    """See `Machine`. Loads, runs its guest on a thread of its own, writes snapshots of what is in memory."""

    def __init__(self) -> None:
        self._core: _core.FakeVmmCore | None = None
        self._spec: dict[str, Any] = {}
        self._may_run = threading.Event()
        self._idle = threading.Condition()
        self._working = False
        self._guest_begun = False
        self._touched: set[int] = set()
        self._written: set[int] = set()
        self._tracks = False

    def load(self, body: Mapping[str, Any]) -> None:
        """As the original: state file, userfaultfd, hand-over, and its own first writes, which may fault."""
        try:
            spec = json.loads(Path(body["snapshot_path"]).read_text(encoding="utf-8"))
        except OSError as error:
            text = f"Failed to get snapshot state from file: Failed to open snapshot file: {_os_error(error)}"
            raise RefusedError(_RESTORE + text, fatal=True) from error
        except ValueError as error:
            text = (
                "Failed to get snapshot state from file: Failed to load snapshot state from file: Crc validation failed"
            )
            raise RefusedError(_RESTORE + text, fatal=True) from error
        backend = body.get("mem_backend") or {"backend_type": "File"}
        if backend["backend_type"] != "Uffd":
            raise RefusedError(f"{_RESTORE}the double restores by userfaultfd alone", fatal=True)
        self._spec, self._tracks = spec, bool(body.get("track_dirty_pages"))
        guest = spec.get("guest", {})
        if guest.get("dies_at_load"):
            say("a double that was asked to die")
            os._exit(3)
        core = _core.FakeVmmCore(memory_path=spec["memory"], regions=[tuple(region) for region in spec["regions"]])
        uffd = "Failed to load guest memory: Error creating guest memory from uffd: "
        try:
            core.handover(backend["backend_path"], timeout=_FOR_EVER_S, **guest.get("handover", {}))
        except OSError as error:
            text = f"Failed to connect to UDS Unix stream: {_os_error(error)}"
            raise RefusedError(_RESTORE + uffd + text, fatal=True) from error
        self._core = core
        self._touch([0, 1], write=True)

    def _touch(self, pages: list[int], *, write: bool) -> bool:
        assert self._core is not None
        report = self._core.touch(pages, write=write, timeout=_FOR_EVER_S)
        self._touched.update(pages)
        if write:
            self._written.update(pages)
        wrong = int(report["mismatch_count"])
        if wrong:
            say(f"guest: {wrong} of pages {pages[0]} to {pages[-1]} hold the wrong bytes: {report['mismatches'][:1]}")
        return wrong == 0

    def set_running(self, running: bool) -> None:
        """A pause returns when the guest stands still, or waits for a page."""
        if running:
            if not self._guest_begun:
                self._guest_begun = True
                threading.Thread(target=self._guest, name="fc_vcpu 0", daemon=True).start()
            self._may_run.set()
            return
        self._may_run.clear()
        with self._idle:
            self._idle.wait_for(lambda: not self._working, timeout=0.2)

    def _guest(self) -> None:
        assert self._core is not None
        guest = self._spec.get("guest", {})
        pages = list(range(self._core.pages))
        random.Random(guest.get("seed", 0)).shuffle(pages)
        del pages[int(guest.get("reads", len(pages))) :]
        right = True
        for write, plan in ((False, pages), (True, list(guest.get("writes", [])))):
            for first in range(0, len(plan), _TURN_PAGES):
                self._may_run.wait()
                with self._idle:
                    self._working = True
                right = self._touch(plan[first : first + _TURN_PAGES], write=write) and right
                with self._idle:
                    self._working = False
                    self._idle.notify_all()
        say(f"guest: {len(pages)} pages are {'right' if right else 'WRONG'}")
        if guest.get("powers_off"):
            os._exit(0)

    def create(self, body: Mapping[str, Any]) -> None:
        """Full: every page, read through the page server. Diff: what was written (tracked), else what is resident."""
        diff = body.get("snapshot_type", "Full") == "Diff"
        dirty = self._written if self._tracks else self._touched
        try:
            file = os.open(body["mem_file_path"], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            text = f"Create snapshot error: Cannot perform open on the memory backing file: {_os_error(error)}"
            raise RefusedError(text) from error
        try:
            self._write_memory(file, sorted(dirty) if diff else None)
        finally:
            os.close(file)
        if diff:
            self._written.clear()
        state = {**self._spec, "memory": body["mem_file_path"]}
        Path(body["snapshot_path"]).write_text(json.dumps(state), encoding="utf-8")

    def _write_memory(self, file: int, pages: list[int] | None) -> None:
        assert self._core is not None
        first = 0
        os.ftruncate(file, sum(size for _host, size, _offset in self._core.regions))
        for host, size, offset in self._core.regions:
            memory = memoryview((ctypes.c_char * size).from_address(host)).cast("B")
            count = size // _PAGE_BYTES
            wanted = range(first, first + count) if pages is None else [p for p in pages if first <= p < first + count]
            for page in wanted:
                at = (page - first) * _PAGE_BYTES
                os.pwrite(file, memory[at : at + _PAGE_BYTES], offset + at)
            first += count
