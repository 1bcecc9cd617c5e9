"""`vmthaw report` on the traces that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.trace.made import exits, records, write_trace
from vmthaw.cli import cli
from vmthaw.cli._errors import Exit
from vmthaw.trace import example

FIRST, SECOND = (str(example(name).path) for name in ("first", "second"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], prog_name="vmthaw")


def test_it_writes_the_page_and_says_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    result = run(FIRST, "-o", page, "--compare", SECOND, "--title", "A <cold> start")
    assert result.exit_code == 0, result.stderr
    text = page.read_text(encoding="utf-8")
    assert "<title>A &lt;cold&gt; start</title>" in text
    assert "Beside other restores" in text
    assert str(example().summary()) in result.stdout
    assert str(page) in result.stdout


def test_an_existing_page_is_overwritten_with_force_alone(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text("mine")
    result = run(FIRST, "-o", page)
    assert result.exit_code == Exit.UNABLE
    assert result.stderr == f"vmthaw: {page} exists: choose another name, or overwrite it with --force\n"
    assert page.read_text() == "mine"
    assert run(FIRST, "-o", page, "--force").exit_code == 0
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("content", "expected"), [(None, "No such file"), (b"hello there", "is no fault trace")])
def test_what_is_no_trace_is_said_in_one_sentence(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "t.parquet"
    if content is not None:
        path.write_bytes(content)
    result = run(path, "-o", tmp_path / "r.html")
    assert result.exit_code == Exit.UNABLE
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "r.html").exists()


def test_exits_are_shown_unless_they_are_left_alone(tmp_path: Path) -> None:
    path, page = tmp_path / "boot.parquet", tmp_path / "r.html"
    write_trace(path, records({"page": 1}), [exits({}, {})])
    result = run(path, "-o", page)
    assert result.exit_code == 0, result.stderr
    assert "exits by reason" in result.stdout
    assert " 2 IO\n" in result.stdout
    assert "vCPU exits by reason" in page.read_text(encoding="utf-8")
    (tmp_path / "boot.exits.parquet").unlink()
    result = run(path, "-o", page, "--force")
    assert result.exit_code == Exit.UNABLE
    assert result.stderr.startswith(
        f"vmthaw: {path} was recorded with its exits, and {tmp_path / 'boot.exits.parquet'}"
    )
    assert "--no-exits" in result.stderr
    result = run(path, "-o", page, "--force", "--no-exits")
    assert result.exit_code == 0, result.stderr
    assert "exits by reason" not in result.stdout + page.read_text(encoding="utf-8")
