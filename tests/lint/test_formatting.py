"""clang-format, ruff and the rules about files that no tool knows."""

from __future__ import annotations

import re
import sys

from tests.support import tree

MAX_LINES = 350
# Written so that this file does not contain what it forbids.
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:" + "|".join(["ho" + "me", "ro" + "ot", "wo" + "rk"]) + r")/")
REGISTRY_HOSTS = re.compile(
    "|".join(
        [
            "pypi" + r"\.org",
            "pythonhosted" + r"\.org",
            "deb" + r"\.debian\.org",
            "archive" + r"\.ubuntu",
            "proxy" + r"\.golang",
        ]
    )
)


def test_cpp_is_formatted() -> None:
    sources = tree.files(".hpp", ".cpp")
    assert sources
    status, output = tree.run("clang-format-19", "--dry-run", "-Werror", *sources)
    offenders = sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", output, re.MULTILINE)))
    assert status == 0, f"run `clang-format-19 -i` on: {offenders or output}"


def test_python_passes_ruff() -> None:
    status, output = tree.run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", ".")
    assert status == 0, output


def test_python_is_formatted() -> None:
    status, output = tree.run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")
    assert status == 0, output


def test_no_source_file_is_longer_than_the_limit() -> None:
    long = {}
    for path in tree.files(".hpp", ".cpp", ".py", ".pyi", ".cmake", ".sh"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES and path.name != "_core.pyi":
            long[str(path.relative_to(tree.ROOT))] = lines
    assert not long, f"over {MAX_LINES} lines: split by what changes together"


def test_no_file_names_a_machine_path_or_a_registry_host() -> None:
    found = []
    for path in tree.files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line) or REGISTRY_HOSTS.search(line):
                found.append(f"{path.relative_to(tree.ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_patterns_find_what_they_forbid() -> None:
    assert MACHINE_PATHS.search("open('/ho" + "me/somebody/x')")
    assert MACHINE_PATHS.search('"/ro' + 'ot/.cache"')
    assert not MACHINE_PATHS.search("a /rooted tree, tests/wo" + "rk/x")
    assert REGISTRY_HOSTS.search("https://pypi" + ".org/simple")


def test_every_header_guards_itself_once() -> None:
    wrong = [
        str(path.relative_to(tree.ROOT))
        for path in tree.files(".hpp")
        if not path.read_text(encoding="utf-8").startswith("#pragma once\n")
    ]
    assert wrong == []
