"""What `import vmthaw` costs and which version it says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support import tree

HEAVY = {"numpy", "rich", "click", "pyarrow", "pandas", "duckdb", "matplotlib"}


def imported(statement: str) -> set[str]:
    """Every module that a fresh interpreter loads for a statement, as -X importtime tells."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, check=True
    )
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("statement", ["import vmthaw", "import vmthaw; vmthaw.__version__", "import vmthaw.errors"])
def test_import_loads_neither_numpy_nor_rich(statement: str) -> None:
    modules = imported(statement)
    assert "vmthaw" in modules
    assert not {name for name in modules if name.split(".")[0] in HEAVY}


def test_the_measure_sees_an_import() -> None:
    assert "rich" in imported("import vmthaw, rich")


def test_both_halves_have_the_same_version() -> None:
    import vmthaw
    from vmthaw import _core

    assert vmthaw.__version__ == _core.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", vmthaw.__version__)


def test_the_changelog_knows_the_version() -> None:
    import vmthaw

    text = (tree.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[({re.escape(vmthaw.__version__)}|Unreleased)\]", text, re.MULTILINE)
