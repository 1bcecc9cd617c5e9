"""Memories on the command line: one grammar of addresses for every command that reads one."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vmthaw.cli._errors import CliError, sentence_of, usage_errors

if TYPE_CHECKING:
    from vmthaw.source import PageSource
    from vmthaw.source._address import Address

ADDRESSES = """\b
Addresses of a memory (in Python: vmthaw.open_source):
  PATH or file:PATH          a memory file; a compressed one is known by its first bytes
  zstd:PATH, lz4:PATH        a file in zstd's seekable format, or of LZ4 frames
  packed:DIR#NAME            what `vmthaw snapshot pack` stored; DIR may be s3://BUCKET/PREFIX
  layers:HEADER?builds=DIR   layers: builds named by UUID in DIR, or each given as UUID=ADDRESS
  machine:DIR                a snapshot of vmthaw.Machine
  unix:PATH?size=SIZE        a page server, like `vmthaw export`; or tcp:HOST:PORT?size=SIZE
  s3://BUCKET/KEY            an object, also gs://, az://, http://, https:// (extra vmthaw[s3])
  zero:SIZE                  zeros
Over it, each after a comma: diff:PATH, a sparse diff; cache: (in memory) or cache:DIR (on disk).
  file:base.mem,diff:1.mem,diff:2.mem        s3://snapshots/vm.mem,cache:/var/cache/vmthaw
Options follow a "?" and each other with "&". Within names write %2C %3F %26 %25 for , ? & %.
"""


def parse_memory(text: str) -> Address:
    """The address taken apart; raises UsageError."""
    from vmthaw.errors import SourceAddressError
    from vmthaw.source._address import parse_address

    with usage_errors(SourceAddressError):
        return parse_address(text)


def open_memory(text: str, **file_options: int | str | None) -> PageSource:
    """The source at an address. `file_options` are those of `FileSource` that an option of the command gave (None: it
    was not given): they go with a memory file alone. Raises UsageError, CliError and what opening raises."""
    from vmthaw.errors import PageSourceError, SourceAddressError, VmthawValueError
    from vmthaw.source._open_source import open_address

    address = parse_memory(text)
    given = {name.replace("_", "-"): str(value) for name, value in file_options.items() if value is not None}
    file = address.file
    for name in given:
        if file is None or Path(file.rest).is_dir():
            raise click.UsageError(f"--{name} goes with a memory file, not with {text}")
        if name in file.options:
            raise click.UsageError(f"--{name} is in the address too: {text}")
    if file is not None:
        _check_file(file.rest)
        stage = dataclasses.replace(file, options={**file.options, **given})
        address = dataclasses.replace(address, stages=(stage,))
    try:
        return open_address(address)
    except PageSourceError as error:
        raise CliError(sentence_of(error)) from error
    except (SourceAddressError, VmthawValueError) as error:
        raise click.UsageError(sentence_of(error)) from error


def plain_file(address: Address) -> Path | None:
    """The path, when the address is nothing but one memory file or header, uncompressed."""
    from vmthaw.source._address import looks_compressed

    file = address.file
    if file is None or file.options or Path(file.rest).is_dir() or looks_compressed(file.rest):
        return None
    return Path(file.rest)


def name_of(address: Address) -> str:
    """What the memory may be called where nobody says: as its file or its object. Raises UsageError."""
    first = address.stages[0]
    name = first.rest.rpartition("#")[2] if first.kind == "packed" else Path(first.rest).name
    if not name or first.kind in ("unix", "tcp", "zero"):
        raise click.UsageError(f"say what the memory at {address.text} is called: --name NAME")
    return name


def _check_file(path: str) -> None:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise CliError(f"the memory file {path} cannot be served: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        if not (Path(path) / "state.bin").exists():
            raise CliError(f"{path} is neither a file nor a block device, nor the directory of a Machine's snapshot")
    elif not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        raise CliError(f"the memory file {path} is neither a file nor a block device")
    elif found.st_size == 0 and stat.S_ISREG(found.st_mode):
        raise CliError(f"the memory file {path} is empty: is the snapshot complete?")
