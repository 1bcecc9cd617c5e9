"""What a lazily restored machine tells the page server: word for word what Firecracker sends."""

from __future__ import annotations

import json

from vmthaw import _core
from vmthaw._lazy_memory import handover_text
from vmthaw.machine import GuestMemory

GIB = 1 << 30


def test_a_small_memory_is_one_region() -> None:
    memory = GuestMemory.anonymous(8 << 20)
    (region,) = json.loads(handover_text(memory))
    assert region == {
        "base_host_virt_addr": memory.regions[0][0],
        "size": 8 << 20,
        "offset": 0,
        "page_size": 4096,
        "page_size_kib": 4096,
    }


def test_memory_above_3_gib_is_a_second_region_whose_offset_knows_no_gap() -> None:
    memory = GuestMemory.anonymous(5 * GIB)
    regions = _core.parse_handover_message(handover_text(memory))
    (low, _, _, _), (high, _, _, _) = memory.regions
    assert regions == [(low, 3 * GIB, 0, 4096), (high, 2 * GIB, 3 * GIB, 4096)]
