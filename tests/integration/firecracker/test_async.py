"""The same for asyncio, and cancellation at any moment."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.integration.firecracker.support import alive, open_descriptors, script
from tests.support.eventually import eventually
from vmthaw import FileSource, PythonSource
from vmthaw.errors import PageFailedError, StateError, VmthawTimeoutError
from vmthaw.firecracker import ApiRefusedError, AsyncFirecracker, FirecrackerDiedError, VmEventKind
from vmthaw.testing import FirecrackerDouble, write_double_snapshot

Snapshot = tuple[Path, Path]


def test_a_vm_lives_and_ends(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 4 << 20, powers_off=True)

    async def main() -> None:
        async with AsyncFirecracker(double.firecracker) as vm:
            await vm.load_snapshot(state, FileSource(memory))
            kinds = [event.kind async for event in vm.watch(20)]
            assert set(kinds[:2]) == {VmEventKind.connected, VmEventKind.first_fault}  # in either order
            assert kinds[2:] == [VmEventKind.closed, VmEventKind.exited]
            assert await vm.wait(0) == 0
            assert "1024 pages are right" in vm.log_tail()

    asyncio.run(main())


def test_many_vms_at_once(double: FirecrackerDouble, tmp_path: Path) -> None:
    state, memory = write_double_snapshot(tmp_path, 1 << 20, powers_off=True)
    source = FileSource(memory)

    async def one() -> str:
        async with AsyncFirecracker(double.firecracker, start_timeout=40) as vm:
            await vm.load_snapshot(state, source)
            assert await vm.wait(40) == 0
            return vm.log_tail()

    async def main() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(6)))

    assert all("256 pages are right" in tail for tail in asyncio.run(main()))


def test_pause_snapshot_resume_and_refusals(double: FirecrackerDouble, snapshot: Snapshot, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncFirecracker(double.firecracker) as vm:
            with pytest.raises(ApiRefusedError, match="before starting"):
                await vm.pause()
            await vm.load_snapshot(snapshot[0], FileSource(snapshot[1]), resume=False)
            await vm.create_snapshot(tmp_path / "s", tmp_path / "m")
            await vm.resume()
            assert (await vm.info())["state"] == "Running"
            with pytest.raises(VmthawTimeoutError):
                await vm.wait(0.05)
            await vm.request("PATCH", "/vm", {"state": "Paused"})
        with pytest.raises(StateError, match="closed"):
            await vm.info()
        assert vm.exit_code == -signal.SIGTERM

    asyncio.run(main())
    assert (tmp_path / "m").stat().st_size == 4 << 20


def test_memory_that_is_too_small_ends_the_load(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    async def main() -> None:
        async with AsyncFirecracker(double.firecracker) as vm:
            with pytest.raises(PageFailedError, match="could not be given its memory"):
                await vm.load_snapshot(snapshot[0], PythonSource(lambda _offset, size: bytes(size), 1 << 20))

    asyncio.run(main())


def test_a_binary_that_ends_at_once_is_told(tmp_path: Path) -> None:
    binary = script(tmp_path / "firecracker", "echo unlucky; exit 7")
    with pytest.raises(FirecrackerDiedError, match="unlucky"):
        asyncio.run(AsyncFirecracker(binary).start())


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.05, 0.15, 0.3])
def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, after: float) -> None:
    pids = tmp_path / "pids"
    binary = script(tmp_path / "firecracker", f"echo $$ >> {pids}; exec sleep 1000")

    async def main() -> None:
        task = asyncio.create_task(AsyncFirecracker(binary).start())
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    started = [int(line) for line in pids.read_text().split()] if pids.exists() else []
    assert not [pid for pid in started if alive(pid)]


@pytest.mark.parametrize("times", [1, 3])
def test_a_load_that_is_cancelled_ends_the_vm(double: FirecrackerDouble, snapshot: Snapshot, times: int) -> None:
    asked = asyncio.Event()
    vms: list[AsyncFirecracker] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def read(_offset: int, size: int) -> bytes:
            loop.call_soon_threadsafe(asked.set)
            eventually(lambda: not alive(vms[0].pid), 20)
            return bytes(size)

        async def run() -> None:
            async with AsyncFirecracker(double.firecracker) as vm:
                vms.append(vm)
                await vm.load_snapshot(snapshot[0], PythonSource(read, 4 << 20, timeout=30.0))

        task = asyncio.create_task(run())
        await asyncio.wait_for(asked.wait(), 20)
        for _ in range(times):  # who is impatient must not leave half of it behind
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not alive(vms[0].pid)


def test_nothing_is_left_open(double: FirecrackerDouble, snapshot: Snapshot) -> None:
    async def once() -> None:
        async with AsyncFirecracker(double.firecracker) as vm:
            await vm.load_snapshot(snapshot[0], FileSource(snapshot[1]))

    asyncio.run(once())
    before = open_descriptors()
    for _ in range(3):
        asyncio.run(once())
    eventually(lambda: open_descriptors() <= before)
