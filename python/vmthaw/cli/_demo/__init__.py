"""`vmthaw demo`: a guest restored lazily, seen, and restored better."""

from vmthaw.cli._demo.command import demo

__all__ = ["demo"]
