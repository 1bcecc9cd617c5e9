"""The memory file that FakeVmm is restored from."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

_PAGE_BYTES = 4096
_LONGEST_RUN_PAGES = 128


def write_demo_memory(path: Path, pages: int, seed: int) -> None:
    """Write a sparse file whose runs of data and of zeros (holes) are 1 to 128 pages long.

    Every page of data begins with its own number plus one, so a page in the wrong place is seen. Raises OSError.
    """
    lengths = random.Random(seed)
    words = np.random.default_rng(seed)
    page = 0
    with path.open("xb") as file:
        file.truncate(pages * _PAGE_BYTES)
        while page < pages:
            count = min(lengths.randint(1, _LONGEST_RUN_PAGES), pages - page)
            data = words.integers(1, 1 << 63, size=(count, _PAGE_BYTES // 8), dtype=np.uint64)
            data[:, 0] = np.arange(page + 1, page + count + 1, dtype=np.uint64)
            file.seek(page * _PAGE_BYTES)
            file.write(data.tobytes())
            page += count
            hole = min(lengths.randint(1, _LONGEST_RUN_PAGES), pages - page)
            page += hole
