"""The text, held against prometheus_client's parsers and against what the VMs saw."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from vmthaw import FileSource, PagerConfig, PageServer, PythonSource, metrics
from vmthaw.testing import FakeVmm, write_memory_file

pytestmark = pytest.mark.usefixtures("userfaultfd_available")
SIZE = 2 << 20
PAGES = SIZE // 4096


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    write_memory_file(tmp_path / "mem", SIZE, zero_share=0.25)
    return tmp_path / "mem"


def parsed(text: str) -> dict[str, Metric]:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.endswith("\n")
    assert all(family.documentation and family.type != "unknown" for family in families.values())
    return families


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == f"vmthaw_{name}" and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


@pytest.fixture
def served(memory: Path, tmp_socket: Path) -> Iterator[PageServer]:
    with PageServer(tmp_socket, FileSource(memory)) as server:
        yield server


def test_a_server_without_a_vm_has_every_series_at_zero(served: PageServer) -> None:
    families = parsed(served.metrics())
    assert value(families, "sessions_total") == 0
    assert value(families, "faults_total") == 0
    assert value(families, "fault_latency_seconds_count") == 0
    assert value(families, "fault_latency_seconds_bucket", le="+Inf") == 0
    assert value(families, "build_info") == 1
    assert {sample.value for sample in families["vmthaw_live_sessions"].samples} == {0.0}


def test_the_figures_are_those_of_the_vm(served: PageServer, memory: Path) -> None:
    with FakeVmm(memory) as vm:
        vm.handover(served.socket_path)
        vm.touch("random").check()
        families = parsed(served.metrics())
        stats = served.stats
        assert value(families, "live_sessions", state="serving") == 1
        assert value(families, "installed_pages_total") == stats.installed == PAGES
        assert value(families, "zero_pages_total") == stats.zero > 0
        assert value(families, "source_bytes_total") == stats.source_bytes > 0
        assert value(families, "faults_total") == stats.faults


def test_the_histogram_is_cumulative_and_adds_up(served: PageServer, memory: Path) -> None:
    with FakeVmm(memory) as vm:
        vm.handover(served.socket_path)
        touched = vm.touch("random").check()
    families = parsed(served.metrics())
    samples = families["vmthaw_fault_latency_seconds"].samples
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    assert [bound for bound, _ in buckets] == sorted(bound for bound, _ in buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert buckets[-1][0] == float("inf")
    count, total = value(families, "fault_latency_seconds_count"), value(families, "fault_latency_seconds_sum")
    assert buckets[-1][1] == count > 0
    # The sum is exact; each observation lies between its bucket's bounds.
    lower = upper = 0.0
    before = (0.0, 0.0)
    for bound, seen in buckets:
        lower += (seen - before[1]) * before[0]
        upper += (seen - before[1]) * (bound if bound != float("inf") else 3600.0)
        before = (bound, seen)
    assert lower <= total <= upper
    assert total <= touched.duration_ns / 1e9 * 2 + 1
    bounds, counts = served.stats.latency_histogram()
    for bound, seen in buckets[:-1]:
        at_most = sum(int(c) for b, c in zip(bounds, counts, strict=True) if int(b) <= bound * 1e9 + 0.5)
        assert seen == at_most


def test_counters_survive_the_sessions_that_are_forgotten(memory: Path, tmp_socket: Path) -> None:
    """A server keeps the last 64 ended sessions; their sums must not go with them."""
    with PageServer(tmp_socket, FileSource(memory)) as server:
        last = 0.0
        for round_ in range(3):
            with FakeVmm.many(30, memory, size=4096 * 4) as host:
                for vm in host.vms:
                    vm.handover(tmp_socket)
                    vm.touch("sequential").check()
            eventually(lambda: not server.sessions)
            families = parsed(server.metrics())
            installed = value(families, "installed_pages_total")
            assert installed == 4 * 30 * (round_ + 1)
            assert value(families, "sessions_total") == 30 * (round_ + 1)
            assert installed > last
            last = installed
        assert len(server.ended_sessions) == 64


def test_failures_are_counted_beyond_those_that_are_kept(memory: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, FileSource(memory)) as server:
        import socket

        for number in range(260):
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(tmp_socket))
                link.sendall(b"nonsense")
                eventually(lambda number=number: server.totals.refused == number + 1)  # type: ignore[misc]
        assert len(server.failures) == 256
        assert value(parsed(server.metrics()), "refused_handovers_total") == 260


def test_a_failed_vm_is_counted(memory: Path, tmp_socket: Path) -> None:
    def read(_offset: int, _size: int) -> bytes:
        raise OSError(5, "no")

    with (
        PageServer(tmp_socket, PythonSource(read, SIZE), config=PagerConfig(retries=0)) as server,
        FakeVmm(memory) as vm,
    ):
        vm.handover(tmp_socket)
        vm.start_touch([3])
        eventually(lambda: not vm.alive)
        eventually(lambda: server.totals.failed)
        families = parsed(server.metrics())
        assert value(families, "failed_sessions_total") == 1
        assert value(families, "failed_faults_total") >= 1


def test_labels_are_escaped_and_servers_told_apart(memory: Path, tmp_socket: Path) -> None:
    odd = tmp_socket.with_name('a"b\\c\nd,e="f"} 1')
    with PageServer(odd, FileSource(memory)) as one, PageServer(tmp_socket, FileSource(memory)) as two:
        families = parsed(metrics.render([one, two]))
        assert {sample.labels["server"] for sample in families["vmthaw_faults"].samples} == {str(odd), str(tmp_socket)}
        assert value(families, "faults_total", server=str(odd)) == 0


def test_live_vms_are_told_apart_if_asked_for(served: PageServer, memory: Path) -> None:
    with FakeVmm(memory) as one, FakeVmm(memory) as two:
        for vm in (one, two):
            vm.handover(served.socket_path)
            vm.touch([1]).check()
        families = parsed(metrics.render(served, per_vm=True))
        assert {sample.labels["vm"] for sample in families["vmthaw_vm_faults"].samples} == {
            f"pid {one.pid}",
            f"pid {two.pid}",
        }
        assert "vmthaw_vm_faults" not in parsed(metrics.render(served))


def test_a_stopped_server_still_tells_its_sums(memory: Path, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, FileSource(memory)) as server, FakeVmm(memory) as vm:
        vm.handover(tmp_socket)
        vm.touch("sequential").check()
        server.stop("drain")
        assert value(parsed(server.metrics()), "installed_pages_total") == PAGES
