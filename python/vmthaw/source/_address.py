"""The address of a memory, taken apart: stages, and the options of each. Nothing is opened here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from vmthaw.errors import SourceAddressError

STORES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https")
BOTTOMS = (
    "file", "compressed", "zstd", "lz4", "packed", "layers", "machine", "unix", "tcp", *STORES, "zero",
)  # fmt: skip
OVERS = ("diff", "cache")

_HEAD = re.compile(r"([a-z][a-z0-9]*):")
_LIKE_A_HEAD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Stage:
    """``KIND:REST?NAME=VALUE&...``. `part` and `raw` (the rest) are as they were written; in `rest` and the values
    of `options` each ``%XX`` has become a byte."""

    kind: str
    rest: str
    raw: str = ""
    part: str = ""
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """What was written, and its stages, the lowest first."""

    text: str
    stages: tuple[Stage, ...]

    @property
    def file(self) -> Stage | None:
        """The stage, when it is a file and nothing else."""
        return self.stages[0] if len(self.stages) == 1 and self.stages[0].kind == "file" else None

    def wrong(self, part: str, why: str) -> SourceAddressError:
        """The error to raise about `part` of it; `why` also says what would be right."""
        return address_error(self.text, part, why)


def address_error(text: str, part: str, why: str) -> SourceAddressError:
    """Names the part only where it is not all."""
    where = f"{text!r}" if part == text or not part else f"{part!r} in {text!r}"
    error = SourceAddressError(f"{where} is no address of a memory: {why}")
    error.address, error.part = text, part
    return error


def parse_address(address: str | os.PathLike[str]) -> Address:
    """Takes it apart; raises SourceAddressError. What begins with no kind is a path, as it is, to its last character,
    and so is every path object; whether a file is there changes nothing about that."""
    if not isinstance(address, str):
        path = os.fspath(address)
        return Address(path, (Stage("file", path, path, path),))
    if not address:
        raise address_error("", "", "it is empty: give a path, or KIND:...")
    if "\0" in address:
        raise address_error(address, "", "it holds a NUL byte, which nothing has in its name")
    head = _HEAD.match(address)
    if head is None or head[1] not in (*BOTTOMS, *OVERS):
        _check_path(address)
        return Address(address, (Stage("file", address, address, address),))
    return Address(address, tuple(_stage(address, part) for part in address.split(",")))


def _check_path(text: str) -> None:
    """A file that is not there, by a name like an address: more likely it was meant for one."""
    head = _LIKE_A_HEAD.match(text)
    if os.path.lexists(text):
        return
    if head is not None:
        kinds = ", ".join(f"{kind}:" for kind in (*BOTTOMS, *OVERS))
        raise address_error(text, head[0], f"there is no such file, and no such kind: the kinds are {kinds}")
    path, comma, over = text.partition(",")
    if comma and over.startswith(tuple(f"{kind}:" for kind in OVERS)):
        raise address_error(text, path, f"stages are laid over an address with a kind: write file:{path},{over}")


def _stage(address: str, part: str) -> Stage:
    head = _HEAD.match(part)
    if head is None or head[1] not in (*BOTTOMS, *OVERS):
        raise address_error(
            address, part, f"a stage begins with {' or '.join(f'{kind}:' for kind in OVERS)}; write a comma within a "
            "name as %2C"
        )  # fmt: skip
    body, question, query = part.partition("?")
    raw = body[head.end() :]
    options: dict[str, str] = {}
    for text in query.split("&") if question else ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise address_error(
                address, text or part, "an option is NAME=VALUE; write a question mark within a name as %3F"
            )
        if name in options:
            raise address_error(address, text, f"{name} is said twice")
        options[name] = _decoded(address, text, value)
    return Stage(head[1], _decoded(address, part, raw), raw, part, options)


def _decoded(address: str, part: str, text: str) -> str:
    if _BAD_PERCENT.search(text):
        raise address_error(address, part, "a percent sign begins two hexadecimal digits: write it as %25")
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(text)))
    if "\0" in decoded:
        raise address_error(address, part, "%00 is a NUL byte, which nothing has in its name")
    return decoded


def looks_compressed(path: str | os.PathLike[str]) -> str | None:
    """``zstd`` or ``lz4`` where a regular file begins as those do. Errors are left to whoever opens it."""
    magics = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x02\x21\x4c\x18": "lz4"}
    file = Path(path)
    try:
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            return magics.get(opened.read(4))
    except OSError:
        return None
