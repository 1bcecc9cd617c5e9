"""A browser shows the report: without a complaint, without the network, in light and in dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vmthaw.trace import Preface, example, write_report

WIDTH, HEIGHT = 1000, 1600


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    preface = Preface("Two ways", "A guest", ("restored by", "ms"), [("first", "3.5"), ("second", "1.5")], ["So."])
    return write_report(example(), path, title="Two restores", comparisons=[example("second")], preface=preface)


def browse(page: Path, directory: Path, *options: str) -> str:
    """Runs headless Chromium; gives what its log and console said. Skips where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: scripts/setup installs it")
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--enable-logging=stderr",
            f"--user-data-dir={directory / 'profile'}", f"--window-size={WIDTH},{HEIGHT}", *options, page.as_uri(),
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


def complaints(log: str) -> list[str]:
    """Lines of the page's console: errors of scripts, styles, addresses and the content policy."""
    return re.findall(r".*:CONSOLE.*", log)


def picture(page: Path, directory: Path, scheme: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The first screen, as bytes of shape (height, width, 3)."""
    from matplotlib.image import imread

    path = directory / f"{scheme}.png"
    # Of Chromium's enumeration PreferredColorScheme.
    number = {"dark": 0, "light": 1}[scheme]
    log = browse(page, directory, f"--blink-settings=preferredColorScheme={number}", f"--screenshot={path}")
    assert complaints(log) == []
    return (imread(path)[:, :, :3] * 255).astype(np.uint8)


def test_the_browser_has_nothing_to_complain_of_in_light_or_dark(report: Path, tmp_path: Path) -> None:
    light, dark = picture(report, tmp_path, "light"), picture(report, tmp_path, "dark")
    assert light.shape == dark.shape == (HEIGHT, WIDTH, 3)
    assert light[2, 2].tolist() == [255, 255, 255]
    assert dark[2, 2].tolist() == [0x14, 0x17, 0x1C]
    for shot in (light, dark):
        ground = shot[2, 2].astype(int)
        away = np.abs(shot.astype(int) - ground).max(axis=2)
        assert (away > 150).mean() > 0.01, "text stands out from the ground"


def test_the_pictures_have_their_size_on_the_page(report: Path, tmp_path: Path) -> None:
    dom = browse(report, tmp_path, "--dump-dom")
    assert dom.count('<svg role="img"') == 5
    assert dom.count("currentColor") > 100
    script = (
        "<script>document.title = [...document.querySelectorAll('figure svg')].map(e => "
        "Math.round(e.getBoundingClientRect().width) + 'x' + Math.round(e.getBoundingClientRect().height)).join(' ')"
        "+ ' ' + (document.documentElement.scrollWidth > innerWidth)</script>"
    )
    measured = tmp_path / "measured.html"
    text = report.read_text(encoding="utf-8")
    measured.write_text(text.replace("default-src 'none'", "script-src 'unsafe-inline'").replace("</body>", script))
    for width in (1000, 400):
        found = re.search(
            r"<title>([^<]*)</title>", browse(measured, tmp_path, "--dump-dom", f"--window-size={width},900")
        )
        assert found is not None
        *sizes, too_wide = found[1].split()
        assert too_wide == "false", f"the page is wider than a window of {width}"
        assert len(sizes) == 5
        assert all(int(size.split("x")[0]) > 0.6 * width and int(size.split("x")[1]) > 50 for size in sizes), sizes


def test_a_complaint_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><title>x</title><script>nothing.at.all()</script>")
    assert len(complaints(browse(page, tmp_path, "--dump-dom"))) == 1
    blocked = tmp_path / "blocked.html"
    blocked.write_text(
        "<!doctype html><meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><img src=http://a.test/>"
    )
    assert complaints(browse(blocked, tmp_path, "--dump-dom"))
