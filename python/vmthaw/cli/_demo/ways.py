"""The ways of restoring that the demo compares."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from vmthaw.cli._demo.guest import Guest, Progress, Vm
from vmthaw.cli._demo.mutants import Mutant, silent_source, wrong_file
from vmthaw.cli._demo.plan import Plan
from vmthaw.cli._demo.recording import Recording
from vmthaw.cli._demo.result import Result
from vmthaw.cli._demo.stores import stored
from vmthaw.cli._errors import sentence_of
from vmthaw.errors import GuestMismatchError, VmthawTimeoutError
from vmthaw.server import PageServer
from vmthaw.source import FileSource, PageSource
from vmthaw.testing import FindingsError, TextbookServer
from vmthaw.working_set import WorkingSet

FIRST = "vmthaw, first restore"
SECOND = "vmthaw, knowing the working set"


@dataclass
class Way:
    """One way, with what it is called and who answers the faults."""

    name: str
    handler: str
    run: Callable[[Plan, Guest, Result, Progress], None] = field(repr=False)

    def result(self, plan: Plan, guest: Guest, progress: Progress) -> Result:
        """Runs it. What is wrong with the memory becomes a problem of the result; anything else is raised."""
        result = Result(self.name, self.handler)
        try:
            self.run(plan, guest, result, progress)
        except (FindingsError, GuestMismatchError) as error:
            result.problem = sentence_of(error)
        except VmthawTimeoutError as error:
            result.problem = f"a fault was not answered: {sentence_of(error)}"
        else:
            result.verified = True
        progress(1.0)
        return result


class Demonstration:
    """The ways in their order, and what the first of them leaves for the second: the working set. Closing it ends what
    serves the memory to the source."""

    def __init__(self, output: Path | None) -> None:
        self._stack = ExitStack()
        self._open: Callable[[], PageSource] | None = None
        self.working_set: WorkingSet | None = None
        self.recordings = {name: Recording(output, stem, name) for name, stem in ((FIRST, "first"), (SECOND, "second"))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def store(self, plan: Plan, guest: Guest, progress: Progress) -> None:
        """Stores the guest's memory as the plan says."""
        place = plan.directory / "store"
        self._open = self._stack.enter_context(stored(plan.source, guest.memory_path, place, progress))

    def ways(self) -> list[Way]:
        """All of them."""
        return [
            Way(FIRST, "vmthaw", self._first),
            Way(SECOND, "vmthaw", self._second),
            Way("textbook loop", "textbook", partial(_through_textbook, {})),
            Way("eager read", "none", partial(_without_server, "eager")),
            Way("private file mapping", "kernel", partial(_without_server, "mapping")),
        ]

    def _first(self, plan: Plan, guest: Guest, result: Result, progress: Progress) -> None:
        assert self._open is not None
        with self._open() as source:
            recording = self.recordings[FIRST]
            _through_vmthaw(source, None, recording, plan, guest, result, progress)
        assert recording.records is not None
        # Around a fault the default plan fills what it takes for a stream: touched, most of it, without a fault.
        self.working_set = WorkingSet.from_trace(recording.records, include=("demand", "fault_around"))

    def _second(self, plan: Plan, guest: Guest, result: Result, progress: Progress) -> None:
        assert self._open is not None
        with self._open() as source:
            recording = self.recordings[SECOND]
            _through_vmthaw(source, self.working_set, recording, plan, guest, result, progress)


def mutant_way(mutant: Mutant) -> Way:
    """A page server that is wrong on purpose: its result must not be verified."""

    def run(plan: Plan, guest: Guest, result: Result, progress: Progress) -> None:
        with FileSource(guest.memory_path) as file:
            if plan.source != "file":
                _through_wrong_store(mutant, file, plan, guest, result, progress)
                return
            wrong = guest.mutate(mutant, file)
            if isinstance(wrong, dict):
                _through_textbook(wrong, plan, guest, result, progress)
            else:
                _through_vmthaw(wrong, None, Recording(None, mutant, mutant), plan, guest, result, progress)

    return Way(f"mutant: {mutant}", "wrong", run)


def _through_wrong_store(
    mutant: Mutant, file: FileSource, plan: Plan, guest: Guest, result: Result, progress: Progress
) -> None:
    """What is stored is wrong, or a page of it never comes: the source itself is right."""
    memory = guest.memory_path
    changed = {} if mutant == "lost-fault" else guest.changes(mutant, file)
    if changed:
        memory = plan.directory / "wrong.mem"
        wrong_file(memory, file, changed)
    recording = Recording(None, mutant, mutant)
    with (
        tempfile.TemporaryDirectory(dir=plan.directory) as place,
        stored(plan.source, memory, Path(place) / "s", progress) as open_it,
        open_it() as source,
    ):
        if changed:
            _through_vmthaw(source, None, recording, plan, guest, result, progress)
            return
        heard = threading.Event()
        with silent_source(source, guest.changes("zero-page", file), heard) as silent:
            _through_vmthaw(silent, None, recording, plan, guest, result, progress, heard.set)


def _through_vmthaw(
    source: PageSource,
    working_set: WorkingSet | None,
    recording: Recording,
    plan: Plan,
    guest: Guest,
    result: Result,
    progress: Progress,
    vm_is_gone: Callable[[], object] = lambda: None,
) -> None:
    # The VM goes first, also at Ctrl-C: a server whose VM lives drains it.
    with (
        PageServer(plan.socket_path, source, working_set=working_set) as server,
        recording.of(server),
        _at_the_end(vm_is_gone),
        guest.vm() as vm,
    ):
        progress(0.1)
        result.take(vm.restore(plan.socket_path))
        (session,) = server.sessions
        stats = session.stats
        result.faults, result.pages, result.zero_pages = stats.faults, stats.installed, stats.zero
        result.fault_p50_us, result.fault_p99_us = stats.latency_ns(0.5) / 1000, stats.latency_ns(0.99) / 1000
        result.memory_bytes = vm.memory_bytes()
        recording.stop()
        progress(0.5)
        vm.verify()


@contextmanager
def _at_the_end(call: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        call()


def _through_textbook(mutations: dict[str, Any], plan: Plan, guest: Guest, result: Result, progress: Progress) -> None:
    with ExitStack() as stack:
        stack.enter_context(TextbookServer(plan.socket_path, guest.memory_path, **mutations))
        stack.callback(plan.socket_path.unlink, missing_ok=True)  # it is killed where it fails, and leaves its socket
        vm = stack.enter_context(guest.vm())
        _restore_and_verify(vm, plan.socket_path, result, progress)


def _without_server(
    way: Literal["eager", "mapping"], _plan: Plan, guest: Guest, result: Result, progress: Progress
) -> None:
    with guest.vm() as vm:
        _restore_and_verify(vm, way, result, progress)


def _restore_and_verify(vm: Vm, way: Path | Literal["eager", "mapping"], result: Result, progress: Progress) -> None:
    progress(0.1)
    result.take(vm.restore(way))
    result.memory_bytes = vm.memory_bytes()
    progress(0.5)
    vm.verify()
