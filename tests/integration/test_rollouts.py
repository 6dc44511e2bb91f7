"""On a real system a version takes over step by step, and a bad one is taken back, also by the next control plane."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.integration.system import Answer, System, Traffic, eventually

pytestmark = pytest.mark.integration

ROLLOUTS = "/v2/holdfast/rollouts"
FILE = """\
model: digits
version: {version}
from: v1
steps: [{{setWeight: 25}}, {{setWeight: 100}}]
analysis: {{minAttempts: 10, alpha: 0.01}}
bake: {{duration: 2s}}
"""


def told(system: System) -> dict[str, Any]:
    """The model's latest rollout."""
    answer = system.ask("GET", f"{ROLLOUTS}/digits")
    document: dict[str, Any] = answer.json()
    return document if answer.status == 200 else {"phase": answer.error()}


def start(system: System, version: str = "v2", **changes: str) -> Answer:
    file = FILE.format(version=version) + "".join(f"{key}: {value}\n" for key, value in changes.items())
    return system.ask("POST", ROLLOUTS, {"file": file, "who": "anna"})


def reaches(system: System, *phases: str, within_s: float = 60.0) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        now = told(system)
        return now if now["phase"] in phases else None

    found = eventually(there, f"the rollout is {' or '.join(phases)}", within_s=within_s)
    assert found is not None
    return found


def spoil(system: System, version: str) -> None:
    """From here on the version raises on two of three calls."""
    fault = {"model": "digits", "version": version, "fault": {"fail_rate": 0.66, "seed": 1}}
    answer = system.ask("POST", "/v2/holdfast/faults", fault)
    assert answer.status == 200, answer.error()


def kill_the_control_plane(system: System) -> None:
    controller = system.ask("GET", ROLLOUTS).json()["controller"]
    os.kill(controller["pid"], signal.SIGKILL)

    def another() -> bool:
        answer = system.ask("GET", ROLLOUTS)
        now = answer.json()["controller"] if answer.status == 200 else controller
        return bool(now["pid"] != controller["pid"] and now["state"] == "writing")

    eventually(another, "another control plane writes", within_s=30.0)


def test_what_makes_no_sense_is_refused_before_anything_happens(rolling: System) -> None:
    for answer, status, text in (
        (start(rolling, version="v9"), 400, "line 2: version: the registry has no digits@v9"),
        (start(rolling, onBreach="panic"), 400, "line 7: onBreach: 'panic' isn't one of rollback, pause"),
        (rolling.ask("POST", f"{ROLLOUTS}/digits/abort", {"who": "anna"}), 404, "'digits' never had a rollout"),
    ):
        assert (answer.status, answer.error()[: len(text)]) == (status, text)
    assert rolling.ask("GET", ROLLOUTS).json()["rollouts"] == []


def test_a_bad_version_is_taken_back_though_the_control_plane_dies_and_no_client_sees_it(rolling: System) -> None:
    with Traffic(rolling, "digits") as traffic:
        assert start(rolling).status == 201
        reaches(rolling, "Progressing")
        assert start(rolling).error().startswith("digits-1 (v1 to v2) of 'digits' is Progressing")
        assert rolling.load("digits", "v2").status == 409
        kill_the_control_plane(rolling)
        spoil(rolling, "v2")
        end = reaches(rolling, "RolledBack")
        traffic.wait_for_more()
        assert traffic.failures() == []
    assert "bad" in [finding["kind"] for finding in end["findings"]]
    assert 0 <= end["rollback_took_s"] < 30  # a bound for busy machines; what it takes is measured elsewhere
    assert rolling.stable("digits") == "v1"
    assert rolling.load("digits", "v2").error().startswith("digits@v2 was rolled back: ")
    assert rolling.ask("GET", ROLLOUTS).json()["rolled_back"].keys() == {"digits@v2"}


def test_a_good_version_takes_over_and_no_client_sees_it(rolling: System) -> None:
    with Traffic(rolling, "digits") as traffic:
        eventually(lambda: start(rolling).status == 201, "the last rollout is settled")
        end = reaches(rolling, "Succeeded")
        traffic.wait_for_more()
        assert traffic.failures() == []
    assert [passage["weight"] for passage in end["history"] if passage["phase"] == "Progressing"][-1] == 100
    eventually(lambda: rolling.ready_versions() == {"digits@v2"}, "only v2 is left")
    assert rolling.stable("digits") == "v2"


def test_every_decision_comes_out_again(rolling: System, capfd: pytest.CaptureFixture[str]) -> None:
    from serving.cli import main

    assert main(["replay", "-c", str(rolling.config)]) == 0
    assert "decisions match byte for byte" in capfd.readouterr().out
