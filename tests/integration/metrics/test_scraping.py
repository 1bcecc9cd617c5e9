"""The endpoint: well-behaved scrapers, slow ones, hostile ones, and VMs that must not notice any of them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import stat
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.cli.serving import Serving
from tests.support.eventually import eventually
from vmthaw import FileSource, PageServer
from vmthaw.errors import StateError
from vmthaw.metrics import MetricsServer
from vmthaw.testing import FakeVmm, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
SIZE = 4 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    write_memory_file(tmp_path / "mem", SIZE)
    return tmp_path / "mem"


@pytest.fixture
def page_server(memory: Path, tmp_socket: Path) -> Iterator[PageServer]:
    with PageServer(tmp_socket, FileSource(memory)) as server:
        yield server


@pytest.fixture
def scraped(page_server: PageServer) -> Iterator[MetricsServer]:
    with MetricsServer("127.0.0.1:0", page_server) as server:
        yield server


def port_of(server: MetricsServer) -> int:
    return int(server.address.rpartition(":")[2])


def connect(server: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=15)


def ask(server: MetricsServer, request: bytes) -> bytes:
    with connect(server) as link:
        link.sendall(request)
        answer = b""
        while data := link.recv(65536):
            answer += data
        return answer


def test_a_scraper_gets_the_metrics(scraped: MetricsServer) -> None:
    with urllib.request.urlopen(f"http://{scraped.address}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        names = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    assert {"vmthaw_faults", "vmthaw_fault_latency_seconds", "vmthaw_live_sessions"} <= names


def test_a_unix_socket_is_ours_alone_and_goes_away(page_server: PageServer, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    for _ in range(2):
        with MetricsServer(f"unix:{path}", page_server):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(path))
                link.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert link.recv(15) == b"HTTP/1.1 200 OK"
        assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not(page_server: PageServer, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with MetricsServer(f"unix:{path}", page_server), pytest.raises(OSError, match="Address already in use"):
        MetricsServer(f"unix:{path}", page_server).start()
    path.write_text("a file")
    with pytest.raises(OSError, match="Address already in use"):
        MetricsServer(f"unix:{path}", page_server).start()
    assert path.read_text() == "a file"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?name=x HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00 \xff\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400"),
    ],
)
def test_requests_are_answered_by_the_rules(scraped: MetricsServer, request_: bytes, status: bytes) -> None:
    answer = ask(scraped, request_)
    assert answer.split(b" ")[1] == status
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(dict(line.split(b": ") for line in head.split(b"\r\n")[1:])[b"Content-Length"])
    assert len(body) == (0 if request_.startswith(b"HEAD") else length)


def test_a_request_that_never_ends_is_cut_off(scraped: MetricsServer) -> None:
    with connect(scraped) as link, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(100):
            link.sendall(b"x" * 1000)
        assert link.recv(1) == b""


def test_slow_scrapers_are_cut_off_and_others_wait_for_them_no_longer(scraped: MetricsServer) -> None:
    idle = [connect(scraped) for _ in range(40)]  # 16 are served at a time
    try:
        began = time.monotonic()
        assert ask(scraped, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 14.5
        assert idle[0].recv(1) == b""
    finally:
        for link in idle:
            link.close()


def test_a_flood_of_scrapers_delays_no_fault_of_a_vm(
    scraped: MetricsServer, page_server: PageServer, memory: Path
) -> None:
    over = threading.Event()
    answers = 0

    def flood() -> None:
        nonlocal answers
        while not over.is_set():
            try:
                answers += ask(scraped, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")
            except OSError:
                continue

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with FakeVmm(memory) as vm:
            vm.handover(page_server.socket_path)
            assert vm.touch("random", timeout=20).check().touches == SIZE // 4096
            vm.verify(only_touched=False).check()
        eventually(lambda: answers > 20)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_an_error_while_rendering_is_a_503_and_the_next_scrape_is_well(
    scraped: MetricsServer, page_server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmthaw import metrics

    real = metrics.render
    failing = True

    def render(*arguments: object, **options: object) -> str:
        if failing:
            raise RuntimeError("for this test")
        return real(page_server)

    monkeypatch.setattr(metrics, "render", render)
    assert ask(scraped, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503")
    failing = False
    assert ask(scraped, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_closing_cuts_off_who_is_connected_and_is_idempotent(page_server: PageServer) -> None:
    server = MetricsServer("127.0.0.1:0", page_server).start()
    before = len(os.listdir("/proc/self/fd"))
    with connect(server) as link:
        server.close()
        server.close()
        with contextlib.suppress(ConnectionResetError):  # it may not have been accepted yet
            assert link.recv(1) == b""
    assert len(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(StateError):
        server.start()


def test_serve_answers_scrapers_and_says_where(memory: Path, tmp_socket: Path) -> None:
    with Serving(tmp_socket, memory, "--metrics", "127.0.0.1:0") as serving:
        address = serving.until("metrics")[0]["address"]
        with FakeVmm(memory) as vm:
            vm.handover(tmp_socket)
            vm.touch("sequential").check()
            host, _, port = address.rpartition(":")
            link = http.client.HTTPConnection(host, int(port), timeout=10)
            link.request("GET", "/metrics")
            text = link.getresponse().read().decode()
            assert f'vmthaw_installed_pages_total{{server="{tmp_socket}"}} {SIZE // 4096}\n' in text
            link.close()
        serving.signal(signal.SIGTERM)
        assert serving.wait() == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--metrics", "0.0.0.0:9100"], "say --metrics-allow-remote"),
        (["--metrics", "nonsense"], "is no address"),
        (["--metrics-allow-remote"], "needs --metrics"),
    ],
)
def test_serve_refuses_metrics_that_cannot_be_before_it_listens(
    memory: Path, tmp_socket: Path, options: list[str], text: str
) -> None:
    serving = Serving(tmp_socket, memory, *options)
    assert serving.wait() == 2
    assert text in " ".join(serving.errors)
    assert not tmp_socket.exists()
