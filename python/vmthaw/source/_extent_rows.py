"""Extents as Python gives them: rows for the core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vmthaw._core import ExtentKind
from vmthaw.errors import VmthawValueError


def extent_rows(extents: Iterable[Any] | None) -> list[tuple[int, int, int]] | None:
    """Rows of offset, size and kind, from tuples or from what `PageSource.extents` gives; a kind may be its name.
    Raises VmthawValueError."""
    return None if extents is None else [_row(extent) for extent in extents]


def _row(extent: Any) -> tuple[int, int, int]:
    try:
        offset, size, kind = extent
        number = ExtentKind[kind] if isinstance(kind, str) else ExtentKind(int(kind))
        return int(offset), int(size), int(number)
    except (TypeError, ValueError, KeyError) as error:
        raise VmthawValueError(
            f"{extent!r} is no extent: give (offset, size, kind) with the kind data or zero"
        ) from error
