"""What systemd gives and hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vmthaw.cli._systemd import listening_descriptor, notify
from vmthaw.errors import VmthawValueError


@pytest.mark.parametrize("name", ["path", "abstract"])
def test_the_state_is_sent_to_the_socket(name: str, tmp_socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_socket) if name == "path" else f"@vmthaw-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address.replace("@", "\0"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "not an address"])
def test_without_systemd_nothing_happens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_one_socket_is_taken_and_several_need_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert listening_descriptor() is None
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert listening_descriptor() == 3
    monkeypatch.setenv("LISTEN_FDS", "2")
    with pytest.raises(VmthawValueError, match="say which one serves by --socket-fd"):
        listening_descriptor()
    monkeypatch.setenv("LISTEN_PID", "1")
    assert listening_descriptor() is None
