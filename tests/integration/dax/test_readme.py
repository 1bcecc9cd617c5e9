"""What the README shows of files mapped into a guest does what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.tree import ROOT

pytestmark = [
    pytest.mark.usefixtures("kvm_available"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the guest's code is x86"),
]


def test_the_guest_of_the_readme_writes_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## Files mapped into a guest\n.*?```python\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    Path("greeting.txt").write_text("hello\n", encoding="utf-8")
    code = found[1].replace('open("greeting.txt").read()', 'Path("greeting.txt").read_text()')
    scope: dict[str, object] = {"Path": Path}
    exec(compile(code, "README.md", "exec"), scope)
    assert Path("greeting.txt").read_text(encoding="utf-8") == "Hello\n"
    assert "Hello" in capsys.readouterr().out
    # Slots go before what they show.
    vm = scope["vm"]
    vm.remove_memory_slot(1)  # type: ignore[attr-defined]
