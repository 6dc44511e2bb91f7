"""A version fails on a real system: what it was asked is kept, asked of a good version, and outlasts a restart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from models.inference import Array
from tests.integration.system import System, eventually

pytestmark = pytest.mark.integration

FAULTS = "/v2/holdfast/faults"
IMAGE: Array = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64)


def incidents(system: System, *arguments: str, code: int = 0) -> Any:
    """What the command says in JSON."""
    ended = system.run("incidents", *arguments, "--json")
    assert ended.returncode == code, ended
    return json.loads(ended.stdout)


def kept(system: System, outcome: str, failure: str) -> dict[str, Any]:
    """The newest such incident, once it is written."""

    def found() -> Any:
        lines: list[dict[str, Any]] = incidents(system, "list", "--model", "digits", "--outcome", outcome)
        return next((line for line in lines if (line["outcome"], line["failure"]) == (outcome, failure)), None)

    line: dict[str, Any] = eventually(found, f"a {outcome} ({failure}) is kept")
    return line


def fails(system: System, **fault: Any) -> None:
    body = {"model": "digits", "version": "v2", "replica": "all", "fault": fault}
    assert system.ask("POST", FAULTS, body).status == 200


def test_what_a_version_failed_at_is_asked_of_another_one_also_after_a_restart(observed: System) -> None:
    fails(observed, fail_rate=1.0)
    degraded = observed.infer("digits", IMAGE, id="mine")
    assert (degraded.status, degraded.headers["holdfast-degraded"]) == (200, "version")
    assert observed.infer("digits@v2", IMAGE).status == 500

    line = kept(observed, "degraded", "model_failed")
    assert (line["version"], line["answered_by"], line["request_id"]) == ("v2", "digits@v1", "mine")
    assert line["attempts"][0]["version"] == "digits@v2"
    again = incidents(observed, "replay", str(line["id"]), "--version", "v1")
    assert (again["same"], again["answered_by"]) == (True, "digits@v1")

    failed = kept(observed, "model_failed", "model_failed")
    again = incidents(observed, "replay", str(failed["id"]), "--version", "v1", code=1)
    assert (again["now"], again["outputs"][0]["after"] is None) == ("ok", False)
    again = incidents(observed, "replay", str(failed["id"]), code=0)
    assert again["now"].startswith("500: ")  # it fails as it did

    assert observed.ask("DELETE", FAULTS).status == 200
    again = incidents(observed, "replay", str(line["id"]), code=1)  # by the version that it went wrong with
    difference = {output["output"]: output for output in again["outputs"]}["probabilities"]
    assert (again["answered_by"], difference["changed"], difference["rows"]) == ("digits@v2", 1, 1)
    assert 0 < difference["max_abs"] <= 1

    assert observed.stop() == 0
    observed.start()
    observed.wait_until_ready()
    shown = incidents(observed, "show", str(line["id"]))
    assert (shown["outcome"], shown["inputs"][0]["shape"]) == ("degraded", [1, 64])
    assert incidents(observed, "replay", str(line["id"]), "--version", "v1")["same"] is True


def test_an_invalid_answer_is_kept_as_it_was(observed: System) -> None:
    fails(observed, nan_rate=1.0)
    try:
        assert observed.infer("digits@v2", IMAGE).status == 500
    finally:
        observed.ask("DELETE", FAULTS)
    line = kept(observed, "invalid_answer", "invalid_answer")
    again = incidents(observed, "replay", str(line["id"]), code=1)
    difference = {output["output"]: output for output in again["outputs"]}["probabilities"]
    assert difference["before"].startswith("FP32 [1, 10]: nan, nan")


def test_a_value_outside_the_manifests_range_is_counted_and_kept_whichever_gateway_saw_it(observed: System) -> None:
    ports = observed.gateway_ports()
    before = violations(observed)
    for port in ports:
        assert observed.infer("digits", 2 * IMAGE, port=port).status == 200

    def both() -> Any:
        found = incidents(observed, "list", "--outcome", "input_quality")
        return found if len(found) >= 2 else None

    lines = eventually(both, "both are kept")
    assert "is 1.01587, over max 1" in lines[0]["fault"]
    eventually(lambda: violations(observed) == before + 2 * 32, lambda: f"all are counted: {violations(observed)}")


def violations(system: System) -> float:
    return sum(
        value
        for sample, value in system.metrics().items()
        if sample.name == "holdfast_input_quality_violations_total" and ("feature", "image") in sample.labels
    )
