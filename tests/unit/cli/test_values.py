"""Sizes, addresses and owners as people write them."""

from __future__ import annotations

import os
import pwd

import click
import pytest

from vmthaw._sizes import parse_size
from vmthaw.cli._values import Address, Owner, User, format_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("512MiB", 512 << 20),
        ("512mib", 512 << 20),
        ("2G", 2 << 30),
        ("64k", 64 << 10),
        ("64KB", 64 << 10),
        ("1.5 GiB", 3 << 29),
        ("1TiB", 1 << 40),
        ("100B", 100),
        ("0", 0),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.3", "12 parsecs", "0x10", "1e3", "1MiBs", "½G", "0.0001k"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"), (1 << 50, "1024.0 TiB")]
)
def test_sizes_are_written_shortly(size: int, text: str) -> None:
    assert format_size(size) == text


def test_addresses_are_decimal_or_hexadecimal() -> None:
    assert Address().convert("0x1000", None, None) == 4096
    assert Address().convert("4096", None, None) == 4096
    for text in ("-1", "10000000000000000000000", "kernel", ""):
        with pytest.raises(click.BadParameter, match="not an address"):
            Address().convert(text, None, None)


def test_owners_are_names_or_numbers() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    assert Owner().convert("1000:1001", None, None) == (1000, 1001)
    assert Owner().convert("1000", None, None) == (1000, None)
    assert Owner().convert(":1001", None, None) == (None, 1001)
    assert Owner().convert(name, None, None) == (os.getuid(), None)
    assert User().convert(name, None, None) == os.getuid()
    for text, match in [("", "empty"), (":", "empty"), ("no-such-user", "no user"), ("0:no-such-group", "no group")]:
        with pytest.raises(click.BadParameter, match=match):
            Owner().convert(text, None, None)
