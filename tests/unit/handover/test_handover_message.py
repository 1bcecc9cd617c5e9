"""The hand-over message, as Python sees its parser. The odd cases one by one are in tests/core."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from vmthaw import _core
from vmthaw.errors import HandoverError, VmthawError


def region(**changes: Any) -> dict[str, Any]:
    return {"base_host_virt_addr": 0x7F00_0000_0000, "size": 8192, "offset": 0, "page_size": 4096} | changes


def refused(message: object) -> HandoverError:
    with pytest.raises(HandoverError) as caught:
        _core.parse_handover_message(message if isinstance(message, str | bytes) else json.dumps(message))
    assert isinstance(caught.value, VmthawError)
    return caught.value


def parsed(message: bytes) -> tuple[list[tuple[int, int, int, int]], str]:
    try:
        return _core.parse_handover_message(message), ""
    except HandoverError as error:
        return [], str(error)


def test_message_becomes_regions() -> None:
    message = json.dumps([region(), region(base_host_virt_addr=0x8000_0000_0000, offset=8192)])
    assert _core.parse_handover_message(message) == [
        (0x7F00_0000_0000, 8192, 0, 4096),
        (0x8000_0000_0000, 8192, 8192, 4096),
    ]
    assert _core.parse_handover_message(message.encode()) == _core.parse_handover_message(message)


def test_old_field_name_means_bytes_too() -> None:
    message = [region()]
    del message[0]["page_size"]
    message[0]["page_size_kib"] = 2097152
    assert _core.parse_handover_message(json.dumps(message))[0][3] == 2097152


@pytest.mark.parametrize("field", ["base_host_virt_addr", "size", "offset", "page_size"])
def test_missing_field_is_named(field: str) -> None:
    message = [region(), region(), region()]
    del message[2][field]
    error = refused(message)
    assert error.field == f"regions[2].{field}"
    assert error.field in str(error)


@pytest.mark.parametrize("value", [-1, 1.5, 1e300, 2**64, "4096", None, True, [1], {"size": 1}])
@pytest.mark.parametrize("field", ["base_host_virt_addr", "size", "offset", "page_size"])
def test_anything_but_an_unsigned_integer_is_refused(field: str, value: object) -> None:
    assert refused([region(**{field: value})]).field == f"regions[0].{field}"


def test_contradicting_page_sizes_are_refused() -> None:
    assert refused([region(page_size_kib=4)]).field == "regions[0].page_size_kib"


def test_bytes_that_are_no_text_are_refused() -> None:
    assert refused(b"\xff\xfe[]").field == ""
    assert refused(b'[{"size": "\xff"}]')


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_refused_or_harmless(seed: int) -> None:
    rng = random.Random(seed)
    good = json.dumps([region(), region(base_host_virt_addr=0x8000_0000_0000)]).encode()
    for _ in range(500):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        regions, problem = parsed(bytes(damaged))
        assert problem.isprintable()
        assert all(size > 0 and start + size < 2**64 for start, size, _, _ in regions)


def test_every_proper_prefix_is_incomplete() -> None:
    message = json.dumps([region(x=["]", "}", '"', {"y": []}])])
    assert all(_core.handover_message_is_incomplete(message[:length]) for length in range(len(message)))
    assert not _core.handover_message_is_incomplete(message)
