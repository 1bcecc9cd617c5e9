"""Address x time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from vmthaw.trace._columns import Records
from vmthaw.trace._schema import DEFERRED, DEMAND, FAILED, KINDS, REMOVE
from vmthaw.trace.plots import _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vmthaw.trace._trace import Trace

_MOST_DRAWN = 60_000  # of a kind
_LEGEND = {
    "demand": "demand: the guest asked and waited",
    "fault-around": "fault-around: installed beside a fault",
    "prefetch": "prefetch: installed ahead of its need",
    "pre-warm": "pre-warm: installed before the start",
    "remove": "given back by the guest",
}


def _limits(trace: Trace, records: Records) -> tuple[int, int]:
    regions = [region for session in trace.info.sessions for region in session.regions]
    if regions:
        return min(r.guest_address for r in regions), max(r.guest_address + r.size for r in regions)
    ends = records["guest_address"] + (records["pages"].astype(np.uint64) << records["page_size_log2"])
    return int(records["guest_address"].min()), int(ends.max())


def _draw_kind(axes: Any, records: Records, number: int, start_ns: int, height: int) -> None:
    times = records["t_fault_ns"] if number in (DEMAND, REMOVE) else records["t_installed_ns"]
    x = _figure.seconds(times, start_ns)
    low = records["guest_address"].astype(np.float64)
    size = np.maximum(records["pages"], 1) * (1 << records["page_size_log2"].astype(np.int64))
    colour = _figure.KIND_COLOURS[number]
    long = size > height / 300
    if long.any():
        ends = np.stack((np.column_stack((x, low)), np.column_stack((x, low + size))), axis=1)[long]
        width = 3.0 if number == REMOVE else 1.6
        axes.add_collection(LineCollection(ends, colors=colour, linewidths=width, rasterized=True))
    if (~long).any():
        demand = number == DEMAND
        axes.scatter(
            x[~long], (low + size / 2)[~long], s=7 if demand else 4, color=colour, alpha=0.9 if demand else 0.55,
            linewidths=0, rasterized=True,
        )  # fmt: skip


def _draw_all(axes: Any, trace: Trace, records: Records) -> tuple[dict[str, Line2D], int]:
    """All kinds on one pair of axes; gives what the legend needs, and 1 of how many records was drawn."""
    low, high = _limits(trace, records)
    start_ns = _figure.start_of(records)
    handles = {}
    thinned = 1
    for number in _figure.DRAWN:
        chosen = records[(records["kind"] == number) & (records["outcome"] != FAILED)]
        if not len(chosen):
            continue
        few = _figure.thinned(chosen, _MOST_DRAWN)
        thinned = max(thinned, -(-len(chosen) // max(1, len(few))))
        _draw_kind(axes, few, number, start_ns, high - low)
        name = _LEGEND[KINDS[number]]
        handles[name] = Line2D(
            [], [], color=_figure.KIND_COLOURS[number], marker="o", markersize=5, linestyle="", label=name
        )
    failed = records[records["outcome"] == FAILED]
    if len(failed):
        x = _figure.seconds(failed["t_fault_ns"], start_ns)
        axes.scatter(x, failed["guest_address"], marker="x", color="#d11f3f", s=40, zorder=5)
        handles["failed"] = Line2D([], [], color="#d11f3f", marker="x", linestyle="", label="failed")
    axes.set_ylim(low, high)
    axes.margins(x=0.01)
    _figure.bytes_axis(axes.yaxis)
    _figure.time_axis(axes.xaxis)
    axes.set_ylabel("guest-physical address")
    return handles, thinned


def _finish(figure: Figure, axes: Any, handles: dict[str, Line2D], thinned: int) -> None:
    axes.set_xlabel("time since the first record" + (f" (1 of {thinned} records drawn)" if thinned > 1 else ""))
    figure.legend(
        handles=list(handles.values())[::-1], loc="outside lower center", ncols=2, columnspacing=1.5, handletextpad=0.2
    )


def _drawn(trace: Trace) -> Records:
    found: Records = trace.records[trace.records["outcome"] != DEFERRED]
    return found


def draw(trace: Trace, title: str | None) -> Figure:
    """See `vmthaw.trace.plots.plot_addresses`."""
    records = _drawn(trace)
    with _figure.styled():
        figure = _figure.new_figure(9, 4.6)
        _figure.set_title(figure, title, "Where and when the guest's memory came in")
        if not len(records):
            _figure.say_empty(figure, "The trace has no records.")
            return figure
        axes = figure.add_subplot()
        _finish(figure, axes, *_draw_all(axes, trace, records))
    return figure


def draw_beside(traces: Mapping[str, Trace], title: str | None) -> Figure:
    """See `vmthaw.trace.plots.plot_restores`."""
    found = {name: (trace, _drawn(trace)) for name, trace in traces.items()}
    with _figure.styled():
        figure = _figure.new_figure(9, 1.2 + 2.9 * max(1, len(found)))
        _figure.set_title(figure, title, "The same memory, restored in different ways")
        if not any(len(records) for _, records in found.values()):
            _figure.say_empty(figure, "The traces have no records.")
            return figure
        handles: dict[str, Line2D] = {}
        thinned = 1
        all_axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, (trace, records)) in zip(all_axes, found.items(), strict=True):
            axes.set_title(name, loc="left", fontsize=10)
            if len(records):
                more, each = _draw_all(axes, trace, records)
                handles.update(more)
                thinned = max(thinned, each)
        _finish(figure, all_axes[-1], handles, thinned)
    return figure
