"""clang-tidy over every translation unit of build/release, skipping what was clean and has not changed since.

A unit is known by a hash of the tool, its configuration, the compile command and every file of ours that the unit
included when it was last compiled (`ninja -t deps`). Clean units leave an empty file of that name in build/lint/tidy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.tree import ROOT

TOOL = "clang-tidy-19"
# GCC's options that clang does not know.
_FOREIGN = ("-fno-fat-lto-objects", "-fno-lto", "-flto", "-fno-reorder-functions", "-fno-tree-loop-distribute-patterns")


# The analyzer explores so many states of a function, not 225,000: a third of the time, and calls from file to file
# are followed where it saw one file alone.
_BOUND = ("-Xclang", "-analyzer-config", "-Xclang", "max-nodes=50000")


@dataclass(frozen=True)
class Unit:
    """One entry of compile_commands.json, as it is compiled: most are several files (a unity build), whose headers are
    then read once and whose calls are followed from file to file."""

    compiled: Path
    sources: tuple[Path, ...]
    output: str
    command: list[str]
    directory: Path


def units(build: Path) -> list[Unit]:
    """Our translation units, in the order of the build."""
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    found = []
    for entry in entries:
        words = shlex.split(entry["command"])
        compiled = Path(entry["file"])
        sources = _sources(compiled)
        # Tests unwrap optionals and leave threads unreserved on purpose; warnings are errors there.
        if all(source.is_relative_to(ROOT / "src") for source in sources):
            output = words[words.index("-o") + 1]
            found.append(Unit(compiled, sources, output, words, Path(entry["directory"])))
    return found


def _sources(compiled: Path) -> tuple[Path, ...]:
    """What one file of the build consists of: several files where CMake compiles them as one."""
    if compiled.parent.name != "Unity":
        return (compiled,)
    includes = re.findall(r'^#include "(.+\.cpp)"$', compiled.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return tuple(Path(include) for include in includes)


def dependencies(build: Path) -> dict[str, list[Path]]:
    """Object file to the files of ours that went into it."""
    listing = subprocess.run(["ninja", "-C", build, "-t", "deps"], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[Path]] = {}
    for block in listing.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("ninja:")]
        if lines and (head := re.match(r"(\S+): #deps \d+.*\(VALID\)", lines[0])):
            paths = [Path(os.path.normpath(build / line.strip())) for line in lines[1:]]
            found[head[1]] = [path for path in paths if path.is_relative_to(ROOT)]
    return found


def fingerprint(unit: Unit, files: list[Path], version: str) -> str:
    """The name of a unit's verdict."""
    digest = hashlib.sha256(f"{version}\0{unit.command!r}\0".encode())
    for path in sorted({unit.compiled, *files, ROOT / ".clang-tidy"}):
        digest.update(f"{path}\0".encode())
        digest.update(path.read_bytes() if path.exists() else b"missing")
    return digest.hexdigest()


def as_one_file(sources: tuple[Path, ...], folder: Path, number: int) -> Path:
    """A file that includes the sources. The static analyzer follows what a file includes where it is called so only."""
    together = folder / f"UnifiedSource{number}.cpp"
    together.write_text("".join(f'#include "{source}"\n' for source in sources), encoding="utf-8")
    return together


def _check(file: Path, unit: Unit, verdict: Path | None, database: Path) -> str:
    done = subprocess.run([TOOL, "--quiet", f"-p={database}", str(file)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        if verdict is not None:
            verdict.touch()  # at once: a run that is ended early has not been for nothing
        return ""
    lines = done.stdout.strip() or done.stderr.strip()
    return f"== {unit.output}\n{lines}\n"


def run(build: Path, jobs: int) -> list[str]:
    """What clang-tidy says, a text for each unit that is not clean."""
    version = subprocess.run([TOOL, "--version"], capture_output=True, text=True, check=True).stdout
    verdicts = ROOT / "build" / "lint" / "tidy"
    verdicts.mkdir(parents=True, exist_ok=True)
    known = dependencies(build)
    waiting: list[tuple[Unit, Path | None]] = []
    for unit in units(build):
        output = os.path.relpath(unit.directory / unit.output, build)
        included = known.get(output)
        verdict = verdicts / fingerprint(unit, included, version) if included else None
        if verdict is None or not verdict.exists():
            waiting.append((unit, verdict))
    database = ROOT / "build" / "lint" / "database"
    database.mkdir(parents=True, exist_ok=True)
    files = [as_one_file(unit.sources, database, number) for number, (unit, _) in enumerate(waiting)]
    entries = [
        {
            "file": str(file),
            "directory": str(unit.directory),
            "arguments": [
                str(file) if part == str(unit.compiled) else part
                for part in unit.command
                if not part.startswith(_FOREIGN)
            ]
            + ["-Wno-unknown-warning-option", *_BOUND],
        }
        for file, (unit, _) in zip(files, waiting, strict=True)
    ]
    (database / "compile_commands.json").write_text(json.dumps(entries), encoding="utf-8")
    with ThreadPoolExecutor(jobs) as pool:
        answers = list(pool.map(lambda file, item: _check(file, item[0], item[1], database), files, waiting))
    return [answer for answer in answers if answer]
