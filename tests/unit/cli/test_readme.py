"""The README's section about the command line speaks of commands, options and exit codes that there are."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from tests.support.tree import ROOT
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit


def section() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## Command line\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def lines_that_run_it() -> list[str]:
    return re.findall(r"^ {4}(?:ExecStart=/usr/bin/)?vmthaw ([^#\n]*)", section(), re.MULTILINE)


def options_of(command: click.Command) -> dict[str, click.Parameter]:
    return {name: parameter for parameter in command.params for name in parameter.opts}


def all_commands() -> dict[str, click.Command]:
    """Those in groups, too, by both their names."""
    found: dict[str, click.Command] = {}
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": below for inner, below in command.commands.items()}
        else:
            found[name] = command
    return found


def test_each_command_is_shown() -> None:
    assert {line.split()[0] for line in lines_that_run_it()} == set(cli.commands)


@pytest.mark.parametrize("line", lines_that_run_it())
def test_each_line_is_understood(line: str) -> None:
    name, *arguments = shlex.split(line)
    cli.commands[name].make_context(name, arguments)


def test_each_option_is_one_of_a_command() -> None:
    known = {name for command in all_commands().values() for name in [*options_of(command), "--help"]}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section()))
    assert len(named) > 10
    assert named <= known


def test_the_options_of_all_commands_are_those_that_it_says() -> None:
    said = re.search(r"All but `(\w+)` take `--json`", section())
    assert said is not None
    assert [name for name, command in all_commands().items() if "--json" not in options_of(command)] == [said[1]]
    assert all("--debug" in options_of(command) for command in cli.commands.values())


def test_the_time_for_draining_is_the_default() -> None:
    said = re.search(r"`--drain-timeout` \((\d+) s\)", section())
    assert said is not None
    assert options_of(cli.commands["serve"])["--drain-timeout"].default == float(said[1])


def test_the_exit_codes_are_all_that_there_are() -> None:
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section(), re.MULTILINE)] == [code.value for code in Exit]
