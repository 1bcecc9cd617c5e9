"""The columns of a fault trace, and the way between numpy records (the core's) and Arrow (the file's).

In the file, what did not happen or is not known is null, and enumerations are words. In numpy records it is 0 and the
core's numbers, as `vmthaw._core.fault_record_dtype()` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vmthaw import _core
from vmthaw._extras import need
from vmthaw.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION = 1

Records = NDArray[np.void]

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

_WORDS = {"flags": FLAGS, "kind": KINDS, "page_class": PAGE_CLASSES, "source": SOURCES, "outcome": OUTCOMES}
_NULL_IS_ZERO = ("t_fetched_ns", "t_installed_ns", "tid")
# Column: type in the file. The order is that of the specification of traces.
_COLUMNS = (
    ("t_fault_ns", "uint64"), ("t_fetched_ns", "uint64"), ("t_installed_ns", "uint64"), ("session", "uint32"),
    ("region", "uint16"), ("offset", "uint64"), ("guest_address", "uint64"), ("page_size", "uint64"),
    ("pages", "uint32"), ("flags", "words"), ("tid", "int32"), ("vcpu", "uint16"), ("kind", "words"),
    ("page_class", "words"), ("source", "words"), ("layer", "uint8"), ("outcome", "words"), ("handler", "uint16"),
)  # fmt: skip
_LIMITS = {
    "t_fault_ns": 1 << 62, "t_fetched_ns": 1 << 62, "t_installed_ns": 1 << 62,
    "offset": 1 << 61, "guest_address": 1 << 61, "pages": 1 << 30,
}  # fmt: skip
COLUMNS = tuple(name for name, _ in _COLUMNS)


def arrow() -> Any:
    """Pyarrow, or MissingExtraError."""
    return need("pyarrow", "analysis")


def dtype() -> np.dtype[np.void]:
    """The numpy dtype of a record."""
    return _core.fault_record_dtype()


def empty_records() -> Records:
    """None at all."""
    return np.empty(0, dtype=dtype())


def file_schema(metadata: Mapping[bytes, bytes] | None = None) -> Any:
    """The Arrow schema of a trace file."""
    pa = arrow()
    words = pa.dictionary(pa.int8(), pa.string())
    fields = [
        pa.field(name, words if kind == "words" else getattr(pa, kind)(), nullable=name in (*_NULL_IS_ZERO, "vcpu"))
        for name, kind in _COLUMNS
    ]
    return pa.schema(fields, metadata=metadata)


def _vcpu_column(tids: NDArray[np.int32], vcpus: Mapping[int, int]) -> Any:
    pa = arrow()
    numbers = np.zeros(len(tids), dtype=np.uint16)
    unknown = np.ones(len(tids), dtype=bool)
    for tid, vcpu in vcpus.items():
        found = tids == tid
        numbers[found] = vcpu
        unknown[found] = False
    return pa.array(numbers, mask=unknown)


def to_batch(records: Records, schema: Any, vcpus: Mapping[int, int] | None = None) -> Any:
    """A record batch. `vcpus` says which thread (tid) was which vCPU; without it every vCPU is null."""
    pa = arrow()
    columns = []
    for name, kind in _COLUMNS:
        if name == "vcpu":
            columns.append(_vcpu_column(records["tid"], {tid: n for tid, n in (vcpus or {}).items() if tid != 0}))
        elif name == "page_size":
            columns.append(pa.array(np.uint64(1) << records["page_size_log2"].astype(np.uint64)))
        elif kind == "words":
            words = _WORDS[name]
            numbers = records[name].astype(np.int8)
            if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(words):
                raise TraceError(f"a record's {name} is {int(numbers.max())}: newer than this version of vmthaw knows")
            columns.append(pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(words)))
        else:
            values = np.ascontiguousarray(records[name])
            columns.append(pa.array(values, mask=values == 0 if name in _NULL_IS_ZERO else None))
    return pa.record_batch(columns, schema=schema)


def _numbers_of(column: Any, name: str) -> NDArray[np.uint8]:
    """The core's numbers of a column of words, which may come as dictionary or as plain strings."""
    pa = arrow()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    parts = []
    for chunk in column.chunks:
        table = np.zeros(max(1, len(chunk.dictionary)), dtype=np.uint8)
        used = np.unique(chunk.indices.to_numpy(zero_copy_only=False))
        for index in used:
            word = chunk.dictionary[int(index)].as_py()
            if word not in _WORDS[name]:
                raise TraceError(f"column {name} holds {word!r:.60}; known are {', '.join(map(repr, _WORDS[name]))}")
            table[index] = _WORDS[name].index(word)
        parts.append(table[chunk.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)


def to_records(table: Any) -> Records:
    """The numpy records of an Arrow table that `check_table` has passed. Raises TraceError that names the column."""
    records = np.zeros(table.num_rows, dtype=dtype())
    for name, kind in _COLUMNS:
        column = table.column(name)
        if name == "vcpu":
            continue  # the core's record has none
        if kind == "words":
            records[name] = _numbers_of(column, name)
            continue
        values = column.fill_null(0).to_numpy()
        if name == "page_size":
            records["page_size_log2"] = _log2(values)
        else:
            _check_range(name, values)
            records[name] = values
    return records


def _check_range(name: str, values: NDArray[Any]) -> None:
    """So that no sum of ours overflows."""
    if name in _LIMITS and len(values) and int(values.max()) >= _LIMITS[name]:
        raise TraceError(f"column {name} holds {int(values.max())}; it must be less than {_LIMITS[name]}")


def _log2(page_sizes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    logs = np.zeros(len(page_sizes), dtype=np.uint8)
    for size in np.unique(page_sizes).tolist():
        if size & (size - 1) or not 4096 <= size <= 1 << 30:
            raise TraceError(f"column page_size holds {size}: it must be a power of two from 4096 to 1 GiB")
        logs[page_sizes == size] = size.bit_length() - 1
    return logs


def check_table(table: Any, where: str) -> Any:
    """The table with exactly the columns of a trace. Raises TraceError that names what is wrong."""
    pa = arrow()
    wanted = file_schema()
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise TraceError(f"{where} is no fault trace: it has no column {', '.join(missing)}")
    table = table.select(list(COLUMNS))
    for field in wanted:
        column = table.column(field.name)
        is_words = pa.types.is_dictionary(field.type)
        found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(found) if is_words else column.type == field.type):
            raise TraceError(f"{where}: column {field.name} is {column.type}; it must be {field.type}")
        if column.null_count and not field.nullable:
            raise TraceError(f"{where}: column {field.name} has {column.null_count} nulls; it may have none")
    return table
