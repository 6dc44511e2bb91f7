"""A real model's requests are mirrored to a smaller one; when that goes bad, only the counts tell."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.integration.system import System, eventually

pytestmark = pytest.mark.integration

IMAGES = np.random.default_rng(7).uniform(0, 1, (60, 1, 64)).astype(np.float32)


def shadow(system: System) -> dict[str, Any]:
    """What the gateway says of the mirror."""
    (entry,) = system.ask("GET", "/v2/holdfast/status").json()["models"]["digits"]["shadows"]
    assert isinstance(entry, dict)
    return entry


def asked(system: System) -> dict[str, Any]:
    """Send all images, each of which must be answered by the model itself; how the mirror's figures have grown."""
    before = shadow(system)
    seen = Counter[tuple[int, str | None]]()
    for image in IMAGES:
        answer = system.infer("digits", image)
        seen[answer.status, answer.headers.get("holdfast-degraded")] += 1
        assert answer.json()["model_name"] == "digits"
    assert seen == {(200, None): len(IMAGES)}

    def ended() -> dict[str, Any] | None:
        now = shadow(system)
        grown = {
            name: value - before[name] for name, value in now.items() if isinstance(value, int) and name != "share"
        }
        settled = grown["answered"] == len(IMAGES) and not now["waiting"] and not now["under_way"]
        return {**grown, "now": now} if settled else None

    found = eventually(ended, "everything that was mirrored has ended")
    assert found is not None
    return found


def test_agreement_is_counted_and_falls_when_the_shadow_goes_bad_and_clients_see_nothing(unprotected: System) -> None:
    well = asked(unprotected)
    assert well["mirrored"] == len(IMAGES)
    assert well["compared_rows"] == len(IMAGES)
    assert 0 < well["agreed_rows"] <= len(IMAGES)
    document = {"model": "digits-lite", "replica": "all", "fault": {"nan_rate": 1.0}}
    assert unprotected.ask("POST", "/v2/holdfast/faults", document).status == 200
    bad = asked(unprotected)
    assert (bad["compared_rows"], bad["agreed_rows"]) == (len(IMAGES), 0)
    assert bad["now"]["disagreed"]["invalid_answer"] == len(IMAGES)
    unprotected.ask("POST", "/v2/holdfast/faults", {**document, "fault": {"fail_rate": 1.0}})
    failing = asked(unprotected)
    assert (failing["compared_rows"], failing["now"]["failed"]) == (0, {"model_failed": len(IMAGES)})
    eventually(lambda: asked(unprotected)["now"]["silent"], "a shadow that only fails is an alarm")
    metrics = unprotected.metrics()
    values = {name: value for (name, _), value in metrics.items() if name.startswith("holdfast_shadow_")}
    assert values["holdfast_shadow_silent"] == 1
    assert values["holdfast_shadow_compared_rows_total"] == 2 * len(IMAGES)
    assert values["holdfast_shadow_agreed_rows_total"] == well["agreed_rows"]
    unprotected.ask("DELETE", "/v2/holdfast/faults")
    assert asked(unprotected)["agreed_rows"] == well["agreed_rows"]
