"""Where the demo works, and where it leaves what it found."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vmthaw.cli._check import read_text
from vmthaw.cli._errors import CliError
from vmthaw.cli._values import format_size

_LONGEST = 90  # a socket's path has at most 107 bytes
_RESULTS = "results.json"


def check_room(memory_bytes: int) -> None:
    """Raises CliError when the guest and its file would not fit into memory."""
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            if available < 2 * memory_bytes:
                raise CliError(
                    f"{format_size(memory_bytes)} of guest memory and its file do not fit into the "
                    f"{format_size(available)} that are available; try --memory {max(1, available // 4 >> 20)}MiB"
                )


def prepare_output(path: Path) -> Path:
    """Makes the directory for the results. What a demo left there is replaced; anything else is refused (CliError)."""
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()) and not (path / _RESULTS).is_file():
            raise CliError(f"{path} is not empty and not a demo's; nothing in it is overwritten: give another --output")
        results_path(path).write_text("{}\n", encoding="utf-8")  # so that one that was cut short is known for a demo's
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}; give another --output") from error
    return path


@contextlib.contextmanager
def work_directory() -> Iterator[Path]:
    """For the snapshot and the socket; it goes with the demo."""
    parent = tempfile.gettempdir()
    path = tempfile.mkdtemp(prefix="vmthaw-demo-", dir=parent if len(parent) < _LONGEST - 24 else "/tmp")
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def results_path(output: Path) -> Path:
    """The table, as JSON."""
    return output / _RESULTS
