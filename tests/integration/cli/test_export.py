"""`vmthaw export`: serves a memory file, says where, and ends by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.eventually import PATIENCE
from vmthaw import SocketSource

Start = Callable[..., tuple["subprocess.Popen[str]", dict[str, object]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(*arguments)` gives the process and what it said when it listened."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str | Path) -> tuple[subprocess.Popen[str], dict[str, object]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "vmthaw", "export", "--json", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return process, json.loads(line)

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_serves_a_file_until_a_signal(
    number: signal.Signals, start: Start, memory_file: Path, tmp_socket: Path
) -> None:
    process, said = start(memory_file, f"unix:{tmp_socket}")
    assert said["event"] == "listening"
    assert said["size"] == memory_file.stat().st_size
    with SocketSource(str(said["address"]), memory_file.stat().st_size) as source:
        assert source.read(0, source.size) == memory_file.read_bytes()
    process.send_signal(number)
    output, errors = process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 0, errors
    stopped = json.loads(output.splitlines()[-1])
    assert (stopped["event"], stopped["reason"]) == ("stopped", number.name)
    assert stopped["pages"] == memory_file.stat().st_size // 4096
    assert not tmp_socket.exists()


def test_a_port_that_the_kernel_chose_is_told(start: Start, memory_file: Path) -> None:
    _, said = start(memory_file, "tcp:127.0.0.1:0", "--ram-start", "2GiB")
    with SocketSource(str(said["address"]), 4096, ram_start=2 << 30) as source:
        assert source.read(2 << 30, 4096) == memory_file.read_bytes()[:4096]


def test_one_server_exports_what_another_exports(start: Start, memory_file: Path, tmp_socket: Path) -> None:
    size = memory_file.stat().st_size
    _, first = start(memory_file, f"unix:{tmp_socket}")
    _, said = start(f"{first['address']}?size={size},cache:", "tcp:127.0.0.1:0")
    with SocketSource(str(said["address"]), size) as source:
        assert source.read(0, size) == memory_file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["{file}", "nowhere"], 2, "unix:/path"),
        (["{file}", "unix:{socket}", "--mode", "9"], 2, ""),
        (["{file}", "unix:{socket}", "--max-page-size", "5000"], 2, "power of two"),
        (["/nowhere/at/all", "unix:{socket}"], 3, "/nowhere/at/all"),
        (["{file}", "tcp:192.0.2.1:1"], 3, "tcp:192.0.2.1:1"),
    ],
)
def test_what_cannot_be_served_is_said(
    arguments: list[str], status: int, said: str, memory_file: Path, tmp_socket: Path
) -> None:
    words = [word.format(file=memory_file, socket=tmp_socket) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw", "export", *words],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr
