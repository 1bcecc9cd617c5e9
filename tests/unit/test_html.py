"""What notebooks show of the core's objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmthaw import FileSource, PagerStats, PageServer
from vmthaw.testing import FakeVmm, write_memory_file


def test_counters_are_shown_as_a_table() -> None:
    shown = PagerStats()._repr_html_()
    assert shown.startswith("<p><b>PagerStats</b></p><table>")
    assert "<tr><th>faults</th><td>0</td></tr>" in shown
    assert "a fault took" not in shown, "there was none"


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_session_shows_who_it_is_and_its_counters(tmp_socket: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    write_memory_file(memory, 1 << 20, seed=5)
    with FileSource(memory) as source, PageServer(tmp_socket, source) as server:
        with FakeVmm(memory) as vmm:
            vmm.handover(tmp_socket)
            vmm.touch([3]).check()
            (session,) = server.sessions
            shown = session._repr_html_()
            assert f"<td>pid {vmm.pid} (number {session.id})</td>" in shown
            assert "<td>serving</td>" in shown
            assert "<td>1 MiB in 1 region(s)</td>" in shown
            assert f"<td>{session.stats.faults:,}</td>" in shown
            assert "a fault took" in shown
        server.wait(10)
        assert "<td>closed: vm exited</td>" in session._repr_html_()
        assert "<th>pages installed</th>" in server.stats._repr_html_()
