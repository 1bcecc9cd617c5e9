"""The kinds of columns that tables of a trace have: each knows the way from the core's records to Arrow, and back.

In the file, what did not happen or is not known is null, and enumerations are words. In numpy records it is 0 and the
core's numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vmthaw._extras import need
from vmthaw.errors import TraceError

Records = NDArray[np.void]
Known = Callable[[Records], NDArray[np.bool_]]
"""Which of the records have a value."""


def arrow() -> Any:
    """Pyarrow, or MissingExtraError."""
    return need("pyarrow", "analysis")


@dataclass(frozen=True)
class Column(ABC):
    """A column of a file. `decode` is for files from anywhere: it raises TraceError that names the column."""

    name: str

    @property
    @abstractmethod
    def type(self) -> Any:
        """The Arrow type."""

    @property
    def nullable(self) -> bool:
        """Whether it may hold nulls."""
        return False

    def accepts(self, found: Any) -> bool:
        """Whether a file may have the column with this type."""
        return bool(found == self.type)

    @abstractmethod
    def encode(self, records: Records) -> Any:
        """An Arrow array."""

    @abstractmethod
    def decode(self, column: Any, records: Records) -> None:
        """Fills the records' fields from an Arrow column that has an accepted type."""

    def known(self, records: Records) -> NDArray[np.bool_] | None:
        """Which records must have a value, all others none; None where a file may differ."""
        return None


@dataclass(frozen=True)
class Number(Column):
    """A number: null never, where it is 0, or where `null` (which says what is known) says so. Less than `limit`, so
    that no sum of ours overflows."""

    kind: str
    null: Literal["never", "zero"] | Known = "never"
    limit: int | None = None

    @property
    def type(self) -> Any:
        return getattr(arrow(), self.kind)()

    @property
    def nullable(self) -> bool:
        return self.null != "never"

    def encode(self, records: Records) -> Any:
        values = np.ascontiguousarray(records[self.name])
        unknown = values == 0 if self.null == "zero" else ~self.null(records) if callable(self.null) else None
        return arrow().array(values, type=self.type, mask=unknown)

    def decode(self, column: Any, records: Records) -> None:
        values = column.fill_null(0).to_numpy()
        if self.limit is not None and len(values):
            least, most = int(values.min()), int(values.max())
            if most >= self.limit or least < 0:
                wrong = most if most >= self.limit else least
                raise TraceError(
                    f"column {self.name} holds {wrong}; it must be less than {self.limit}, and not below 0"
                )
        records[self.name] = values

    def known(self, records: Records) -> NDArray[np.bool_] | None:
        return self.null(records) if callable(self.null) else None


@dataclass(frozen=True)
class Flag(Column):
    """A bit of the field `flags`, as true or false; null where `null` (which says what is known) says so, or never."""

    bit: int
    null: Known | None = None

    @property
    def type(self) -> Any:
        return arrow().bool_()

    @property
    def nullable(self) -> bool:
        return self.null is not None

    def encode(self, records: Records) -> Any:
        unknown = None if self.null is None else ~self.null(records)
        return arrow().array((records["flags"] & self.bit) != 0, mask=unknown)

    def decode(self, column: Any, records: Records) -> None:
        records["flags"] |= np.where(column.fill_null(False).to_numpy(), np.uint8(self.bit), np.uint8(0))

    def known(self, records: Records) -> NDArray[np.bool_] | None:
        return None if self.null is None else self.null(records)


@dataclass(frozen=True)
class Words(Column):
    """An enumeration: a word for each of the core's numbers."""

    words: tuple[str, ...]

    @property
    def type(self) -> Any:
        return arrow().dictionary(arrow().int8(), arrow().string())

    def accepts(self, found: Any) -> bool:
        return is_text(found)

    def encode(self, records: Records) -> Any:
        numbers = records[self.name].astype(np.int8)
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self.words):
            number = int(records[self.name].max())
            raise TraceError(f"a record's {self.name} is {number}: newer than this version of vmthaw knows")
        return arrow().DictionaryArray.from_arrays(arrow().array(numbers), arrow().array(self.words))

    def decode(self, column: Any, records: Records) -> None:
        records[self.name] = numbers_of(column, self._number_of)

    def _number_of(self, word: Any) -> int:
        if word not in self.words:
            raise TraceError(f"column {self.name} holds {word!r:.60}; known are {', '.join(map(repr, self.words))}")
        return self.words.index(word)


def is_text(found: Any) -> bool:
    """Strings, or a dictionary of them: libraries that rewrite files turn one into the other."""
    types = arrow().types
    return bool(types.is_string(found.value_type if types.is_dictionary(found) else found))


def numbers_of(column: Any, number_of: Callable[[Any], int], null: int = 0) -> NDArray[np.uint32]:
    """The numbers of a column of words; each word that is in use is asked for once. `null`: the number of nulls."""
    if not arrow().types.is_dictionary(column.type):
        column = column.dictionary_encode()
    parts = []
    for chunk in column.chunks:
        indices = chunk.indices.fill_null(0).to_numpy(zero_copy_only=False)
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        table = np.full(max(1, len(chunk.dictionary)), null, dtype=np.uint32)
        for index in np.unique(indices[valid]):
            table[index] = number_of(chunk.dictionary[int(index)].as_py())
        parts.append(np.where(valid, table[indices], np.uint32(null)))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)


@dataclass(frozen=True)
class Given(Column):
    """What the core's records do not hold: given from outside, else null."""

    kind: str

    @property
    def type(self) -> Any:
        return getattr(arrow(), self.kind)()

    @property
    def nullable(self) -> bool:
        return True

    def encode(self, records: Records) -> Any:
        return arrow().nulls(len(records), self.type)

    def decode(self, column: Any, records: Records) -> None:
        """Stays in Arrow."""
