"""The files of this repository, for the tests that judge them all."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def files(*suffixes: str, under: str = "") -> list[Path]:
    """Files that are tracked or could be (not ignored), absolute, sorted; of these suffixes only when any is given."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in sorted(set(listing.stdout.split("\0"))) if name.startswith(under) and name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def run(*command: str | Path, timeout: float = 300.0) -> tuple[int, str]:
    """Run a tool in the root: its status, and both its outputs in one text. `timeout` in seconds."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout
