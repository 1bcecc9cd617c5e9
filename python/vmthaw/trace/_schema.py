"""The table of faults: its columns, and the words for the core's numbers (`vmthaw._core.fault_record_dtype()`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmthaw import _core
from vmthaw.errors import TraceError
from vmthaw.trace._columns import Column, Given, Number, Records, Words, arrow
from vmthaw.trace._table import Table

SCHEMA_VERSION = 1

# Words in the order of the core's numbers (src/trace/fault_record.hpp).
KINDS = ("demand", "fault-around", "prefetch", "pre-warm", "remove")
PAGE_CLASSES = ("data", "zero", "removed")
OUTCOMES = ("installed", "present", "deferred", "failed")
SOURCES = ("none", "zero", "mapped", "file", "network", "python")
_FLAG_NAMES = ("write", "write-protect", "minor")
FLAGS = tuple("+".join(name for bit, name in enumerate(_FLAG_NAMES) if value >> bit & 1) for value in range(8))

DEMAND, FAULT_AROUND, PREFETCH, PREWARM, REMOVE = range(5)
INSTALLED, PRESENT, DEFERRED, FAILED = range(4)
DATA, ZERO, REMOVED = range(3)

TIME_LIMIT = 1 << 62  # of CLOCK_MONOTONIC in ns
ADDRESS_LIMIT = 1 << 61


@dataclass(frozen=True)
class PageSize(Column):
    """In bytes; the record has its logarithm."""

    @property
    def type(self) -> Any:
        return arrow().uint64()

    def encode(self, records: Records) -> Any:
        return arrow().array(np.uint64(1) << records["page_size_log2"].astype(np.uint64))

    def decode(self, column: Any, records: Records) -> None:
        values = column.to_numpy()
        for size in np.unique(values).tolist():
            if size & (size - 1) or not 4096 <= size <= 1 << 30:
                raise TraceError(f"column {self.name} holds {size}: it must be a power of two from 4096 to 1 GiB")
            records["page_size_log2"][values == size] = size.bit_length() - 1


# The order is that of the specification of traces.
FAULTS = Table(
    name="faults",
    title="fault trace",
    version=SCHEMA_VERSION,
    columns=(
        Number("t_fault_ns", "uint64", limit=TIME_LIMIT),
        Number("t_fetched_ns", "uint64", null="zero", limit=TIME_LIMIT),
        Number("t_installed_ns", "uint64", null="zero", limit=TIME_LIMIT),
        Number("session", "uint32"),
        Number("region", "uint16"),
        Number("offset", "uint64", limit=ADDRESS_LIMIT),
        Number("guest_address", "uint64", limit=ADDRESS_LIMIT),
        PageSize("page_size"),
        Number("pages", "uint32", limit=1 << 30),
        Words("flags", FLAGS),
        Number("tid", "int32", null="zero"),
        Given("vcpu", "uint16"),
        Words("kind", KINDS),
        Words("page_class", PAGE_CLASSES),
        Words("source", SOURCES),
        Number("layer", "uint8"),
        Words("outcome", OUTCOMES),
        Number("handler", "uint16"),
    ),
    dtype=_core.fault_record_dtype,
)
COLUMNS = FAULTS.names


def vcpu_column(tids: NDArray[np.int32], vcpus: Mapping[int, int]) -> Any:
    """`vcpus` says which thread (tid) was which vCPU; others, and what has no thread, are null."""
    numbers = np.zeros(len(tids), dtype=np.uint16)
    unknown = np.ones(len(tids), dtype=bool)
    for tid, vcpu in vcpus.items():
        found = (tids == tid) & (tids != 0)
        numbers[found] = vcpu
        unknown[found] = False
    return arrow().array(numbers, mask=unknown)
