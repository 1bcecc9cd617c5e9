"""`vmthaw doctor` on this very machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("userfaultfd_available")


@pytest.mark.parametrize("command", [["-m", "vmthaw"], ["-c", "from vmthaw.cli import main; main()"]])
def test_where_faults_can_be_served_it_says_so(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "doctor"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Serving is possible here." in done.stdout
    for what in ("KVM", "usable by this user", "poison", "descriptors", "vm.max_map_count", "socket owner", "pidfd"):
        assert what in done.stdout
    assert "could not be checked" not in done.stdout


def test_its_json_agrees_with_the_kernel() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vmthaw", "doctor", "--json"], capture_output=True, text=True, timeout=30, check=False
    )
    report = json.loads(done.stdout)
    assert report["can_serve"]
    from vmthaw.userfaultfd import Feature, UserfaultfdFactory

    supported = UserfaultfdFactory.probe()
    found = {check["what"]: check["found"] for check in report["checks"] if check["group"] == "features"}
    for feature in Feature:
        assert found[str(feature.name)] == ("yes" if feature in supported else "no")
