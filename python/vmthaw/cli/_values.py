"""Values on the command line: sizes, addresses, owners; and how sizes and times are written."""

from __future__ import annotations

import grp
import pwd
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from vmthaw._sizes import parse_size

if TYPE_CHECKING:
    _Number: TypeAlias = click.ParamType[int]
    _Owner: TypeAlias = click.ParamType[tuple[int | None, int | None]]
else:  # not generic in older releases of click
    _Number = _Owner = click.ParamType


def format_size(size: float) -> str:
    """``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or float(size).is_integer() else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class Size(_Number):
    """Bytes, with a unit if wanted."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `parse_size`."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Address(_Number):
    """A guest address: decimal, or hexadecimal with 0x."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuses what is no unsigned number of 64 bits."""
        try:
            number = value if isinstance(value, int) else int(str(value), 0)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 64:
            self.fail(f"{value!r} is not an address: write for example 0x1000000", param, ctx)
        return number


def _identity(text: str, kind: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid if kind == "user" else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError(f"there is no {kind} {text!r} here") from None


class User(_Number):
    """A user by name or number; gives the number."""

    name = "user"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Looks the name up."""
        if isinstance(value, int):
            return value
        try:
            return _identity(str(value), "user")
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Owner(_Owner):
    """``USER``, ``USER:GROUP`` or ``:GROUP``, each by name or number; gives (uid or None, gid or None)."""

    name = "user[:group]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int | None]:
        """Looks the names up."""
        if isinstance(value, tuple):
            return value
        user, _, group = str(value).partition(":")
        if not user and not group:
            self.fail("the owner is empty: write for example 1000:1000 or jailer", param, ctx)
        try:
            return (
                _identity(user, "user") if user else None,
                _identity(group, "group") if group else None,
            )
        except ValueError as error:
            self.fail(str(error), param, ctx)
