"""Shares, as bars of 100 %."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

from vmthaw.trace._format import format_ns
from vmthaw.trace._schema import INSTALLED, KINDS, REMOVE, SOURCES
from vmthaw.trace.plots import _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vmthaw.trace._trace import Trace

_CLASS_COLOURS = {"data": "#c9962b", "zero": "#8fb8d8", "removed": "#8b919a"}
_SOURCE_COLOURS = {
    "none": "#8b919a", "zero": "#8fb8d8", "mapped": "#1fa187", "file": "#c9962b", "network": "#a878d8",
    "python": "#d1699b",
}  # fmt: skip
_PART_COLOURS = {"queue": "#a878d8", "fetch": "#c9962b", "install": "#4a8fdb"}
_SOURCE_WORDS = {"mapped": "mapped file", "zero": "no bytes needed (zeros)", "file": "read from file"}
_PART_WORDS = {"queue": "queue (worker busy)", "fetch": "fetch (bytes)", "install": "install (kernel)"}
_CLASS_WORDS = {"zero": "zeros", "removed": "zeros, after it was given back"}


def _bar(axes: Any, y: float, name: str, shares: Mapping[str, tuple[float, str, str]]) -> None:
    """`shares`: for each word its amount, its text and its colour."""
    total = sum(amount for amount, _, _ in shares.values())
    axes.text(0, y + 0.3, name, ha="left", va="bottom", fontweight="bold")
    left = 0.0
    texts: list[Artist] = []
    for word, (amount, text, colour) in shares.items():
        width = amount / total if total else 0
        axes.barh(y, width, left=left, height=0.44, color=colour)
        left += width
        texts += [
            TextArea("\u25a0", textprops={"color": colour, "fontsize": 10}),
            TextArea(f"{word} {text} ({width:.0%})     ", textprops={"color": _figure.INK, "fontsize": 9}),
        ]
    packed = HPacker(children=texts, pad=0, sep=3, align="baseline")
    axes.add_artist(AnnotationBbox(packed, (0, y - 0.28), xycoords="data", box_alignment=(0, 1), frameon=False, pad=0))


def _pages(trace: Trace, column: str, words: tuple[str, ...]) -> dict[str, int]:
    records = trace.records[(trace.records["outcome"] == INSTALLED) & (trace.records["kind"] != REMOVE)]
    counts = np.bincount(records[column], weights=records["pages"], minlength=len(words))
    return {word: int(count) for word, count in zip(words, counts, strict=False) if count}


def draw(trace: Trace, title: str | None) -> Figure:
    """See `vmthaw.trace.plots.plot_composition`."""
    summary = trace.summary()
    with _figure.styled():
        figure = _figure.new_figure(9, 4.2)
        _figure.set_title(figure, title, "What the restore was made of")
        if not summary.pages:
            _figure.say_empty(figure, "No page was installed in this trace.")
            return figure
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.62, 3.78)
        kinds = {
            word: (count, f"{count:,}", _figure.KIND_COLOURS[KINDS.index(word)])
            for word, count in summary.pages_by_kind.items()
        }
        classes = {
            _CLASS_WORDS.get(word, word): (count, f"{count:,}", _CLASS_COLOURS[word])
            for word, count in summary.pages_by_class.items()
        }
        sources = {
            _SOURCE_WORDS.get(word, word): (count, f"{count:,}", _SOURCE_COLOURS[word])
            for word, count in _pages(trace, "source", SOURCES).items()
        }
        parts = {
            _PART_WORDS[word]: (getattr(summary.breakdown, f"{word}_ns"), "", colour)
            for word, colour in _PART_COLOURS.items()
        }
        parts = {word: (amount, format_ns(amount), colour) for word, (amount, _, colour) in parts.items() if amount}
        _bar(axes, 3.2, "Why pages were installed (pages)", kinds)
        _bar(axes, 2.13, "What they held (pages)", classes)
        _bar(axes, 1.06, "Where their bytes came from (pages)", sources)
        if parts:
            waited = format_ns(summary.waited_ns)
            _bar(axes, 0.0, f"What the guest's threads waited for ({waited} in all)", parts)
    return figure
