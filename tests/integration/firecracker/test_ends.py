"""However the process that serves a VM ends, the VM ends with it; and the README's example runs as it stands."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.firecracker.support import alive
from tests.support import tree
from tests.support.eventually import eventually
from vmthaw.testing import FirecrackerDouble, write_double_snapshot

RUN = """
import sys, threading
from vmthaw import FileSource
from vmthaw.firecracker import Firecracker
from vmthaw.firecracker import _guard

vm = Firecracker(sys.argv[1]).start()
vm.load_snapshot(sys.argv[2], FileSource(sys.argv[3]))
print(vm.pid, _guard.guard.pid, flush=True)
"""


@contextlib.contextmanager
def started(
    double: FirecrackerDouble, snapshot: tuple[Path, Path], then: str
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A process that serves a VM and goes on with `then`: it, the VM's pid and the guard's. All are gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN + textwrap.dedent(then), str(double.firecracker), *map(str, snapshot)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise AssertionError(process.communicate(timeout=10)[1])
            vm, guard = map(int, line.split())
            yield process, vm, guard
        finally:
            process.kill()
    eventually(lambda: not alive(vm) and not alive(guard))


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=20)[1]


def test_sigkill_of_the_server_takes_the_vm_along(double: FirecrackerDouble, snapshot: tuple[Path, Path]) -> None:
    with started(double, snapshot, "threading.Event().wait()") as (process, vm, _guard):
        folder = Path(os.readlink(f"/proc/{vm}/cwd"))
        assert folder.name.startswith("vmthaw-fc-")
        process.kill()
        finish(process)
        eventually(lambda: not alive(vm))
        eventually(lambda: not folder.exists())


def test_a_killed_guard_is_replaced_and_knows_everybody(double: FirecrackerDouble, snapshot: tuple[Path, Path]) -> None:
    then = """
    import os, signal
    os.kill(_guard.guard.pid, signal.SIGKILL)
    while not _guard.ended(_guard.guard._pidfd):
        pass
    other = Firecracker(sys.argv[1]).start()
    print(other.pid, _guard.guard.pid, flush=True)
    threading.Event().wait()
    """
    with started(double, snapshot, then) as (process, vm, guard):
        assert process.stdout is not None
        other, second_guard = map(int, process.stdout.readline().split())
        assert second_guard != guard
        assert alive(vm)
        process.kill()
        finish(process)
        eventually(lambda: not alive(vm) and not alive(other) and not alive(second_guard))


def test_an_exit_that_forgot_it_ends_it_and_warns(double: FirecrackerDouble, snapshot: tuple[Path, Path]) -> None:
    with started(double, snapshot, "import warnings; warnings.simplefilter('always')") as (process, vm, _guard):
        errors = finish(process)
        assert process.returncode == 0
        assert "ResourceWarning: <Firecracker vmthaw-" in errors
        assert not alive(vm)


def test_an_exit_in_order_has_nothing_to_warn_of(double: FirecrackerDouble, snapshot: tuple[Path, Path]) -> None:
    """The guard's socket stays open to the very end, which is how it learns of that; Python must not complain."""
    with started(double, snapshot, "import warnings; warnings.simplefilter('always'); vm.close()") as (process, _, _):
        assert finish(process) == ""


LOAD = """other.load_snapshot(sys.argv[2], PythonSource(lambda _o, _s: time.sleep(60), 4 << 20, timeout=99.0))"""


@pytest.mark.parametrize("wait", ["vm.wait()", "list(vm.watch())", LOAD])
def test_ctrl_c_ends_a_wait_and_the_vm(double: FirecrackerDouble, snapshot: tuple[Path, Path], wait: str) -> None:
    then = f"""
    import time
    from vmthaw import PythonSource
    with vm, Firecracker(sys.argv[1]) as other:
        print(other.pid, flush=True)
        {wait}
    """
    with started(double, snapshot, then) as (process, vm, _guard):
        assert process.stdout is not None
        other = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in finish(process)
        assert process.returncode == -signal.SIGINT
        assert not alive(vm)
        assert not alive(other)


def test_ctrl_c_of_a_terminal_does_not_reach_vm_and_guard(
    double: FirecrackerDouble, snapshot: tuple[Path, Path]
) -> None:
    with started(double, snapshot, "threading.Event().wait()") as (process, vm, guard):
        assert os.getsid(vm) != os.getsid(process.pid)
        assert os.getsid(guard) != os.getsid(process.pid)


def test_a_forked_child_cannot_use_or_end_it(double: FirecrackerDouble, snapshot: tuple[Path, Path]) -> None:
    then = """
    import os
    child = os.fork()
    if child == 0:
        from vmthaw.errors import ForkedError
        try:
            vm.pause()
        except ForkedError:
            vm.close()
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), vm.exit_code, vm.info()["state"], flush=True)
    vm.close()
    """
    with started(double, snapshot, then) as (process, vm, _guard):
        assert process.stdout is not None
        assert process.stdout.readline() == "7 None Running\n"
        finish(process)
        assert not alive(vm)


def readme_example() -> str:
    text = (tree.ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## With Firecracker\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    code = re.search(r"```python\n(.*?)```", section[1], re.DOTALL)
    assert code is not None
    return code[1]


def test_the_readmes_example_runs_as_it_stands(double: FirecrackerDouble, tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    write_double_snapshot(tmp_path / "snapshot", 4 << 20, powers_off=True)
    example = readme_example()
    assert len(example.splitlines()) <= 25
    environment = {**os.environ, "PATH": f"{double.firecracker.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "exited: Firecracker" in done.stdout
    assert re.search(r"\d+ faults, 1024 pages", done.stdout), done.stdout
