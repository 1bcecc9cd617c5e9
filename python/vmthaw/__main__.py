"""``python -m vmthaw`` is the command ``vmthaw``."""

from __future__ import annotations

from vmthaw.cli import main

if __name__ == "__main__":
    main()
