"""The ways of restoring that the demo compares."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vmthaw.cli._demo.guest import Guest, Progress, Vm
from vmthaw.cli._demo.mutants import Mutant
from vmthaw.cli._demo.plan import Plan
from vmthaw.cli._demo.recording import Recording
from vmthaw.cli._demo.result import Result
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
    """The ways in their order, and what the first of them leaves for the second: the working set."""

    def __init__(self, output: Path | None) -> None:
        self.working_set: WorkingSet | None = None
        self.recordings = {name: Recording(output, stem, name) for name, stem in ((FIRST, "first"), (SECOND, "second"))}

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
        with FileSource(guest.memory_path) as source:
            recording = self.recordings[FIRST]
            _through_vmthaw(source, None, recording, plan, guest, result, progress)
        assert recording.records is not None
        # Around a fault the default plan fills what it takes for a stream: touched, most of it, without a fault.
        self.working_set = WorkingSet.from_trace(recording.records, include=("demand", "fault_around"))

    def _second(self, plan: Plan, guest: Guest, result: Result, progress: Progress) -> None:
        with FileSource(guest.memory_path) as source:
            recording = self.recordings[SECOND]
            _through_vmthaw(source, self.working_set, recording, plan, guest, result, progress)


def mutant_way(mutant: Mutant) -> Way:
    """A page server that is wrong on purpose: its result must not be verified."""

    def run(plan: Plan, guest: Guest, result: Result, progress: Progress) -> None:
        with FileSource(guest.memory_path) as file:
            wrong = guest.mutate(mutant, file)
            if isinstance(wrong, dict):
                _through_textbook(wrong, plan, guest, result, progress)
            else:
                _through_vmthaw(wrong, None, Recording(None, mutant, mutant), plan, guest, result, progress)

    return Way(f"mutant: {mutant}", "wrong", run)


def _through_vmthaw(
    source: PageSource,
    working_set: WorkingSet | None,
    recording: Recording,
    plan: Plan,
    guest: Guest,
    result: Result,
    progress: Progress,
) -> None:
    # The VM goes first, also at Ctrl-C: a server whose VM lives drains it.
    with (
        PageServer(plan.socket_path, source, working_set=working_set) as server,
        recording.of(server),
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
