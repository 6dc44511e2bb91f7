"""The resilience run in its short form: parts of a whole system are hurt under load, and callers go on getting answers.

Counts are held to what they should be; times only to what a machine can keep that has much else to do. The whole run
(``make resilience``) holds the times, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from loadtests.resilience.run import Plan, run
from loadtests.resilience.scenarios import SCENARIOS
from loadtests.resilience.stage import Pace
from loadtests.resilience.verdict import Result

pytestmark = pytest.mark.integration

SECONDS = 6.0
NAMES = (
    "all_primary_killed",
    "replica_wedged_model",
    "overload_3x",
    "everything_unloaded",
)
"""Those that share one system, and that no other test here has."""


@pytest.fixture(scope="module")
def results(zoo_store: Path) -> Mapping[str, Result]:
    chosen = [scenario for scenario in SCENARIOS if scenario.name in NAMES]
    plan = Plan(scenarios=chosen, store=zoo_store, pace=Pace.short(SECONDS))
    found = asyncio.run(run(plan, print))
    return {result.name: result for result in found}


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_answering(results: Mapping[str, Result], name: str) -> None:
    result = results[name]
    assert result.held, "\n".join([*result.complaints, "", *result.notes])


def test_the_system_ends_in_good_order(results: Mapping[str, Result]) -> None:
    assert [result for name, result in results.items() if name not in NAMES] == []
