"""Figures of a trace. Each function gives a matplotlib Figure, which shows itself in a notebook.

They need the extra ``vmthaw[analysis]`` and no display; pyplot is never imported. Raise MissingExtraError. A trace
without records gives empty axes that say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmthaw._extras import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vmthaw.trace._trace import Trace

__all__ = ["plot_addresses", "plot_blocks", "plot_composition", "plot_latency", "plot_progress", "plot_restores"]


def plot_addresses(trace: Trace, *, title: str | None = None) -> Figure:
    """Address x time: where in the guest's memory and when pages were demanded, installed and given back."""
    need("matplotlib", "analysis")
    from vmthaw.trace.plots._addresses import draw

    return draw(trace, title)


def plot_blocks(trace: Trace, *, title: str | None = None) -> Figure:
    """A map of the memory in blocks of 2 MiB (larger ones where there are too many): how much of each was wanted."""
    need("matplotlib", "analysis")
    from vmthaw.trace.plots._blocks import draw

    return draw(trace, title)


def plot_composition(trace: Trace, *, title: str | None = None) -> Figure:
    """Shares: why pages were installed, what they held, where their bytes came from, where the waiting went."""
    need("matplotlib", "analysis")
    from vmthaw.trace.plots._composition import draw

    return draw(trace, title)


def plot_latency(trace: Trace, *, title: str | None = None) -> Figure:
    """Histogram and cumulative distribution of the time from a fault's message to its page, by kind."""
    need("matplotlib", "analysis")
    from vmthaw.trace.plots._latency import draw

    return draw(trace, title)


def plot_progress(trace: Trace, *, title: str | None = None) -> Figure:
    """Cumulative faults, and memory installed, over time."""
    need("matplotlib", "analysis")
    from vmthaw.trace.plots._progress import draw

    return draw(trace, title)


def plot_restores(traces: Mapping[str, Trace], *, title: str | None = None) -> Figure:
    """Address x time of several restores of the same memory, by their names, one above the other over the same time."""
    need("matplotlib", "analysis")
    from vmthaw.trace.plots._addresses import draw_beside

    return draw_beside(traces, title)
