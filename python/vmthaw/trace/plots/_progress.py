"""Cumulative faults and installed memory over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmthaw.trace._schema import DEMAND, INSTALLED, KINDS, REMOVE
from vmthaw.trace._summary import answered_demand
from vmthaw.trace.plots import _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vmthaw.trace._trace import Trace

_POINTS = 1500


def draw(trace: Trace, title: str | None) -> Figure:
    """See `vmthaw.trace.plots.plot_progress`."""
    records = trace.records
    with _figure.styled():
        figure = _figure.new_figure(9, 4.4)
        _figure.set_title(figure, title, "How the restore went on")
        if not len(records):
            _figure.say_empty(figure, "The trace has no records.")
            return figure
        above, below = figure.subplots(2, 1, sharex=True)
        start_ns = _figure.start_of(records)
        end = trace.duration_ns / 1e9
        grid = np.linspace(0, max(end, 1e-9), _POINTS)
        faults = _figure.seconds(answered_demand(records)["t_fault_ns"], start_ns)
        above.plot(grid, np.searchsorted(faults, grid, side="right"), color=_figure.KIND_COLOURS[DEMAND])
        above.set_ylabel("faults so far")
        above.set_ylim(bottom=0)
        layers, names, colours = [], [], []
        for number in (0, 1, 2, 3):
            chosen = records[(records["kind"] == number) & (records["outcome"] == INSTALLED)]
            if number == REMOVE or not len(chosen):
                continue
            chosen = chosen[np.argsort(chosen["t_installed_ns"], kind="stable")]
            size = chosen["pages"].astype(np.float64) * (1 << chosen["page_size_log2"].astype(np.int64))
            sums = np.concatenate(([0.0], np.cumsum(size)))
            times = _figure.seconds(chosen["t_installed_ns"], start_ns)
            layers.append(sums[np.searchsorted(times, grid, side="right")])
            names.append(KINDS[number])
            colours.append(_figure.KIND_COLOURS[number])
        if layers:
            below.stackplot(grid, layers, labels=names, colors=colours, alpha=0.8, linewidth=0)
            handles, labels = below.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        below.set_ylim(bottom=0)
        _figure.bytes_axis(below.yaxis)
        below.set_ylabel("memory installed")
        below.set_xlabel("time since the first record")
        below.set_xlim(0, max(end, 1e-9))
        _figure.time_axis(below.xaxis)
    return figure
