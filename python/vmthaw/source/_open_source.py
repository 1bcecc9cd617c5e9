"""`open_source`: a page source, by its address."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from vmthaw._core import (
    CachedSource,
    CompressedSource,
    FileSource,
    PageSource,
    SparseDiffSource,
    ZeroSource,
)
from vmthaw._core import LayeredHeader as CoreHeader
from vmthaw.errors import PageSourceError, SourceAddressError, VmthawValueError
from vmthaw.source._address import OVERS, STORES, Address, Stage, looks_compressed, parse_address
from vmthaw.source._address_options import builds_of, keywords_of, size_of, text_of
from vmthaw.source._layered_source import LayeredSource
from vmthaw.source._object_store import ObjectStoreSource, PackedStoreSource
from vmthaw.source._packed_chunks import packed_chunks
from vmthaw.source._packed_source import PackedSource
from vmthaw.source._socket_source import SocketSource

__all__ = ["open_source"]

_PAGE_BYTES = 4096
_DEEPEST = 8
_LARGEST_HEADER = 512 << 20


def open_source(
    address: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | PageSource | None = None,
    builds: Mapping[UUID, str | os.PathLike[str] | PageSource] | None = None,
) -> PageSource:
    """Opens the memory at `address`: a path, or stages, the lowest first, ``KIND:REST[?NAME=VALUE&...][,STAGE]...``.

    What begins with none of these kinds is a path, as it is, to its last character; so is a path object; ``./file:x``
    is one by such a name. In all else ``%XX`` is a byte: write ``, ? & %`` within names as ``%2C %3F %26 %25``
    (`urllib.parse.quote` does).

    ======================================  ========================================================================
    ``file:PATH``                           A memory file, or a compressed one by its first bytes; a directory is
                                            ``machine:``. Options: ram-start, short, mode as of `FileSource`, and
                                            format=raw: never take it for compressed.
    ``compressed:PATH``, ``zstd:``, ...     `CompressedSource`; ``zstd:`` and ``lz4:`` refuse the other. cache=SIZE.
    ``packed:DIRECTORY#NAME``               `PackedSource`; `PackedStoreSource` where DIRECTORY is
                                            ``s3://BUCKET/PREFIX`` or the like. cache=SIZE.
    ``layers:HEADER?builds=DIRECTORY``      `LayeredSource`. Builds are files named by their UUID (with .zst or .lz4
                                            when compressed without the header's knowing), by default beside HEADER;
                                            or UUID=ADDRESS each. cache=SIZE.
    ``machine:DIRECTORY``                   A snapshot of `Machine`. base=DIRECTORY where a diff's base has moved.
    ``unix:PATH?size=SIZE``,                `SocketSource`; the wire does not tell the size. Options: ram-start,
    ``tcp:HOST:PORT?size=SIZE``             page-size, connections, in-flight, timeout (seconds).
    ``s3://BUCKET/KEY``, ``gs://``,         `ObjectStoreSource` (``pip install 'vmthaw[s3]'``). Options: concurrency,
    ``az://``, ``http://``, ``https://``    attempts, hedge (yes, no), timeout.
    ``zero:SIZE``                           `ZeroSource`.
    ``diff:PATH``                           Over another stage: `SparseDiffSource`; several in a row are one.
    ``cache:`` or ``cache:DIRECTORY``       Over another stage: `CachedSource`, in memory, or on disk too. Options:
                                            memory, disk-size, chunk, identity (needed on disk, but not over a store,
                                            whose own cache this is).
    ======================================  ========================================================================

    Examples: ``file:base.mem,diff:1.mem,diff:2.mem``; ``s3://snapshots/vm.mem,cache:/var/cache/vmthaw?memory=1GiB``.

    A file that begins as compressed ones do and has whole pages, as a memory has, is refused: a guest writes its own
    first page, and must not choose how its memory is read. Say ``zstd:``, ``lz4:`` or ``format=raw``.

    `base` is what the first stage lies over, when that is a ``diff:`` or a ``cache:``; `builds` are those of a
    ``layers:``. Both take addresses or sources, and come before what the address says.

    Closing the result closes everything under it, also sources that were given. When opening fails, what was opened
    for it is closed, and what was given is not. Any thread may call it; the GIL is released while files are opened and
    hosts are asked.

    Raises SourceAddressError, which names the part that is wrong and says what would be right; SourceOpenError,
    LayeredHeaderError, SnapshotError or OSError for what cannot be opened; MissingExtraError, which has the line that
    installs obstore.
    """
    return open_address(parse_address(address), base, builds)


def open_address(
    address: Address,
    base: str | os.PathLike[str] | PageSource | None = None,
    builds: Mapping[UUID, str | os.PathLike[str] | PageSource] | None = None,
) -> PageSource:
    """`open_source` of an address that is taken apart already."""
    with contextlib.ExitStack() as opened:
        source = _Opening(opened, builds or {}).open(address, base)
        opened.pop_all()
    return source


def packed_place(address: Address, stage: Stage) -> tuple[str, str]:
    """Directory and name of a ``packed:DIRECTORY#NAME``; the name is empty where it is missing."""
    if not stage.rest:
        raise address.wrong(stage.part, "the directory is missing: write packed:DIRECTORY#NAME")
    if "#" not in stage.raw or "%" in stage.raw.rpartition("#")[2]:  # names have neither
        return stage.rest, ""
    directory, _, name = stage.rest.rpartition("#")
    return directory, name


def _names_in(directory: str) -> list[str]:
    with contextlib.closing(packed_chunks(directory)) as packed:
        return packed.names()


class _OverDiff(SparseDiffSource):
    """Closes what is below as Python does, which may have threads of Python's."""

    def __init__(self, below: PageSource, diffs: Sequence[str]) -> None:
        super().__init__(below, diffs)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


class _OverCache(CachedSource):
    """See `_OverDiff`."""

    def __init__(self, below: PageSource, **options: Any) -> None:
        super().__init__(below, **options)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


_OverDiff.__name__, _OverCache.__name__ = "SparseDiffSource", "CachedSource"


class _Opening:
    """One call of `open_source`: `opened` closes what it opened, in case that it fails."""

    def __init__(
        self,
        opened: contextlib.ExitStack,
        builds: Mapping[UUID, str | os.PathLike[str] | PageSource],
        depth: int = 0,
    ) -> None:
        self._opened = opened
        self._builds = builds
        self._depth = depth
        self._given = False  # something of the caller's is in it, which is not ours to close

    def open(self, address: Address, base: str | os.PathLike[str] | PageSource | None = None) -> PageSource:
        """The whole of it."""
        self._check_order(address, base)
        if self._builds and address.stages[0].kind != "layers":
            raise address.wrong(address.stages[0].part, "builds are those of a layers:HEADER")
        if self._depth > _DEEPEST:
            raise address.wrong(address.text, f"addresses lie within each other more than {_DEEPEST} deep")
        options = [keywords_of(address, stage) for stage in address.stages]  # all, before anything is opened
        self._address = address
        source = self._open_base(base)
        at = 0
        while at < len(address.stages):
            end = at + 1
            stage = address.stages[at]
            while stage.kind == "diff" and end < len(address.stages) and address.stages[end].kind == "diff":
                end += 1
            cached = stage.kind in STORES and end < len(address.stages) and address.stages[end].kind == "cache"
            try:
                if source is None:
                    keywords = {**options[at], **(self._disk(address.stages[end], options[end]) if cached else {})}
                    end += cached
                    source = self._open_bottom(stage, keywords)
                else:
                    source = self._lay_over(source, address.stages[at:end], options[at])
            except SourceAddressError:
                raise
            except VmthawValueError as error:
                if isinstance(error, PageSourceError):
                    raise
                raise address.wrong(",".join(each.part for each in address.stages[at:end]), str(error)) from error
            if not self._given:
                self._opened.callback(source.close)
            at = end
        assert source is not None
        return source

    @staticmethod
    def _check_order(address: Address, base: object) -> None:
        for number, stage in enumerate(address.stages):
            if stage.kind in OVERS and number == 0 and base is None:
                raise address.wrong(
                    stage.part, f"{stage.kind}: lies over another memory: write file:BASE,{stage.part}, or give base="
                )
            if stage.kind not in OVERS and (number > 0 or base is not None):
                overs = " and ".join(f"{kind}:" for kind in OVERS)
                raise address.wrong(stage.part, f"a memory begins with {stage.kind}:; only {overs} lie over another")

    def _open_base(self, base: str | os.PathLike[str] | PageSource | None) -> PageSource | None:
        if base is None:
            return None
        if isinstance(base, PageSource):
            self._given = True
            return base
        return self._nested(base)

    def _nested(self, text: str | os.PathLike[str]) -> PageSource:
        return _Opening(self._opened, {}, self._depth + 1).open(parse_address(text))

    @staticmethod
    def _disk(stage: Stage, keywords: dict[str, Any]) -> dict[str, Any]:
        return {**keywords, **({"disk": stage.rest} if stage.rest else {})}

    def _lay_over(self, below: PageSource, stages: tuple[Stage, ...], keywords: dict[str, Any]) -> PageSource:
        if stages[0].kind == "diff":
            return _OverDiff(below, [self._path(stage) for stage in stages])
        disk = self._disk(stages[0], keywords)
        if "disk" not in disk and disk.keys() & {"disk_size", "identity"}:
            raise self._address.wrong(stages[0].part, "disk-size and identity are those of cache:DIRECTORY")
        return _OverCache(below, **disk)

    def _open_bottom(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        if stage.kind in STORES:
            return self._open_store(stage, keywords)
        if stage.kind in ("unix", "tcp"):
            if "size" not in keywords:
                raise self._address.wrong(
                    stage.part, "how large its memory is, the wire does not tell: add size=, for example ?size=512MiB"
                )
            return SocketSource(f"{stage.kind}:{text_of(self._address, stage)}", **keywords)
        if stage.kind == "zero":
            return ZeroSource(size_of(self._address, stage))
        openers = {"file": self._open_file, "packed": self._open_packed, "layers": self._open_layers,
                   "machine": self._open_machine}  # fmt: skip
        return openers.get(stage.kind, self._open_compressed)(stage, keywords)

    def _path(self, stage: Stage) -> str:
        if not stage.rest:
            raise self._address.wrong(stage.part, f"the path is missing: write {stage.kind}:PATH")
        return stage.rest

    def _open_file(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        path = Path(self._path(stage))
        form = keywords.pop("format", "auto")
        if path.is_dir() and form == "auto" and not keywords:
            return self._open_machine(stage, keywords)
        codec = looks_compressed(path) if form == "auto" else None
        if codec is None:
            return FileSource(path, **keywords)
        if path.stat().st_size % _PAGE_BYTES == 0:
            raise self._address.wrong(
                stage.part,
                f"the file begins as {codec} files do, and has whole pages as a memory has: say {codec}:PATH, or "
                "file:PATH?format=raw for a memory whose guest wrote that",
            )
        if keywords:
            raise self._address.wrong(
                stage.part, f"the file is compressed ({codec}): its options are those of {codec}:PATH"
            )
        return CompressedSource(path)

    def _open_compressed(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        source = CompressedSource(self._path(stage), **keywords)
        if stage.kind not in ("compressed", source.codec):
            source.close()
            raise self._address.wrong(stage.part, f"the file is compressed by {source.codec}: say {source.codec}:PATH")
        return source

    def _open_packed(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        directory, name = packed_place(self._address, stage)
        is_far = "://" in directory
        if not directory or not name:
            found = _names_in(directory) if directory else []
            there = f" (there: {', '.join(found[:10])}{', ...' if len(found) > 10 else ''})" if found else ""
            raise self._address.wrong(stage.part, f"the memory's name is missing: write packed:DIRECTORY#NAME{there}")
        if is_far:
            memory = {"memory": keywords["cache_bytes"]} if "cache_bytes" in keywords else {}
            return PackedStoreSource(directory, name, **memory)
        return PackedSource(directory, name, **keywords)

    def _open_machine(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        from vmthaw.machine import memory_source

        self._path(stage)
        return memory_source(text_of(self._address, stage), **keywords)

    def _open_store(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        text_of(self._address, stage)
        if "disk_size" in keywords and "disk" not in keywords:
            raise self._address.wrong(self._address.text, "disk-size is that of cache:DIRECTORY")
        if keywords.pop("identity", None) is not None:
            raise self._address.wrong(self._address.text, "a store's objects have an identity: leave identity= out")
        return ObjectStoreSource(f"{stage.kind}:{stage.raw}", **keywords)

    def _open_layers(self, stage: Stage, keywords: dict[str, Any]) -> PageSource:
        header = Path(self._path(stage))
        folder = Path(keywords.pop("builds", header.parent))
        if header.stat().st_size > _LARGEST_HEADER:
            raise self._address.wrong(stage.part, "the file is larger than any header: is it a memory? Say file:PATH")
        data = header.read_bytes()
        core = CoreHeader.read(data)
        compressed = {UUID(bytes=raw) for raw, _, _, codec, _ in core.build_rows() if codec}
        named = {**builds_of(stage), **self._builds}
        found: dict[UUID, str | os.PathLike[str] | PageSource] = {}
        for build in (UUID(bytes=raw) for raw in core.used_builds()):
            one = named.get(build)
            if one is None:
                found[build] = self._build_in(folder, build, packed=build not in compressed)
            elif isinstance(one, str):
                file = parse_address(one).file
                # Of a compressed build the header knows the frames: its file is taken as it is.
                as_it_is = build in compressed and file is not None and not file.options
                found[build] = file.rest if as_it_is and file is not None else self._nested(one)
            else:
                self._given = self._given or isinstance(one, PageSource)
                found[build] = one
        return LayeredSource(data, found, **keywords)

    def _build_in(self, folder: Path, build: UUID, *, packed: bool) -> Path | PageSource:
        plain = folder / str(build)
        if packed and not plain.exists():
            for suffix in (".zst", ".lz4"):
                path = folder / f"{build}{suffix}"
                if path.exists():
                    source = CompressedSource(path)
                    self._opened.callback(source.close)
                    return source
        return plain
