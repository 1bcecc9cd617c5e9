"""`write_report`: a trace as one HTML page that needs nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vmthaw._extras import need
from vmthaw.errors import VmthawFileExistsError, os_error_class
from vmthaw.trace._compare import Comparison, compare
from vmthaw.trace.report._preface import Preface

if TYPE_CHECKING:
    from vmthaw.trace._trace import Trace

__all__ = ["Preface", "report_html", "write_report"]

Comparisons = Mapping[str, "Trace"] | Iterable["Trace | Comparison"]


def report_html(
    trace: Trace, *, title: str | None = None, comparisons: Comparisons = (), preface: Preface | None = None
) -> str:
    """The page's text; see `write_report`."""
    need("matplotlib", "analysis")
    from vmthaw.trace.report._page import page

    if isinstance(comparisons, Mapping):
        found = [compare(trace, other, names=(trace.name, name)) for name, other in comparisons.items()]
    else:
        found = [each if isinstance(each, Comparison) else compare(trace, each) for each in comparisons]
    return page(trace, title or trace.name, found, preface)


def write_report(
    trace: Trace,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    comparisons: Comparisons = (),
    preface: Preface | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes what a trace shows as one HTML page: what happened, what it cost, what to do; figures; tables.

    It loads nothing from anywhere, and is made for light and dark. `comparisons` are other traces of the same snapshot
    (as a mapping by the names that they get in the page), or results of `compare`; `preface` is a section before all
    others. Gives the path. Written whole or not at all; an existing file is refused unless `overwrite`. Raises
    VmthawFileExistsError, VmthawOSError, MissingExtraError.
    """
    from vmthaw.trace._stream import replacing

    path = Path(path)
    if path.exists() and not overwrite:
        remedy = "choose another name, or overwrite it (overwrite=True, --force on the command line)"
        raise VmthawFileExistsError(errno.EEXIST, f"{path} exists: {remedy}")
    text = report_html(trace, title=title, comparisons=comparisons, preface=preface)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        number = error.errno or errno.EIO
        raise os_error_class(number)(number, f"{path} cannot be written: {os.strerror(number)}") from error
    return path
