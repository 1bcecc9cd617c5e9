"""How long a freeze waits for its vCPUs where nobody says: half a minute, wherever it is asked for."""

from __future__ import annotations

import inspect
import re

import pytest

from vmthaw.freeze import FreezeCoordinator
from vmthaw.machine import Machine
from vmthaw.run_loop import RunLoop


@pytest.mark.parametrize("face", [Machine, RunLoop], ids=lambda face: face.__name__)
def test_a_freeze_waits_30_seconds(face: type[Machine | RunLoop]) -> None:
    assert inspect.signature(face.freeze).parameters["timeout"].default == 30.0


def test_a_freeze_of_the_core_waits_30_seconds() -> None:
    signature = re.search(r"timeout: [^,)=]*= ([0-9.]+)", FreezeCoordinator.freeze.__doc__ or "")
    assert signature is not None
    assert float(signature[1]) == 30.0
