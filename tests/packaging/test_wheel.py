"""The wheel: its tag, what it asks of the system, and that it serves faults where nothing else of ours is."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vmthaw
from tests.support import tree

pytestmark = pytest.mark.timeout(900)

# What manylinux_2_17 allows that an extension may ask of the system. No libstdc++: the C++ library is inside.
ALLOWED_LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel, built as `make wheel` does it."""
    status, output = tree.run("scripts/wheel", timeout=850)
    assert status == 0, output
    (path,) = (tree.ROOT / "dist").glob("*.whl")
    return path


def test_the_wheel_has_the_oldest_tag(wheel: Path) -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.startswith(f"vmthaw-{vmthaw.__version__}-{python}-{python}-")
    assert f"manylinux_2_17_{platform.machine()}" in wheel.name


def test_the_wheel_asks_for_nothing_newer_than_its_tag_says(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (extension,) = (name for name in archive.namelist() if name.endswith(".so"))
        archive.extract(extension, tmp_path)
    _, symbols = tree.run("readelf", "-W", "--version-info", tmp_path / extension)
    versions = {tuple(map(int, text.split("."))) for text in re.findall(r"GLIBC_([0-9.]+)", symbols)}
    assert versions
    assert max(versions) <= (2, 17)
    _, dynamic = tree.run("readelf", "-dW", tmp_path / extension)
    libraries = set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    assert {name for name in libraries if not name.startswith("ld-linux")} <= ALLOWED_LIBRARIES
    assert "STATIC_TLS" not in dynamic, "static thread-local storage: the import fails where that is used up"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert all(name.startswith(("vmthaw/", f"vmthaw-{vmthaw.__version__}.dist-info/")) for name in names)
    assert "vmthaw/_core.pyi" in names
    data = ("data/first_restore.parquet", "trace/report/report.css", "trace/plots/vmthaw.mplstyle")
    assert {f"vmthaw/{name}" for name in data} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_wheel_serves_faults_in_a_clean_environment(
    wheel: Path, tmp_path: Path, userfaultfd_available: None
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    status, output = tree.run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    assert status == 0, output
    done = subprocess.run(
        [python, "-I", tree.ROOT / "tests" / "packaging" / "serve_faults.py"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path / "venv") in done.stdout
    assert "served 64 differences [0]" in done.stdout
