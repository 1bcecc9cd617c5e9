"""Page sources: where the bytes of a restored VM come from.

`FileSource`, `SparseDiffSource` and `ZeroSource` are the core's own. `PythonSource` asks a callable, on daemon threads
of Python's; the core's threads wait for its answers without the GIL, so a slow or failing callable delays nobody else's
pages. `SocketSource` asks a page server on this host or another; `PageExporter` is one.
"""

from __future__ import annotations

from vmthaw._core import (
    CachedSource,
    CompressedSource,
    ExtentKind,
    FileSource,
    PageSource,
    SparseDiffSource,
    ZeroSource,
    compress_file,
)
from vmthaw.source._layered_header import Codec, LayeredBuild, LayeredFrame, LayeredHeader, LayeredMapping
from vmthaw.source._layered_source import LayeredSource
from vmthaw.source._object_store import ObjectStoreSource, ObjectStoreStats, PackedStoreSource
from vmthaw.source._open_source import open_source
from vmthaw.source._packed_source import PackedSource
from vmthaw.source._page_exporter import PageExporter
from vmthaw.source._python_source import PythonSource
from vmthaw.source._socket_source import SocketSource

__all__ = [
    "CachedSource",
    "Codec",
    "CompressedSource",
    "ExtentKind",
    "FileSource",
    "LayeredBuild",
    "LayeredFrame",
    "LayeredHeader",
    "LayeredMapping",
    "LayeredSource",
    "ObjectStoreSource",
    "ObjectStoreStats",
    "PackedSource",
    "PackedStoreSource",
    "PageExporter",
    "PageSource",
    "PythonSource",
    "SocketSource",
    "SparseDiffSource",
    "ZeroSource",
    "compress_file",
    "open_source",
]
