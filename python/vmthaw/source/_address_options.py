"""The options that the stages of an address take, by kind: how their values are read, and what they become."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from vmthaw._sizes import parse_size
from vmthaw.source._address import STORES, Address, Stage

_MOST_BYTES = 1 << 62
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Option:
    """`keyword` of the source's constructor, and how a value is read: ValueError says what would be right."""

    keyword: str
    read: Callable[[str], Any]


def _size(text: str) -> int:
    try:
        size = parse_size(text)
    except OverflowError:
        size = _MOST_BYTES
    if size >= _MOST_BYTES:
        raise ValueError(f"{text!r} is too large")
    return size


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is no number: write for example 16")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 1e6:
        raise ValueError(f"{text!r} is no number of seconds above 0")
    return seconds


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is no UTF-8") from None
    if not text:
        raise ValueError("it is empty")
    return text


def _path(text: str) -> str:
    if not text:
        raise ValueError("the path is missing")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return read


def _yes(text: str) -> bool:
    return _one_of("yes", "no")(text) == "yes"


_CACHE_BYTES = {"cache": Option("cache_bytes", _size)}
_SOCKET = {
    "size": Option("size", _size),
    "ram-start": Option("ram_start", _size),
    "page-size": Option("page_size", _size),
    "connections": Option("connections", _count),
    "in-flight": Option("max_in_flight", _count),
    "timeout": Option("timeout", _seconds),
}
_STORE = {
    "concurrency": Option("concurrency", _count),
    "attempts": Option("attempts", _count),
    "hedge": Option("hedge", _yes),
    "timeout": Option("timeout", _seconds),
}

OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "file": {
        "format": Option("format", _one_of("auto", "raw")),
        "ram-start": Option("ram_start", _size),
        "short": Option("short", _one_of("zero", "error")),
        "mode": Option("mode", _one_of("mapped", "pread")),
    },
    "compressed": _CACHE_BYTES,
    "zstd": _CACHE_BYTES,
    "lz4": _CACHE_BYTES,
    "packed": _CACHE_BYTES,
    "layers": {"builds": Option("builds", _path), **_CACHE_BYTES},
    "machine": {"base": Option("base", _text)},
    "unix": _SOCKET,
    "tcp": _SOCKET,
    **dict.fromkeys(STORES, _STORE),
    "zero": {},
    "diff": {},
    "cache": {
        "memory": Option("memory", _size),
        "disk-size": Option("disk_size", _size),
        "chunk": Option("chunk", _size),
        "identity": Option("identity", _text),
    },
}


def keywords_of(address: Address, stage: Stage) -> dict[str, Any]:
    """What the options of `stage` are for the constructor of its source. Raises SourceAddressError."""
    known = OPTIONS[stage.kind]
    found: dict[str, Any] = {}
    for name, value in stage.options.items():
        part = f"{name}={value}"
        option = known.get(name)
        if option is None:
            if stage.kind == "layers" and is_uuid(name):
                continue
            names = [*known, *(["UUID=ADDRESS"] if stage.kind == "layers" else [])]
            right = f"they are {', '.join(names)}" if names else "it takes none"
            raise address.wrong(part, f"{stage.kind}: has no option {name!r}; {right}")
        try:
            found[option.keyword] = option.read(value)
        except ValueError as error:
            raise address.wrong(part, str(error)) from error
    return found


def builds_of(stage: Stage) -> dict[UUID, str]:
    """The options of a ``layers:`` that name builds: their addresses."""
    return {UUID(name): value for name, value in stage.options.items() if is_uuid(name)}


def is_uuid(text: str) -> bool:
    """As builds are written: 8-4-4-4-12 hexadecimal digits."""
    return _UUID.fullmatch(text) is not None


def text_of(address: Address, stage: Stage) -> str:
    """The rest of a stage that is no path. Raises SourceAddressError where it is no UTF-8."""
    try:
        stage.rest.encode()
    except UnicodeEncodeError:
        raise address.wrong(stage.part, "it is no UTF-8") from None
    return stage.rest


def size_of(address: Address, stage: Stage) -> int:
    """The rest of a ``zero:``, in bytes. Raises SourceAddressError."""
    try:
        return _size(stage.rest)
    except ValueError as error:
        raise address.wrong(stage.part, str(error)) from error
