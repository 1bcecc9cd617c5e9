"""Figures as people read them."""

from __future__ import annotations

import html
from collections.abc import Iterable


def aligned(rows: Iterable[tuple[str, str]]) -> str:
    """(what, how much), a line each."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def table_html(rows: Iterable[tuple[str, str]]) -> str:
    """A table of two columns for a notebook."""
    escaped = ((html.escape(name), html.escape(text)) for name, text in rows)
    return "<table>" + "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in escaped) + "</table>"


def format_ns(value: float) -> str:
    """``12.3 us``."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} ns"


def format_bytes(value: float) -> str:
    """``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or float(value).is_integer() else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
