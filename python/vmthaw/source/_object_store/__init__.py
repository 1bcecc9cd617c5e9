"""Memory files in object stores: S3, GCS, Azure and plain HTTP, by ranges or by chunks."""

from __future__ import annotations

from vmthaw.source._object_store._asker import ObjectStoreStats
from vmthaw.source._object_store._object_store_source import ObjectStoreSource
from vmthaw.source._object_store._packed_store_source import PackedStoreSource

__all__ = ["ObjectStoreSource", "ObjectStoreStats", "PackedStoreSource"]
