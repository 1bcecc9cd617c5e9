"""The names of a trace's files."""

from __future__ import annotations

from pathlib import Path

_STREAM = ".recording.arrow"


def stream_path(path: Path) -> Path:
    """What is written while recording: an Arrow stream."""
    return path if path.suffix == ".arrow" else path.with_name(path.name + _STREAM)


def beside(path: Path, table: str) -> Path:
    """The file of another table of the trace: ``boot.exits.parquet`` of ``boot.parquet``."""
    stream = _STREAM if path.name.endswith(_STREAM) else ""
    name = Path(path.name.removesuffix(stream)) if stream else path
    return path.with_name(f"{name.stem}.{table}{name.suffix}{stream}")
