"""`LayeredSource`: a memory in layers, each a build of its own, as E2B and Wrenn store it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from vmthaw import _core
from vmthaw._core import FileSource, PageSource
from vmthaw.errors import SourceOpenError
from vmthaw.source._layered_header import LayeredHeader, header_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["LayeredSource"]

_CACHE_BYTES = 64 << 20


class LayeredSource(_core.LayeredSource):
    """A memory whose header says in which build each block lies: ``LayeredSource(header, builds)``.

    `header` is a `LayeredHeader`, the path of one or its bytes. `builds` maps UUIDs to the paths of their files or to
    sources; those that no mapping points at are left alone. A compressed build (the header says so) is its compressed
    file: frames are decompressed where the pager reads, never on a thread that handles faults, each once for however
    many wait; those in use, up to `cache_bytes` but never fewer than two, are kept. Zeros are never read. A range may
    cross blocks and builds.

    Raises LayeredHeaderError, or SourceOpenError when a build is missing or shorter than the header says: it names
    the build, its file and the range; what was opened for it is closed again. Thread-safe; the GIL is released while
    files are opened, read and decompressed. In a forked child the source is inert.
    """

    def __init__(
        self,
        header: LayeredHeader | str | os.PathLike[str] | Buffer,
        builds: Mapping[UUID, str | os.PathLike[str] | PageSource],
        *,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        core = header.core() if isinstance(header, LayeredHeader) else _core.LayeredHeader.read(header_bytes(header))
        compressed = {raw for raw, _, _, codec, _ in core.build_rows() if codec}
        layers: dict[bytes, PageSource] = {}
        opened: list[PageSource] = []
        try:
            for raw in core.used_builds():
                given = builds.get(UUID(bytes=raw))
                if given is None:
                    continue  # the core says which range is missing
                if not isinstance(given, PageSource):
                    given = _open(UUID(bytes=raw), given, "pread" if raw in compressed else "mapped")
                    opened.append(given)
                layers[raw] = given
            super().__init__(core, layers, cache_bytes)
        except BaseException:
            for source in opened:
                source.close()
            raise
        self._layers = list(layers.values())

    def resolve(self, offset: int) -> tuple[UUID, int, int]:
        """Where the byte at `offset` lies: ``(build, storage offset, bytes that follow there)``.

        The nil UUID means zeros. Offsets into a compressed build are those of its decompressed bytes. Raises
        SourceRangeError behind the end.
        """
        raw, storage, remaining = self.resolve_bytes(offset)
        return UUID(bytes=raw), storage, remaining

    def close(self) -> None:
        """Ends the source and closes every build, also those given as sources, whatever others raise.

        Raises an ExceptionGroup of what failed. Idempotent.
        """
        super().close()
        layers, self._layers = self._layers, []
        failures = []
        for layer in layers:
            try:
                layer.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"{len(failures)} builds of {self.description} could not be closed", failures)


def _open(build: UUID, path: str | os.PathLike[str], mode: str) -> FileSource:
    try:
        return FileSource(path, mode=mode)
    except SourceOpenError as error:
        named = SourceOpenError(f"the layer of build {build} cannot be opened: {error}")
        named.path, named.errno = error.path, error.errno
        raise named from error
