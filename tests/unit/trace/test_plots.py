"""Figures show the trace's numbers, need no display, and stand on light and dark ground."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.unit.trace.made import PAGE, trace
from vmthaw.trace import Trace, example, plots
from vmthaw.trace._schema import FAILED, FAULT_AROUND, PREFETCH, REMOVE, ZERO
from vmthaw.trace.plots._figure import KIND_COLOURS, to_png, to_svg

ALONE = [name for name in plots.__all__ if name != "plot_restores"]


def axes_of(figure: Any) -> Any:
    return figure.axes


@pytest.fixture(scope="module")
def sample() -> Trace:
    return trace(
        {"page": 0},
        {"page": 1, "kind": FAULT_AROUND, "pages": 7},
        {"page": 513, "page_class": ZERO, "source": 1},
        {"page": 600, "kind": PREFETCH, "pages": 400},
        {"page": 600, "kind": REMOVE, "pages": 3},
        {"page": 5, "outcome": FAILED, "pages": 0, "t_installed_ns": 0},
    )


@pytest.mark.parametrize("plot", plots.__all__)
@pytest.mark.parametrize("which", ["empty", "one", "sample", "example"])
def test_every_figure_can_be_drawn_of_every_trace(
    plot: str, which: str, sample: Trace, recwarn: pytest.WarningsRecorder
) -> None:
    chosen = {"empty": trace(), "one": trace({"page": 3}), "sample": sample, "example": example()}[which]
    draw: Callable[..., Any] = getattr(plots, plot)
    figure = draw({"one": chosen, "the same": chosen} if plot == "plot_restores" else chosen)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert to_svg(figure, "x").startswith("<svg")
    assert not [str(warning.message) for warning in recwarn]


def test_a_trace_draws_itself(sample: Trace) -> None:
    assert {f"plot_{name}" for name in ("addresses", "blocks", "composition", "latency", "progress")} == {
        name for name in ALONE if type(getattr(sample, name)()).__name__ == "TraceFigure"
    }


def test_demands_are_drawn_where_and_when_they_were(sample: Trace) -> None:
    (axes,) = axes_of(plots.plot_addresses(sample))
    drawn = {
        tuple(map(float, point))
        for dots in axes.collections
        if hasattr(dots, "get_sizes") and len(dots.get_offsets())
        for point in dots.get_offsets()
    }
    assert (0.0, PAGE / 2) in drawn
    assert (2e-6, 513.5 * PAGE) in drawn
    assert (5e-6, 5.0 * PAGE) in drawn, "the one that failed"
    assert axes.get_ylim() == (0, 1024 * PAGE)
    long = [path.vertices.tolist() for lines in axes.collections for path in lines.get_paths() if len(path) == 2]
    assert [[3.1e-6, 600 * PAGE], [3.1e-6, 1000 * PAGE]] in [np.round(line, 12).tolist() for line in long]


def test_progress_ends_at_the_number_of_faults_and_bytes(sample: Trace) -> None:
    above, below = axes_of(plots.plot_progress(sample))
    assert above.lines[0].get_ydata()[-1] == sample.summary().faults == 3
    top = max(vertex[1] for layer in below.collections for vertex in layer.get_paths()[0].vertices)
    assert top == sample.summary().installed_bytes == 409 * PAGE


def test_latency_marks_its_percentiles() -> None:
    found = trace(*({"page": n, "t_fault_ns": 1000, "t_installed_ns": 1000 + 1000 * (n + 1)} for n in range(100)))
    left, right = axes_of(plots.plot_latency(found))
    assert sum(patch.get_height() for patch in left.patches) == 100
    assert [text.get_text() for text in right.texts] == ["p50: 50.5 us", "p95: 95 us", "p99: 99 us"]


def test_composition_shares_are_those_of_the_summary(sample: Trace) -> None:
    (axes,) = axes_of(plots.plot_composition(sample))
    widths = [round(bar.get_width() * sample.summary().pages) for bar in axes.patches[:3]]
    assert widths == [2, 7, 400] == list(sample.summary().pages_by_kind.values())


def test_a_block_is_coloured_by_what_was_asked_of_it() -> None:
    found = trace({"page": 0, "pages": 512}, {"page": 512}, {"page": 1024, "kind": PREFETCH, "pages": 9}, pages=4 * 512)
    (axes,) = axes_of(plots.plot_blocks(found))
    colours = axes.collections[0].get_facecolor()
    assert len(colours) == 4
    assert colours[0][3] == 1.0
    assert colours[1][3] == pytest.approx(0.35)
    assert not np.allclose(colours[2][:3], colours[0][:3])
    assert colours[3][3] == pytest.approx(0.13)


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", [1.0, _luminance((0.051, 0.067, 0.09))], ids=["white", "dark"])
def test_ink_and_colours_are_seen_on_light_and_on_dark(ground: float) -> None:
    from matplotlib.colors import to_rgb

    from vmthaw.trace.plots._figure import INK

    def contrast(colour: str) -> float:
        high, low = sorted((_luminance(to_rgb(colour)), ground), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert contrast(INK) > 3.8
    assert all(contrast(colour) > 2.9 for colour in KIND_COLOURS)


def test_pictures_have_no_ground_of_their_own(sample: Trace) -> None:
    png = to_png(plots.plot_latency(sample))
    width, _, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind) == (8, 6), "8 bits, with alpha"
    data, at = b"", 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += size + 12
    first_row = zlib.decompress(data)[1 : 1 + 4 * width]
    assert not any(first_row[3::4])


def test_drawing_needs_no_pyplot_and_no_display() -> None:
    code = (
        "import sys; from vmthaw.trace import example; example().plot_latency()._repr_png_(); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_restores_stand_above_each_other_over_the_same_time_and_memory(sample: Trace) -> None:
    other = trace({"page": 9, "kind": PREFETCH, "pages": 2})
    above, below = axes_of(plots.plot_restores({"first": sample, "second": other}))
    assert [axes.get_title(loc="left") for axes in (above, below)] == ["first", "second"]
    assert above.get_xlim() == below.get_xlim()
    assert above.get_ylim() == below.get_ylim()
