"""Page sources: where the bytes of a restored VM come from.

`FileSource`, `SparseDiffSource` and `ZeroSource` are the core's own. `PythonSource` asks a callable, on daemon threads
of Python's; the core's threads wait for its answers without the GIL, so a slow or failing callable delays nobody else's
pages.
"""

from __future__ import annotations

from vmthaw._core import ExtentKind, FileSource, PageSource, SparseDiffSource, ZeroSource
from vmthaw.source._python_source import PythonSource

__all__ = ["ExtentKind", "FileSource", "PageSource", "PythonSource", "SparseDiffSource", "ZeroSource"]
