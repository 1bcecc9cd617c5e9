"""A map of the memory in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from vmthaw.trace import _runs
from vmthaw.trace._compare import demanded, unasked
from vmthaw.trace._format import format_bytes
from vmthaw.trace._schema import DEMAND, FAULT_AROUND
from vmthaw.trace._summary import BLOCK
from vmthaw.trace.plots import _figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vmthaw.trace._trace import Trace

_MOST_BLOCKS = 1 << 13
# Share of a block that was demanded: up to, colour's opacity.
_LEVELS = ((0.02, 0.35), (0.2, 0.65), (1.0, 1.0))

_SQUARE = np.array([(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)])


def _memory(trace: Trace) -> _runs.Runs:
    """The guest's memory; where that is not known, from the first to the last address of the records."""
    regions = [region for session in trace.info.sessions for region in session.regions]
    if regions:
        starts = np.array([region.guest_address for region in regions], dtype=np.int64)
        return _runs.merged(starts, starts + np.array([region.size for region in regions], dtype=np.int64))
    runs = _runs.of_records(trace.records)
    return np.array([[runs[0, 0], runs[-1, 1]]], dtype=np.int64)


def _blocks_of(memory: _runs.Runs) -> tuple[NDArray[np.int64], int]:
    block = BLOCK
    while _runs.blocks(memory, block) > _MOST_BLOCKS:
        block *= 2
    spans = _runs.merged(memory[:, 0] // block, -(-memory[:, 1] // block))
    return np.concatenate([np.arange(first, end) for first, end in spans]) * block, block


def draw(trace: Trace, title: str | None) -> Figure:
    """See `vmthaw.trace.plots.plot_blocks`."""
    with _figure.styled():
        if not len(trace):
            figure = _figure.new_figure(9, 2)
            _figure.say_empty(figure, "The trace has no records.")
            return figure
        starts, block = _blocks_of(_memory(trace))
        wanted = _runs.covered(demanded(trace.records), starts, block) / block
        extra = _runs.covered(unasked(trace.records), starts, block)
        colours = np.tile(to_rgba(_figure.INK, 0.13), (len(starts), 1))
        colours[extra > 0] = to_rgba(_figure.KIND_COLOURS[FAULT_AROUND], 0.55)
        low = 0.0
        legend = [
            Patch(color=to_rgba(_figure.INK, 0.13), label="not touched"),
            Patch(color=to_rgba(_figure.KIND_COLOURS[FAULT_AROUND], 0.55), label="installed unasked"),
        ]
        for high, opacity in _LEVELS:
            colour = to_rgba(_figure.KIND_COLOURS[DEMAND], opacity)
            colours[(wanted > low) & (wanted <= high)] = colour
            legend.append(Patch(color=colour, label=f"up to {high:.0%} asked for" if high < 1 else "more"))
            low = high
        columns = max(32, 1 << round(np.log2(4 * len(starts)) / 2))
        rows = -(-len(starts) // columns)
        figure = _figure.new_figure(9, 0.75 + 7.9 * rows / columns)
        default = f"What was asked for, block by block ({format_bytes(block)} each)"
        _figure.set_title(figure, title, default)
        axes = figure.add_subplot()
        axes.grid(visible=False)
        at = np.arange(len(starts))
        corners = np.stack((at % columns, at // columns), axis=1)[:, None, :] + _SQUARE
        axes.add_collection(PolyCollection(corners, facecolors=colours, linewidths=0, rasterized=True))
        axes.set_xlim(0, columns)
        axes.set_ylim(rows, 0)
        axes.set_aspect("equal")
        axes.set_xticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        every = max(1, rows // 8)
        axes.set_yticks([row + 0.5 for row in range(0, rows, every)])
        axes.tick_params(length=0)
        firsts = starts[::columns]
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(int(firsts[int(value)])) or "0"))
        figure.legend(handles=legend, loc="outside lower center", ncols=5, columnspacing=1.2, handlelength=1.2)
    return figure
