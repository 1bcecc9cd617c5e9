"""Where metrics may be had."""

from __future__ import annotations

import pytest

from vmthaw.errors import VmthawValueError
from vmthaw.metrics import parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9100", ("127.0.0.1", 9100)),
        ("127.8.9.1:0", ("127.8.9.1", 0)),
        ("localhost:65535", ("127.0.0.1", 65535)),
        ("[::1]:9100", ("::1", 9100)),
        ("unix:/run/m.sock", "/run/m.sock"),
    ],
)
def test_an_address_of_this_machine_is_taken(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["0.0.0.0:9100", "[::]:9100", "192.168.1.4:80", "[2001:db8::1]:1"])
def test_an_address_that_others_reach_is_refused_unless_allowed(text: str) -> None:
    with pytest.raises(VmthawValueError, match=r"reached from other machines, .* without asking for a password"):
        parse_address(text)
    assert parse_address(text, allow_remote=True)[1] > 0  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["", "9100", ":9100", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "unix:",
             "example.org:80", "127.0.0.1:9\u0661", "[::1:80"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(VmthawValueError, match=r"no address|needs a path|no IP address"):
        parse_address(text, allow_remote=True)
