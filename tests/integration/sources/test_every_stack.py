"""Whatever sources are stacked upon each other, and whatever a guest does: it reads what a byte array says.

VMTHAW_STACK_SECONDS=600 pytest tests/integration/sources/test_every_stack.py     long
VMTHAW_STACK_SEED=17 pytest tests/integration/sources/test_every_stack.py         one memory again
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.support import memory_stack
from tests.support.known_guest import KnownGuest
from tests.support.layer_writer import LayerWriter
from tests.support.memory_stack import MemoryStack
from vmthaw import FillMode, PagerConfig, PageServer, WorkingSet, WorkingSetMode
from vmthaw.source import LayeredMapping
from vmthaw.testing import FakeVmm
from vmthaw.testing._host import ChildProcess

SECONDS = float(os.environ.get("VMTHAW_STACK_SECONDS", "5"))
SEED = os.environ.get("VMTHAW_STACK_SEED")
HUGE = 2 << 20
MOST_HUGE_PAGES = 4
MOST_GUESTS = 3
FOLDERS = [None, "/dev/shm"]  # a disk's file system, and one in memory
pytestmark = pytest.mark.timeout(SECONDS * 3 + 60)


@pytest.fixture(autouse=True)
def _needs(userfaultfd_available: None) -> None:
    """Every test here serves real faults."""


def random_config(chance: random.Random) -> PagerConfig:
    return PagerConfig(
        fill_mode=chance.choice(list(FillMode)),
        fill_bytes=chance.choice([8 << 10, 64 << 10, HUGE]),
        working_set_mode=chance.choice(list(WorkingSetMode)),
        max_in_flight=chance.choice([64, 4096]),
    )


def restore(chance: random.Random, stack: MemoryStack, page_size: int, host: ChildProcess, number: int) -> None:
    """One guest, from the stack as it is; the memory that it leaves is on top of the stack afterwards."""
    memory = stack.folder / "memory"
    memory.write_bytes(stack.model)
    pages = [number * page_size for number in range(len(stack.model) // page_size)]
    working_set = WorkingSet(chance.sample(pages, chance.randrange(len(pages)))) if chance.random() < 0.3 else None
    socket = stack.folder / "s"
    config = random_config(chance)
    stack.story.append(f"restore ({config.fill_mode.name}, {config.fill_bytes}, {config.working_set_mode.name})")
    with (
        PageServer(socket, stack.source, config=config, working_set=working_set) as server,
        KnownGuest(chance, memory, stack.model, page_size, host, number) as guest,
    ):
        guest.vmm.handover(socket)
        if chance.random() < 0.15:  # removals beside touches: FakeVmm knows by itself what is right
            stack.story.append("storm")
            guest.vmm.storm(30, max_pages=8, threads=3, seed=chance.randrange(99)).check()
            return
        stack.story.extend(guest.play(chance.randrange(1, 8)))
        guest.check_all()
        assert server.stats.failed == 0
        stack.become(guest.model)


@contextlib.contextmanager
def fake_vmm_host() -> Iterator[ChildProcess]:
    """One process for all guests of a memory: it takes longer to start than they live."""
    host = ChildProcess()
    try:
        yield host
    finally:
        host.kill()


@contextlib.contextmanager
def told(seed: int, stack: MemoryStack) -> Iterator[None]:
    """A failure says how the memory came about, and how to have it again."""
    try:
        yield
    except Exception as error:
        lines = "\n  ".join(stack.story)
        raise AssertionError(f"VMTHAW_STACK_SEED={seed} has it again: {error}\n  {lines}") from error


def play(seed: int, page_size: int) -> MemoryStack:
    """A memory, its layers and its guests."""
    chance = random.Random(seed)
    size = page_size * (chance.randrange(1, MOST_HUGE_PAGES) if page_size == HUGE else chance.randrange(2, 150))
    with (
        tempfile.TemporaryDirectory(prefix="vmt-", dir=chance.choice(FOLDERS)) as folder,
        fake_vmm_host() as host,
        MemoryStack(chance, Path(folder), size) as stack,
        told(seed, stack),
    ):
        for number in range(chance.randrange(1, MOST_GUESTS + 1)):
            for _ in range(chance.randrange(1, 4)):
                stack.grow()
            restore(chance, stack, page_size, host, number)
        if stack.source.read(0, size) != stack.model:
            raise AssertionError("read from beginning to end, the source gives other bytes")
    return stack


def play_on(page_size: int, seconds: float, seed: int | None = None) -> None:
    """Memory after memory, and what was in them, for whoever reads the output."""
    kinds: Counter[str] = Counter()
    if seed is None:
        seed = int(SEED or random.SystemRandom().randrange(1 << 32))
    end = time.monotonic() + seconds
    while True:
        kinds.update(step.split(" ")[0] for step in play(seed, page_size).story)
        kinds["memories"] += 1
        seed += 1
        if SEED or time.monotonic() > end:
            break
    print(f"pages of {page_size}: {dict(sorted(kinds.items()))}")


def test_a_guest_reads_what_the_model_says() -> None:
    play_on(4096, SECONDS)


def test_a_guest_reads_what_the_model_says_of_so_many_runs_that_a_table_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_stack, "SPREAD_SHARE", 0.9)
    play_on(4096, SECONDS / 3)


def test_a_guest_with_huge_pages_reads_what_the_model_says(hugetlb_pages: Callable[[int], int]) -> None:
    # The process of a guest that was closed gives its pages back a moment later than the next one wants some.
    hugetlb_pages(MOST_GUESTS * MOST_HUGE_PAGES)
    play_on(HUGE, SECONDS / 2)


def wrong_byte(patch: pytest.MonkeyPatch) -> None:
    """One bit of one page of some file."""
    write = MemoryStack._write

    def write_wrong(stack: MemoryStack, path: Path, pages: Iterable[int]) -> Path:
        written = list(pages)
        write(stack, path, written)
        if written:
            content = bytearray(path.read_bytes())
            content[4096 * stack.chance.choice(written) + 77] ^= 4
            with path.open("r+b") as file:
                file.write(content)
        return path

    patch.setattr(MemoryStack, "_write", write_wrong)


def block_too_far(patch: pytest.MonkeyPatch) -> None:
    """One mapping of a header points at the block before the one that it means."""
    mappings = LayerWriter.mappings

    def wrong_mappings(writer: LayerWriter) -> tuple[LayeredMapping, ...]:
        rows = list(mappings(writer))
        wrong = next((i for i, row in enumerate(rows) if row.storage >= writer.block), None)
        if wrong is not None:
            rows[wrong] = rows[wrong]._replace(storage=rows[wrong].storage - writer.block)
        return tuple(rows)

    patch.setattr(LayerWriter, "mappings", wrong_mappings)
    patch.setattr(MemoryStack, "grow", MemoryStack.layered)


def lost_remove(patch: pytest.MonkeyPatch) -> None:
    """The guest gives pages back, and nothing becomes of it."""
    patch.setattr(FakeVmm, "remove", lambda vmm, *_, **options: vmm.touch([], **options))


def stale_cache(patch: pytest.MonkeyPatch) -> None:
    """Chunks on disk are taken for those of another memory."""

    def grow(stack: MemoryStack) -> None:
        stack.diffs()
        stack.cached_on_disk(4 * 4096, 0, "always the same")

    patch.setattr(MemoryStack, "grow", grow)


@pytest.mark.parametrize("break_it", [wrong_byte, block_too_far, lost_remove, stale_cache])
def test_a_mistake_is_noticed(break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    with pytest.raises(AssertionError, match=r"which must be|hold the wrong bytes|gives other bytes"):
        play_on(4096, 30, seed=1)
