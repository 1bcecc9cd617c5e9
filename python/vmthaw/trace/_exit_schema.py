"""The table of vCPU exits: its columns, and the words for the core's numbers (`vmthaw._core.exit_record_dtype()`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmthaw import _core
from vmthaw.errors import TraceError
from vmthaw.trace._columns import Column, Flag, Number, Records, Words, arrow, is_text, numbers_of
from vmthaw.trace._schema import TIME_LIMIT
from vmthaw.trace._table import Table

EXITS_VERSION = 1

WRITE, HANDLER, REGISTERS = 1, 2, 4  # bits of flags (src/trace/exit_record.hpp)
NO_REASON = 0xFFFF_FFFF  # KVM_RUN failed: there was no exit, but an error
IO, MMIO = 2, 6

ACTIONS = tuple(kind.name.rstrip("_") for kind in _core.ExitActionKind)

_MOST_REASONS = 1024  # different ones in a file; KVM has a few dozen
_UNNAMED = re.compile(r"reason (0|[1-9][0-9]{0,9})")


def _named_reasons() -> tuple[str, ...]:
    names: list[str] = []
    while name := _core.exit_reason_name(len(names)):
        names.append(name)
    return tuple(names)


REASONS = _named_reasons()


def reason_name(number: int) -> str:
    """KVM's name of an exit reason; ``reason 99`` where it has none that is known, as `Exit.name` has it."""
    return REASONS[number] if number < len(REASONS) else f"reason {number}"


def reason_number(name: str) -> int | None:
    """The way back; None of a word that is no reason's."""
    if name in REASONS:
        return REASONS.index(name)
    found = _UNNAMED.fullmatch(name)
    number = int(found[1]) if found else NO_REASON
    return number if number < NO_REASON else None


@dataclass(frozen=True)
class Reason(Column):
    """KVM's name; null when KVM_RUN failed. The words that have no name join the dictionary when they occur."""

    @property
    def type(self) -> Any:
        return arrow().dictionary(arrow().int32(), arrow().string())

    @property
    def nullable(self) -> bool:
        return True

    def accepts(self, found: Any) -> bool:
        return is_text(found)

    def encode(self, records: Records) -> Any:
        pa = arrow()
        numbers = records[self.name]
        unnamed = np.unique(numbers[(numbers >= len(REASONS)) & (numbers != NO_REASON)])
        words = [*REASONS, *map(reason_name, unnamed.tolist())]
        places = np.where(numbers < len(REASONS), numbers, len(REASONS) + np.searchsorted(unnamed, numbers))
        indices = pa.array(places.astype(np.int32), mask=numbers == NO_REASON)
        return pa.DictionaryArray.from_arrays(indices, pa.array(words))

    def decode(self, column: Any, records: Records) -> None:
        numbers = numbers_of(column, self._number_of, null=NO_REASON)
        different = len(np.unique(numbers))
        if different > _MOST_REASONS:
            raise TraceError(f"column {self.name} holds {different} different reasons; {_MOST_REASONS} are allowed")
        records[self.name] = numbers

    def _number_of(self, word: Any) -> int:
        number = reason_number(word) if isinstance(word, str) else None
        if number is None:
            raise TraceError(f"column {self.name} holds {word!r:.60}; it must be a name of KVM's, or 'reason NUMBER'")
        return number


@dataclass(frozen=True)
class Register(Column):
    """A register: null in records that have none."""

    @property
    def type(self) -> Any:
        return arrow().uint64()

    @property
    def nullable(self) -> bool:
        return True

    def encode(self, records: Records) -> Any:
        return arrow().array(np.ascontiguousarray(records[self.name]), mask=~has_registers(records))

    def decode(self, column: Any, records: Records) -> None:
        records[self.name] = column.fill_null(0).to_numpy()
        known = column.is_valid().to_numpy()
        records["flags"] |= np.where(known, np.uint8(REGISTERS), np.uint8(0))

    def known(self, records: Records) -> NDArray[np.bool_] | None:
        return has_registers(records)


def has_registers(records: Records) -> NDArray[np.bool_]:
    """Records that have registers."""
    known: NDArray[np.bool_] = (records["flags"] & REGISTERS) != 0
    return known


def is_access(records: Records) -> NDArray[np.bool_]:
    """Exits with an address: port and MMIO accesses, but those whose data KVM garbled (the core leaves all of it 0)."""
    at_address = (records["reason"] == IO) | (records["reason"] == MMIO)
    known: NDArray[np.bool_] = at_address & ((records["address"] != 0) | (records["length"] != 0))
    return known


def is_failure(records: Records) -> NDArray[np.bool_]:
    """KVM_RUN failed."""
    known: NDArray[np.bool_] = records["reason"] == NO_REASON
    return known


def _check(records: Records) -> None:
    """Durations are differences of unsigned times."""
    for earlier, later in (("t_enter_ns", "t_exit_ns"), ("t_exit_ns", "t_decided_ns")):
        wrong = np.flatnonzero(records[later] < records[earlier])
        if len(wrong):
            row = int(wrong[0])
            raise TraceError(
                f"column {later} holds {records[later][row]} in row {row}, before its {earlier} {records[earlier][row]}"
            )


EXITS = Table(
    name="exits",
    title="table of exits",
    version=EXITS_VERSION,
    columns=(
        Number("t_enter_ns", "uint64", limit=TIME_LIMIT),
        Number("t_exit_ns", "uint64", limit=TIME_LIMIT),
        Number("t_decided_ns", "uint64", limit=TIME_LIMIT),
        Number("vcpu", "uint16"),
        Reason("reason"),
        Number("address", "uint64", null=is_access),
        Number("length", "uint32", null=is_access),
        Flag("write", WRITE, null=is_access),
        Register("instruction_pointer"),
        Register("stack_pointer"),
        Register("page_table_root"),
        Number("error", "int32", null=is_failure, limit=4096),
        Words("action", ACTIONS),
        Flag("handler", HANDLER),
    ),
    dtype=_core.exit_record_dtype,
    check=_check,
)
EXIT_COLUMNS = EXITS.names
