"""`vmthaw snapshot pack`, `unpack` and `verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from vmthaw.cli._errors import EXIT_CODES, CliError, Exit, debug_option, usage_errors
from vmthaw.cli._memory import ADDRESSES, name_of, open_memory, parse_memory
from vmthaw.cli._values import format_size

if TYPE_CHECKING:
    _Where: TypeAlias = click.ParamType[Path | str]
else:
    _Where = click.ParamType


class _Store(_Where):
    """A directory, or the address of a prefix of an object store."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if isinstance(value, str) and "://" in value:
            return _store(value)
        return Path(os.fsdecode(click.Path(file_okay=False).convert(value, param, ctx)))


def _store(text: str) -> Path | str:
    return text.rstrip("/") if "://" in text else Path(text)


_DIRECTORY = _Store()
_JSON = click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")


@click.command(epilog=f"{ADDRESSES}\n{EXIT_CODES}", short_help="Store a memory as compressed chunks, equal ones once.")
@click.argument("file", metavar="ADDRESS")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--name", help="What the memory is called in DIR; by default as its file or object.")
@click.option("--codec", type=click.Choice(["zstd", "lz4"]), default="zstd", show_default=True)
@click.option("--level", type=int, help="The codec's own level; by default zstd's 3 or lz4's 0.")
@click.option("--chunk-kib", type=int, default=256, show_default=True, help="KiB of memory in a chunk: 4 to 4096.")
@click.option("--force", is_flag=True, help="Replace the memory of that name if there is one.")
@_JSON
@debug_option
def pack(
    file: str,
    directory: Path | str,
    name: str | None,
    codec: str,
    level: int | None,
    chunk_kib: int,
    force: bool,
    as_json: bool,
) -> int:
    """Store the memory at ADDRESS in DIR as compressed chunks, each named by what is in it.

    Zeros take nothing, and chunks that DIR has, from this memory or another, are not stored again. When it is
    interrupted, run it once more: it goes on with what is missing. `unpack` gives the memory back, `verify` checks it,
    and packed:DIR#NAME restores from it. DIR may be a prefix of an object store (s3://bucket/prefix), with credentials
    from the environment.
    """
    from vmthaw._snapshot_pack import pack as write
    from vmthaw.errors import VmthawError
    from vmthaw.source._packed_chunks import packed_chunks

    name = name or name_of(parse_memory(file))
    try:
        with contextlib.closing(packed_chunks(directory)) as packed:
            if packed.has_manifest(name) and not force:
                raise CliError(f"{directory} has a memory {name}: choose another --name, or replace it with --force")
        with open_memory(file) as source, _bar("pack") as progress:
            done = write(
                source, directory, name, codec=codec, level=level, chunk_bytes=chunk_kib << 10, progress=progress
            )
    except (OSError, VmthawError) as error:
        raise CliError(str(error)) from error
    if as_json:
        click.echo(json.dumps({"name": name, **dataclasses.asdict(done)}))
        return Exit.OK
    click.echo(
        f"{directory}/{name}: {format_size(done.size)}, {format_size(done.zero_bytes)} of it zeros; {done.stored} "
        f"chunks written ({format_size(done.stored_bytes)}), {done.shared} shared"
    )
    return Exit.OK


@click.command(epilog=f"{ADDRESSES}\n{EXIT_CODES}", short_help="Write a packed memory, or any other, as one file.")
@click.argument("words", metavar="{DIR NAME | ADDRESS} FILE", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@_JSON
@debug_option
def unpack(words: tuple[str, ...], force: bool, as_json: bool) -> int:
    """Write the memory NAME of DIR (or s3://bucket/prefix), or the one at ADDRESS, to FILE: sparse, and whole or not
    at all."""
    from vmthaw._snapshot_merge import write_whole
    from vmthaw._snapshot_pack import unpack as write
    from vmthaw.errors import VmthawError

    if len(words) not in (2, 3):
        raise click.UsageError("give the memory, DIR NAME or ADDRESS, and the FILE to write")
    output = Path(words[-1])
    if output.exists() and not force:
        raise CliError(f"{output} exists: choose another name, or overwrite it with --force")
    try:
        with _bar("unpack") as progress:
            if len(words) == 3:
                size = write(_store(words[0]), words[1], output, progress=progress)
            else:
                with open_memory(words[0]) as source:
                    size = source.size
                    write_whole(source, output, lambda done: progress(done, size))
    except (OSError, VmthawError) as error:
        raise CliError(str(error)) from error
    click.echo(json.dumps({"path": str(output), "size": size}) if as_json else f"{output}: {format_size(size)}")
    return Exit.OK


@click.command(epilog=EXIT_CODES, short_help="Check packed memories against their hashes.")
@click.argument("directory", metavar="DIR")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@_JSON
@debug_option
def verify(directory: str, names: tuple[str, ...], as_json: bool) -> int:
    """Read every chunk of the memories NAME (by default all) of DIR (or s3://bucket/prefix), once, and hold it
    against its hash.

    DIR may be packed:DIR, or packed:DIR#NAME. What is damaged is named, and ends the command with exit code 1.
    """
    from vmthaw._snapshot_pack import verify as check
    from vmthaw.errors import VmthawError

    place, name = _place(directory)
    try:
        with _bar("verify") as progress:
            damage = check(place, [*names, *([name] if name else [])], progress=progress)
    except (OSError, VmthawError) as error:
        raise CliError(str(error)) from error
    if as_json:
        rows = [{**dataclasses.asdict(one), "path": str(one.path)} for one in damage]
        click.echo(json.dumps({"damage": rows}))
        return Exit.FAILED if damage else Exit.OK
    for one in damage:
        click.echo(str(one))
    click.echo(f"{len(damage)} chunks are damaged; remove them and pack the memory again" if damage else "all is well")
    return Exit.FAILED if damage else Exit.OK


def _place(text: str) -> tuple[Path | str, str]:
    """Directory, or prefix of a store, and name of what may be a ``packed:`` address."""
    from vmthaw.errors import SourceAddressError
    from vmthaw.source._open_source import packed_place

    if not text.startswith("packed:"):
        return _store(text), ""
    address = parse_memory(text)
    if len(address.stages) == 1 and address.stages[0].kind == "packed":
        with usage_errors(SourceAddressError):
            directory, name = packed_place(address, address.stages[0])
        return _store(directory), name
    return Path(text), ""


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes and rate on a terminal's standard error; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
