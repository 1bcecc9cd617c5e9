"""Latency by kind: histogram and cumulative distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from vmthaw.trace._format import format_ns
from vmthaw.trace._schema import DEFERRED, DEMAND, FAILED, FAULT_AROUND, KINDS, PREWARM
from vmthaw.trace._summary import latencies_ns
from vmthaw.trace.plots import _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vmthaw.trace._trace import Trace

_WAITS = {DEMAND: "a thread waited", FAULT_AROUND: "nobody waited", PREWARM: "before the start"}
_BINS_A_DECADE = 12


def _values(trace: Trace) -> dict[int, NDArray[np.float64]]:
    records = trace.records
    done = (records["outcome"] != DEFERRED) & (records["outcome"] != FAILED)
    found = {number: latencies_ns(records[done & (records["kind"] == number)]) / 1e9 for number in _WAITS}
    return {number: np.maximum(values, 1e-9) for number, values in found.items() if len(values)}


def _mark_percentiles(axes: Any, values: NDArray[np.float64]) -> None:
    for share, below in ((0.5, -3), (0.95, -26), (0.99, -12)):
        value = float(np.quantile(values, share))
        axes.plot([value], [share], marker="o", color=_figure.KIND_COLOURS[DEMAND], markersize=5, zorder=5)
        axes.annotate(
            f"p{100 * share:.0f}: {format_ns(value * 1e9)}", (value, share), xytext=(9, below),
            textcoords="offset points", fontsize=9, zorder=6,
        )  # fmt: skip


def draw(trace: Trace, title: str | None) -> Figure:
    """See `vmthaw.trace.plots.plot_latency`."""
    with _figure.styled():
        figure = _figure.new_figure(9, 3.6)
        _figure.set_title(figure, title, "How long pages took")
        values = _values(trace)
        if not values:
            _figure.say_empty(figure, "No fault of this trace came to an end.")
            return figure
        left, right = figure.subplots(1, 2)
        everything = np.concatenate(list(values.values()))
        low, high = np.floor(np.log10(everything.min())), np.ceil(np.log10(everything.max()) + 1e-9)
        edges = np.logspace(low, high, int(max(1, high - low) * _BINS_A_DECADE) + 1)
        for number in sorted(values, reverse=True):
            colour = _figure.KIND_COLOURS[number]
            label = f"{KINDS[number]} ({_WAITS[number]})"
            left.hist(values[number], bins=edges, color=colour, alpha=0.65, label=label)
            ordered = np.sort(values[number])
            right.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", color=colour)
        if DEMAND in values:
            _mark_percentiles(right, values[DEMAND])
        for axes in (left, right):
            axes.set_xscale("log")
            axes.minorticks_off()
            _figure.time_axis(axes.xaxis)
            axes.set_xlabel("from the fault's message to the installed page")
        left.set_ylabel("fills")
        left.set_title("How many took how long")
        right.set_title("What share took at most that long")
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        right.set_ylim(0, 1.03)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
