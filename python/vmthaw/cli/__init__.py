"""The command ``vmthaw``. Nothing else of the package imports click or rich."""

from __future__ import annotations

from vmthaw.cli._app import cli, main

__all__ = ["cli", "main"]
