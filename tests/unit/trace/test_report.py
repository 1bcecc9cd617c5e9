"""The page is whole in itself, says what the summary says, and gives no trace a way to run anything."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.unit.trace.made import info, records, trace
from vmthaw.errors import VmthawFileExistsError, VmthawOSError
from vmthaw.trace import Trace, advise, compare, example, write_report
from vmthaw.trace._info import Gap, SessionInfo
from vmthaw.trace.report import Preface, report_html

VOID = {"meta", "link", "br"}


class Checker(HTMLParser):
    """Every element is closed by its own end; collects ids, addresses and tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data") and value]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def whole() -> str:
    return report_html(example(), title="Two restores", comparisons=[example("second")])


def words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def test_the_page_is_well_formed_and_loads_nothing(whole: str) -> None:
    found = Checker(whole)
    assert len(found.ids) == len(set(found.ids))
    assert not [address for address in found.addresses if not address.startswith(("#", "data:"))]
    assert {"#" + name for name in found.ids} >= {address for address in found.addresses if address.startswith("#")}
    assert not found.tags & {"script", "iframe", "object", "form"}
    assert "default-src 'none'" in whole
    assert "@import" not in whole
    assert set(re.findall(r"url\(([^)]*)", whole)) <= {f"#{name}" for name in found.ids}


def test_it_says_first_what_happened_then_what_it_cost_then_what_to_do(whole: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", whole)
    assert headings[:3] == ["What happened", "What it cost", "What to do about it"]
    assert headings[3:] == ["Beside other restores", "Pictures", "Tables", "Words"]


def test_its_figures_are_those_of_the_trace(whole: str) -> None:
    summary = example().summary()
    text = words(whole)
    assert f"the guest asked {summary.faults:,} times" in text
    for name, figure in summary.rows():
        assert name in text
        assert figure in text
    for advice in advise(example()):
        assert advice.title in text
        assert advice.how in text
    beside = compare(example(), example("second"))
    assert f"both installed {beside.installed_jaccard:.0%}" in text
    assert f"{beside.faults_b:,}" in text


def test_what_a_trace_calls_itself_cannot_become_markup() -> None:
    bad = "<script>alert('x')</script>\"&"
    known = replace(
        info(),
        sessions=(SessionInfo(1, bad), SessionInfo(2, bad)),
        notes={"title": bad, bad: bad},
        clock=bad,
        vmthaw_version=bad,
        gaps=(Gap(0, 1, 1, bad),),
    )
    page = report_html(
        Trace(records({"page": 1}, {"page": 2, "session": 2}), known), comparisons={bad: trace({"page": 1})}
    )
    assert "script" not in Checker(page).tags
    assert page.count(html.escape(bad)) >= 7


def test_traces_without_faults_or_regions_have_a_page_too() -> None:
    assert "The trace has no records." in report_html(trace())
    unknown = Trace.from_records(records({"page": 1}, {"page": 9}))
    assert "live trace" in report_html(unknown)


def test_an_existing_page_is_refused_and_both_remedies_named(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("mine")
    with pytest.raises(VmthawFileExistsError, match=r"another name, or overwrite it .*--force"):
        write_report(trace({"page": 1}), path)
    assert path.read_text() == "mine"
    assert write_report(trace({"page": 1}), path, overwrite=True) == path
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(VmthawOSError, match="cannot be written: No such file"):
        write_report(trace({"page": 1}), tmp_path / "none" / "r.html")
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"], "nothing half written is left"


def test_without_the_extra_the_line_that_installs_it_is_said() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy; from vmthaw.trace import Trace; from vmthaw.trace._schema import FAULTS\n"
        "Trace.from_records(FAULTS.empty_records()).plot_latency()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert "MissingExtraError" in done.stderr
    assert "pip install 'vmthaw[analysis]'" in done.stderr


def test_a_preface_stands_before_all_and_is_text() -> None:
    preface = Preface("Two <ways>", "A guest", ("by", "ms"), [("us & them", "1.5")], ["That is <b>all</b>."])
    found = report_html(example(), preface=preface)
    headings = re.findall(r"<h2>(.*?)</h2>", found)
    assert headings[0] == "Two &lt;ways&gt;"
    assert headings[1].startswith("What happened in ")
    assert '<td>us &amp; them</td><td class="n">1.5</td>' in found
    assert "<p>That is &lt;b&gt;all&lt;/b&gt;.</p>" in found
