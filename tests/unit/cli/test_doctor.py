"""The verdicts of `vmthaw doctor`, on machines that are made up."""

from __future__ import annotations

import json
import resource

import pytest
from click.testing import CliRunner

from vmthaw.cli import _check_kernel as kernel
from vmthaw.cli import _check_machine as machine
from vmthaw.cli import cli
from vmthaw.cli._check import Check, Status, run_checks
from vmthaw.cli._errors import Exit


def one(checks: list[Check], what: str) -> Check:
    (found,) = [check for check in checks if check.what == what]
    return found


def test_without_userfaultfd_serving_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self) -> None:
            raise PermissionError(1, "userfaultfd denied (EPERM)")

        @staticmethod
        def probe() -> int:
            raise PermissionError(1, "userfaultfd denied (EPERM)")

    monkeypatch.setattr("vmthaw.userfaultfd.UserfaultfdFactory", Refused)
    found = one(list(kernel.check_userfaultfd()), "usable by this user")
    assert found.status is Status.FAIL
    assert found.found == "userfaultfd denied (EPERM)"
    assert "vm.unprivileged_userfaultfd=1" in found.mend
    assert list(kernel.check_features()) == []
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == Exit.FAILED
    assert "Serving is not possible here: usable by this user: userfaultfd denied (EPERM)." in result.stdout


def test_a_missing_feature_says_which_kernel_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmthaw.userfaultfd import Feature, UserfaultfdFactory

    features = Feature.event_remove | Feature.missing_shmem
    monkeypatch.setattr(UserfaultfdFactory, "probe", staticmethod(lambda: features))
    checks = list(kernel.check_features())
    assert {check.what for check in checks} == {feature.name for feature in Feature}
    poison = one(checks, "poison")
    assert (poison.status, poison.found) == (Status.WARN, "no")
    assert "Linux 6.6" in poison.mend
    assert one(checks, "event_remove").status is Status.OK
    monkeypatch.setattr(UserfaultfdFactory, "probe", staticmethod(lambda: Feature.poison))
    assert one(list(kernel.check_features()), "event_remove").status is Status.FAIL


@pytest.mark.parametrize(
    ("hard", "status", "vms"), [(1024, Status.WARN, 192), (65536, Status.OK, 13094), (32, Status.WARN, 0)]
)
def test_descriptors_are_counted_in_vms(hard: int, status: Status, vms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (min(hard, 1024), hard))
    found = one(list(machine.check_limits()), "descriptors")
    assert found.status is status
    assert f"{vms} VMs" in found.found
    assert bool(found.mend) == (status is Status.WARN)


def test_unlimited_descriptors_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (1024, resource.RLIM_INFINITY))
    assert one(list(machine.check_limits()), "descriptors").status is Status.OK


def test_strict_overcommit_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_number", lambda path: 2 if path.endswith("overcommit_memory") else 100000)
    found = one(list(machine.check_memory()), "vm.overcommit_memory")
    assert found.status is Status.WARN
    assert "vm.overcommit_memory=0" in found.mend


def test_a_machine_without_anything_is_still_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_number", lambda _path: None)
    monkeypatch.setattr(machine, "read_text", lambda _path: None)
    assert one(list(machine.check_memory()), "huge pages").found == "no pool of 2 MiB pages"


def test_the_jailer_is_told_where_the_socket_goes() -> None:
    checks = list(machine.check_jailer())
    assert "root/run/uffd.sock" in one(checks, "socket path").mend
    assert "--owner UID:GID" in one(checks, "socket owner").mend


def test_a_missing_extra_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    found = one(list(machine.check_extras()), "s3")
    assert (found.status, found.mend) == (Status.INFO, "pip install 'vmthaw[s3]'")


def test_the_extras_are_those_of_the_package() -> None:
    import re
    import tomllib

    from tests.support.tree import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        extra: [re.split(r"[><=]", requirement)[0] for requirement in requirements]
        for extra, requirements in project["optional-dependencies"].items()
    }
    assert declared == machine.EXTRAS


def test_a_check_that_breaks_hides_no_other() -> None:
    def check_broken() -> list[Check]:
        raise RuntimeError("odd machine")

    checks = run_checks([check_broken, machine.check_jailer])
    assert checks[0].what == "broken"
    assert "RuntimeError: odd machine" in checks[0].found
    assert len(checks) == 3


def test_json_is_one_object_with_every_line() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert report["can_serve"] == (result.exit_code == 0)
    assert {check["group"] for check in report["checks"]} >= {"kernel", "userfaultfd", "limits", "memory", "jailer"}
    keys = {"group", "what", "status", "found", "needed_for", "mend"}
    assert all(set(check) == keys for check in report["checks"])
    assert all(check["mend"] for check in report["checks"] if check["status"] in ("warn", "fail"))
