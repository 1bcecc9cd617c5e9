"""`vmthaw snapshot`: what is in snapshots on disk, and what can be made of them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vmthaw.cli._errors import EXIT_CODES, CliError, Commands, Exit, debug_option
from vmthaw.cli._memory import ADDRESSES, open_memory, parse_memory, plain_file
from vmthaw.cli._values import format_size

if TYPE_CHECKING:
    from vmthaw._snapshot_inspect import Inspection, Layer


@click.group(cls=Commands, epilog=EXIT_CODES, short_help="Inspect, merge and pack memory files.")
@debug_option
def snapshot() -> None:
    """Look into snapshots on disk, and make others of them."""


_EPILOG = f"{ADDRESSES}\n{EXIT_CODES}"


@snapshot.command(epilog=_EPILOG, short_help="Say what a header or a memory consists of.")
@click.argument("file", metavar="ADDRESS")
@click.option(
    "--builds",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where a header's builds are, each named by its UUID; by default beside it.",
)
@click.option("--verify", is_flag=True, help="Check all that can be checked: builds, sizes, frames, checksums.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@debug_option
def inspect(file: str, builds: Path | None, verify: bool, as_json: bool) -> int:
    """Print the layers at ADDRESS, their bytes and their share of zeros, and how many files a restore reads.

    ADDRESS is the file with the header of a layered memory (E2B, Wrenn; versions 1 to 5), a memory file, or any other
    memory, of which all data is read then. Problems end the command with exit code 1.
    """
    from vmthaw._snapshot_inspect import inspect as look
    from vmthaw._snapshot_inspect import inspect_source
    from vmthaw.errors import VmthawError

    address = parse_memory(file)
    path = plain_file(address)
    if path is None and builds is not None:
        raise click.UsageError(f"--builds goes with the file of a header, not with {file}; layers:HEADER?builds=DIR")
    try:
        if path is not None:
            found = look(path, builds, verify)
        else:
            with open_memory(file) as source:
                found = inspect_source(source, file)
    except (OSError, VmthawError) as error:
        raise CliError(f"{file}: {error}") from error
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "depth": found.depth}))
    else:
        for line in _lines(found):
            click.echo(line)
    return Exit.FAILED if found.problems else Exit.OK


@snapshot.command(epilog=_EPILOG, short_help="Write a base and its diffs as one memory file.")
@click.argument("base", metavar="ADDRESS")
@click.argument("diffs", metavar="DIFF...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The memory file to write. It appears whole or not at all.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object: size and data, in bytes.")
@debug_option
def merge(base: str, diffs: tuple[Path, ...], output: Path, force: bool, as_json: bool) -> int:
    """Write the memory that the one at ADDRESS and each DIFF over it, the oldest first, are together.

    Holes of a DIFF are what lies below it; zeros become holes. Where ADDRESS is a memory file and the file system can
    share data between files, nothing is copied.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from vmthaw._snapshot_merge import merge as write
    from vmthaw._snapshot_merge import write_whole
    from vmthaw.errors import VmthawError
    from vmthaw.source import SparseDiffSource

    path = plain_file(parse_memory(base))
    if output.exists() and not force:
        raise CliError(f"{output} exists: choose another name, or overwrite it with --force")
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
    try:
        with bar:
            task = bar.add_task("merge", total=None)
            if path is not None:
                bar.update(task, total=path.stat().st_size)
                done = write(path, diffs, output, lambda at: bar.update(task, completed=at))
            else:
                with open_memory(base) as below, SparseDiffSource(below, diffs) as source:
                    bar.update(task, total=source.size)
                    done = write_whole(source, output, lambda at: bar.update(task, completed=at))
    except (OSError, VmthawError) as error:
        raise CliError(str(error)) from error
    if as_json:
        click.echo(json.dumps({"output": str(output), **dataclasses.asdict(done)}))
    else:
        click.echo(f"{output}: {format_size(done.size)}, {format_size(done.data)} of it data, the rest holes")
    return Exit.OK


def _lines(found: Inspection) -> list[str]:
    lines = [f"{found.path}: {'header of layered memory' if found.kind == 'header' else 'memory file'}"]
    lines += [f"  {name.replace('_', ' ')}: {value}" for name, value in found.header.items()]
    lines.append(f"  size: {format_size(found.size)} ({found.size} bytes)")
    what = "nil, never read" if found.kind == "header" else "holes"
    lines.append(f"  zeros: {format_size(found.zero_bytes)}, {_share(found.zero_bytes, found.size)} ({what})")
    lines.append(f"  layers: {found.depth}")
    lines += [f"    {_layer_line(layer, found.size)}" for layer in found.layers]
    return lines + [f"  problem: {problem}" for problem in found.problems]


def _layer_line(layer: Layer, size: int) -> str:
    text = f"{layer.name}: {format_size(layer.bytes)}, {_share(layer.bytes, size)}, {layer.mappings} runs"
    if layer.codec != "none":
        text += f", {layer.codec} in {layer.frames} frames"
    if layer.zero_bytes is not None:
        text += f"; {_share(layer.zero_bytes, layer.bytes)} of it zeros"
    if layer.checksum is not None:
        text += "; SHA-256 " + layer.checksum
    return text if layer.file is not None else text + "; its file is not here"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0.0 %"
