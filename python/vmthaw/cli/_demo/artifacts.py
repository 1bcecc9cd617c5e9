"""What the demo leaves: the traces, a picture, and a page that explains them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmthaw.cli._demo.directory import results_path
from vmthaw.cli._demo.plan import Plan
from vmthaw.cli._demo.result import Result
from vmthaw.cli._demo.table import REPORTED, caption, cells, meaning
from vmthaw.cli._demo.ways import FIRST, SECOND

if TYPE_CHECKING:
    from vmthaw.cli._demo.ways import Demonstration


def write_artifacts(
    output: Path, plan: Plan, title: str, zero_share: float, results: Sequence[Result], demonstration: Demonstration
) -> tuple[list[Path], list[str]]:
    """The files that are there now, the report first, and what is to be said about those that are not."""
    recordings = demonstration.recordings
    missing = next((str(each.missing) for each in recordings.values() if each.missing is not None), None)
    if missing is None:
        try:
            pages = _draw(output, plan, title, zero_share, results, demonstration)
        except ImportError as error:  # MissingExtraError
            missing, pages = str(error), []
    else:
        pages = []
    traces = [each.path for each in recordings.values() if each.path is not None and each.path.exists()]
    notes = [f"no report, picture and traces without their libraries: {missing}"] if missing else []
    return [*pages, *traces, results_path(output)], notes


def _draw(
    output: Path, plan: Plan, title: str, zero_share: float, results: Sequence[Result], demonstration: Demonstration
) -> list[Path]:
    from vmthaw.trace import Preface, Trace, write_report
    from vmthaw.trace.plots import plot_restores

    first, second = (demonstration.recordings[name].path for name in (FIRST, SECOND))
    assert first is not None
    assert second is not None
    trace, better = Trace.open(first), Trace.open(second)
    what = caption(plan, title, zero_share)
    rows = [[result.name, *cells(result, REPORTED), "verified" if result.verified else "WRONG"] for result in results]
    report = write_report(
        trace,
        output / "report.html",
        title=f"vmthaw demo: {title}",
        preface=Preface(
            "Five ways to restore the same guest",
            what,
            ("restored by", *REPORTED.values(), "memory"),
            rows,
            meaning(results),
        ),
        comparisons=[better],
        overwrite=True,
    )
    picture = output / "memory.png"
    plot_restores({FIRST: trace, SECOND: better}, title="What the guest touched, and when").savefig(picture, dpi=150)
    return [report, picture]
