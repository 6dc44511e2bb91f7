"""The settings and files of the rollout proofs are such as Holdfast takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.rollouts.files import PRIOR, STEPS, arguments, rollout_file
from loadtests.rollouts.scenarios import SCENARIOS
from loadtests.rollouts.store import BETTER, GOLDEN_BROKEN, MADE
from serving.rollout.file import parse_rollout
from serving.settings import parse_settings


def test_holdfast_takes_the_settings() -> None:
    settings = parse_settings(arguments(store=Path("store")))
    digits = settings.model("digits")
    assert digits is not None
    assert digits.stable_version == PRIOR
    assert digits.caches
    assert settings.faults


def test_holdfast_takes_the_file_of_a_rollout() -> None:
    spec = parse_rollout(rollout_file("v2"))
    assert (spec.version, spec.from_) == ("v2", PRIOR)
    assert [step.set_weight for step in spec.steps if step.set_weight is not None] == list(STEPS)
    assert {step.pause.duration for step in spec.steps if step.pause is not None} == {"2s"}
    assert spec.bake.duration == "8s"


def test_single_pauses_and_parts_of_the_analysis_can_be_others() -> None:
    text = rollout_file("v2", pauses={25: "9s", 50: None}, bake="1s", analysis={"latencyObjective": "20ms"})
    spec = parse_rollout(text)
    assert [step.pause.duration for step in spec.steps if step.pause is not None] == ["2s", "9s", None, "2s"]
    assert spec.analysis.latency_objective == "20ms"
    assert spec.analysis.min_attempts == 20
    assert spec.bake.duration == "1s"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_says_what_it_does_and_needs_versions_that_can_be_made(scenario: object) -> None:
    found = next(each for each in SCENARIOS if each is scenario)
    assert found.run.__doc__
    assert set(found.versions) <= {*MADE, GOLDEN_BROKEN, BETTER}


def test_no_two_scenarios_have_the_same_name() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names))
