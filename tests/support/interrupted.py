"""Ctrl-C for a command that waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.eventually import PATIENCE
from vmthaw.cli._errors import Exit

PROMPTLY_S = 3.0  # the shortest time-out of what is asked is 15 s


def interrupted(words: str, folder: Path, has_begun: Callable[[float], object], **environment: str) -> None:
    """Runs `vmthaw snapshot ...` in `folder`, presses Ctrl-C when the time has come, and holds the end to what it
    should be."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vmthaw", "snapshot", *words.split()],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert has_begun(30 * PATIENCE), "it did not ask"
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        took = time.monotonic() - pressed
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, output, errors.strip()) == (Exit.INTERRUPTED, "", "vmthaw: interrupted")
    assert took < PROMPTLY_S * PATIENCE
