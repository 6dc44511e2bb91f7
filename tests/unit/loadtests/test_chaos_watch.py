"""What is watched beside the load: the gateways' own words, put together."""

from typing import Any

import pytest

from loadtests.chaos.watch import Series, add_gateway


def status(*, weight: float, breaker: str = "closed", ended: bool = False) -> dict[str, Any]:
    canary = {"version": "v2", "weight": weight, "ended": ended}
    versions = {"v1": {"breaker": {"state": breaker}}}
    admission = {"limit": 64, "inflight": 3, "waiting": {"high": 1, "low": 2}}
    return {"models": {"digits": {"admission": admission, "canary": canary, "versions": versions}}}


def watched(*statuses: dict[str, Any]) -> dict[Series, float]:
    found: dict[Series, float] = {}
    for each in statuses:
        add_gateway(found, each)
    return found


def test_a_canarys_weight_is_the_largest_of_all_gateways_in_percent() -> None:
    found = watched(status(weight=0.05), status(weight=0.25))
    assert found["canary_weight", "digits@v2", "%"] == pytest.approx(25.0)
    assert watched(status(weight=0.25, ended=True))["canary_weight", "digits@v2", "%"] == 0.0


def test_limits_add_up_and_the_worst_breaker_counts() -> None:
    found = watched(status(weight=0.0), status(weight=0.0, breaker="open"))
    assert found["admission_limit", "digits", ""] == 128
    assert found["requests_in_flight", "digits", ""] == 6
    assert found["waiting", "digits", ""] == 6
    assert found["breaker", "digits@v1", ""] == watched(status(weight=0.0, breaker="open"))["breaker", "digits@v1", ""]
