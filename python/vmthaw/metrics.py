"""Metrics of page servers in Prometheus' text format (version 0.0.4), and a small server for scrapers.

    from vmthaw import metrics
    text = metrics.render(server)                     # for an endpoint that you have already
    with metrics.MetricsServer("127.0.0.1:9100", [server]):
        ...                                           # or for one of its own

Counters never decrease while a `PageServer` lives: they sum over all its sessions, ended ones too. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from vmthaw._metrics_server import MetricsServer, parse_address
from vmthaw._version import __version__
from vmthaw.pager import PagerStats, SessionState
from vmthaw.server import PageServer

__all__ = ["CONTENT_TYPE", "MetricsServer", "parse_address", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Bounds of the latency histogram as powers of two of nanoseconds: 1 us to 8.6 s.
_FIRST_POWER, _LAST_POWER = 10, 33

_COUNTERS = {
    "faults": ("faults_total", "Faults seen: messages of the kernel, and pre-warmed pages."),
    "prewarmed": ("prewarmed_pages_total", "Pages installed before the VM's first fault."),
    "installed": ("installed_pages_total", "Pages installed, zeros included."),
    "zero": ("zero_pages_total", "Pages installed as zeros, which cost no reading."),
    "fault_around": ("fault_around_pages_total", "Pages installed beyond the one that was asked for."),
    "populated": ("populated_pages_total", "Pages installed by background filling."),
    "prefetched": ("prefetched_pages_total", "Pages installed from a recorded working set."),
    "redundant": ("redundant_pages_total", "Pages that were there already when they were to be installed."),
    "coalesced": ("coalesced_faults_total", "Faults that joined a fill under way."),
    "retried": ("source_retries_total", "Reads of the source that were tried again."),
    "deferred": ("deferred_fills_total", "Fills that waited because an event was pending."),
    "failed": ("failed_faults_total", "Faults that ended by the failure policy."),
    "removed": ("removed_pages_total", "Pages that VMs gave back to the host."),
    "forwarded": ("foreign_faults_total", "Faults outside all regions, and unknown events."),
    "reinstalls": ("reinstalled_registrations_total", "Registrations that were lost and mended."),
    "overflowed": ("overflowed_faults_total", "Faults put back because too many were in flight."),
    "source_bytes": ("source_bytes_total", "Bytes copied from the source."),
    "events": ("events_total", "Messages of the kernel that are no faults."),
}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _sample(name: str, labels: Mapping[str, str], value: float | int) -> str:
    text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return f"vmthaw_{name}{{{text}}} {value}"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP vmthaw_{name} {about}", f"# TYPE vmthaw_{name} {kind}"]


def _histogram(stats: PagerStats, labels: Mapping[str, str]) -> Iterator[str]:
    """Durations are whole ns and the core's buckets begin at powers of two: below 2**k ns is at most 2**k - 1 ns."""
    bounds, counts = stats.latency_histogram()
    pairs = list(zip(bounds.tolist(), counts.tolist(), strict=True))
    name = "fault_latency_seconds"
    index, seen = 0, 0
    for power in range(_FIRST_POWER, _LAST_POWER + 1):
        while index < len(pairs) and pairs[index][0] < 1 << power:
            seen += pairs[index][1]
            index += 1
        yield _sample(f"{name}_bucket", {**labels, "le": repr(((1 << power) - 1) / 1e9)}, seen)
    total = seen + sum(count for _bound, count in pairs[index:])
    yield _sample(f"{name}_bucket", {**labels, "le": "+Inf"}, total)
    yield _sample(f"{name}_sum", labels, stats.latency_sum_ns / 1e9)
    yield _sample(f"{name}_count", labels, total)


def render(servers: PageServer | Iterable[PageServer], *, per_vm: bool = False) -> str:
    """The metrics of one server or several (told apart by the label ``server``, the socket) as text.

    With `per_vm` also what each live VM has cost so far, by the labels ``vm`` and ``session``: two series each, so
    think of how many there are. Any thread; takes locks for the time of copying counters, never waits for a VM.
    """
    given = [servers] if isinstance(servers, PageServer) else list(servers)
    rows = [({"server": server.socket_path}, server.totals, server.sessions) for server in given]
    lines = [*_head("build_info", "gauge", "Version of vmthaw."), _sample("build_info", {"version": __version__}, 1)]
    lines += _head("live_sessions", "gauge", "VMs that are being served, by state.")
    states = [state for state in SessionState if state is not SessionState.closed]
    for labels, _totals, sessions in rows:
        now = [session.state for session in sessions]
        lines += [_sample("live_sessions", {**labels, "state": state.name}, now.count(state)) for state in states]
    for name, about, field in (
        ("sessions_total", "VMs that have handed their memory over.", "sessions"),
        ("refused_handovers_total", "Hand-overs that were refused.", "refused"),
        ("failed_sessions_total", "VMs whose memory could not be served to the end.", "failed"),
    ):
        lines += _head(name, "counter", about)
        lines += [_sample(name, labels, getattr(totals, field)) for labels, totals, _sessions in rows]
    for attribute, (name, about) in _COUNTERS.items():
        lines += _head(name, "counter", about)
        lines += [_sample(name, labels, getattr(totals.stats, attribute)) for labels, totals, _sessions in rows]
    lines += _head("fault_latency_seconds", "histogram", "From a fault's message read to its page installed.")
    for labels, totals, _sessions in rows:
        lines += _histogram(totals.stats, labels)
    if per_vm:
        for attribute, name in (("faults", "vm_faults"), ("installed", "vm_installed_pages")):
            lines += _head(name, "gauge", "The same for one live VM.")
            for labels, _totals, sessions in rows:
                for session in sessions:
                    vm = {**labels, "vm": session.label, "session": str(session.id)}
                    lines.append(_sample(name, vm, getattr(session.stats, attribute)))
    return "\n".join(lines) + "\n"
