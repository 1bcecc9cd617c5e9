"""`vmthaw demo`."""

from __future__ import annotations

import click


@click.command()
def demo() -> int:
    """Restore a VM-sized process."""
    return 0
