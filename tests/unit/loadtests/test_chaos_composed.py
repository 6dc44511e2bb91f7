"""A scenario with its seed played out is a file that does the same."""

from __future__ import annotations

import random

import pytest

from loadtests.chaos import library
from loadtests.chaos.cli import main
from loadtests.chaos.composed import composed, text
from loadtests.chaos.faults import name_of, parameters
from loadtests.chaos.run import scheduled
from loadtests.chaos.schedule import schedule
from loadtests.chaos.spec import Scenario, parse


@pytest.mark.parametrize("name", library.names())
def test_every_scenario_can_be_kept_as_it_was_played(name: str) -> None:
    scenario = library.load(name)
    played = scheduled(scenario, 4)
    kept = parse(text(composed(scenario, 4, played)), "kept.yaml")
    again = schedule(kept, random.Random("another seed"))
    assert [name_of(due.fault) for due in again] == [name_of(due.fault) for due in played]
    assert [parameters(due.fault) for due in again] == [parameters(due.fault) for due in played]
    assert [due.at_s for due in again] == pytest.approx([due.at_s for due in played], abs=0.001)
    assert [due.lot for due in again] == pytest.approx([due.lot for due in played], abs=0.001)
    assert (kept.load, kept.system, kept.rollout, kept.must) == (
        scenario.load,
        scenario.system,
        scenario.rollout,
        scenario.must,
    )
    assert kept.draw is None


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Scenario:
    assert main(["schedule", *words]) == 0
    return parse(capsys.readouterr().out, "printed.yaml")


def test_the_command_prints_what_a_run_with_this_seed_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "random", "--seed", "3")
    assert found.name == "random_3"
    assert [name_of(fault) for fault in found.faults] == [
        name_of(due.fault) for due in scheduled(library.load("random"), 3)
    ]
    assert found == printed(capsys, "random", "--seed", "3")
    assert found.faults != printed(capsys, "random", "--seed", "4").faults
