"""The house: which room of src/ stands on which, and what includes say about it."""

from __future__ import annotations

import re
from pathlib import Path

# The design's arrows, one room a line. A room may include itself, the rooms named and what those stand on.
STANDS_ON: dict[str, tuple[str, ...]] = {
    "kernel": (),
    "base": (),
    "userfaultfd": ("base", "kernel"),
    "trace": ("base",),
    "source": ("base",),
    "pager": ("userfaultfd", "source", "trace"),
    "handover": ("pager",),
    "kvm": ("base", "kernel"),
    "vcpu": ("kernel", "base"),
    "devices": ("base",),
    "virtio": ("base",),
    "machine": ("kvm", "vcpu", "devices", "trace"),
    "fuse_protocol": ("base", "kernel"),
    "filesystem": ("fuse_protocol",),
    "dax": ("fuse_protocol", "filesystem", "trace", "kvm"),
    "fuse": ("filesystem", "dax"),
    "testing": ("userfaultfd", "trace"),
}

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)
_PYTHON = re.compile(r"^(Python\.h|pybind11/.*|numpy/.*)$")


def reachable(room: str) -> set[str]:
    """The room itself and everything below it."""
    rooms, waiting = set[str](), [room]
    while waiting:
        current = waiting.pop()
        if current not in rooms:
            rooms.add(current)
            waiting.extend(STANDS_ON.get(current, ()))
    return rooms


def problems(src: Path) -> list[str]:
    """Every include below `src` that points back or sideways, leads nowhere, or brings Python into the core."""
    found: list[str] = []
    for path in sorted([*src.rglob("*.hpp"), *src.rglob("*.cpp")]):
        room = path.relative_to(src).parts[0]
        name = path.relative_to(src)
        if room != "bindings" and room not in STANDS_ON:
            found.append(f"{name}: `{room}` is no room of the design (tests/support/rooms.py)")
            continue
        for quote, target in _INCLUDE.findall(path.read_text(encoding="utf-8")):
            if room != "bindings" and _PYTHON.match(target):
                found.append(f"{name}: includes {target}; only src/bindings may know of Python")
            if quote == "<":
                if target.split("/")[0] in (*STANDS_ON, "bindings") and (src / target).is_file():
                    found.append(f'{name}: includes <{target}>; write "{target}"')
                continue
            if not (src / target).exists() and not _PYTHON.match(target):
                found.append(f"{name}: includes {target}, which is not below src")
                continue
            if room != "bindings" and target.split("/")[0] not in reachable(room):
                allowed = ", ".join(sorted(reachable(room)))
                found.append(f"{name}: includes {target}; the room `{room}` may include {allowed}")
    return found
