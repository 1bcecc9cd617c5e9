"""`whole_file`: a file that appears whole or not at all; `write_at`: all of the bytes, at their place."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


@contextlib.contextmanager
def whole_file(path: Path, *, sync: bool = True) -> Iterator[int]:
    """A descriptor of a new file that becomes `path` when all went well, and is removed otherwise. Mode 0600."""
    file, partial = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".partial", dir=path.parent)
    try:
        yield file
        if sync:
            os.fsync(file)
        Path(partial).rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(partial).unlink()
        raise
    finally:
        os.close(file)


def write_at(file: int, offset: int, data: Buffer) -> None:
    """Writes all of `data` to the descriptor `file`, from `offset` on: a disk that gets full takes a part first, and
    then says so. Raises OSError."""
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, offset)
        left = left[written:]
        offset += written
