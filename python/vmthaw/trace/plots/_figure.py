"""What all figures share: the style, the colours, and a Figure that shows itself without pyplot."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from vmthaw.trace._columns import Records
from vmthaw.trace._format import format_bytes, format_ns
from vmthaw.trace._schema import KINDS

_STYLE = Path(__file__).with_name("vmthaw.mplstyle")
_DPI = 110
INK = "#7b828c"  # as in the style
# By the numbers of kinds. Apart from each other for people who see fewer colours, and seen on white and on black.
KIND_COLOURS = ("#e0632f", "#4a8fdb", "#1fa187", "#a878d8", "#8b919a")
# In the order in which they are drawn, the most important last and on top.
DRAWN = (4, 3, 2, 1, 0)
assert len(KIND_COLOURS) == len(KINDS)


class TraceFigure(Figure):
    """A Figure that notebooks show, whether pyplot is there or not."""

    def _repr_png_(self) -> bytes:
        return to_png(self)


@contextmanager
def styled() -> Iterator[None]:
    """Figures made inside look as ours do."""
    with mpl.rc_context(fname=str(_STYLE)):
        yield


def new_figure(width: float, height: float) -> TraceFigure:
    """Inches."""
    return TraceFigure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, dpi: int = _DPI) -> bytes:
    """The picture."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """Markup for a page: ink is ``currentColor``, ids begin with `name` so that pictures do not meet in one page."""
    buffer = io.StringIO()
    with styled(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=2 * _DPI, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace(INK, "currentColor")


def say_empty(figure: Figure, text: str) -> None:
    """For a trace that has nothing to draw."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def seconds(times_ns: NDArray[Any], start_ns: int) -> NDArray[np.float64]:
    """Since the start of the trace."""
    found: NDArray[np.float64] = (times_ns.astype(np.int64) - start_ns) / 1e9
    return found


def start_of(records: Records) -> int:
    """When the first record's fault was read."""
    return int(records["t_fault_ns"].min())


def time_axis(axis: Any) -> None:
    """Labels a time axis in s, ms or us."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_ns(value * 1e9) if value else "0"))


def bytes_axis(axis: Any) -> None:
    """Labels an axis of sizes or addresses, with ticks at powers of two."""
    low, high = axis.get_view_interval()
    step = 2.0 ** np.ceil(np.log2(max(high - low, 1) / 7))
    axis.set_ticks(np.arange(np.ceil(low / step) * step, high + 1, step))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value) if value else "0"))


def set_title(figure: Figure, title: str | None, default: str) -> None:
    """`title` None: the default; empty: none."""
    text = default if title is None else title
    if text:
        figure.suptitle(text, x=0.01, ha="left", fontsize=12, fontweight="bold")


def thinned(records: Records, most: int) -> Records:
    """Every n-th, so that at most `most` are left."""
    return records[:: max(1, -(-len(records) // most))]
