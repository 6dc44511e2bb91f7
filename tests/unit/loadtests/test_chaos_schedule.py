"""When faults happen, and whom they meet: a matter of the seed alone."""

from __future__ import annotations

import random

from loadtests.chaos import library
from loadtests.chaos.faults import KillReplica, Slow, name_of
from loadtests.chaos.run import scheduled
from loadtests.chaos.schedule import Due, one_of, schedule
from loadtests.chaos.spec import Scenario, parse

FILE = """
name: mine
title: Mine
what: A test.
load: {rate: 100, seconds: 40}
faults:
  - {at: 6s, every: 5s, until: 21s, fault: kill_replica}
  - {at: 7s, fault: slow, ms: 5, jitter: 0s}
"""
DRAWN = """
name: drawn
title: Drawn
what: A test.
load: {rate: 100, seconds: 40}
draw: {at: 5s, every: 2s, until: 35s, faults: [{fault: kill_replica}, {fault: cut}, {fault: kill_gateway}]}
"""


def of(text: str, seed: int = 0) -> tuple[Due, ...]:
    return schedule(parse(text, "x"), random.Random(seed))


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    for scenario in library.everything():
        twice = [schedule(scenario, random.Random("7/x")) for _ in range(2)]
        assert twice[0] == twice[1]
    assert of(FILE, 1) != of(FILE, 2)
    assert [name_of(due.fault) for due in of(DRAWN, 1)] != [name_of(due.fault) for due in of(DRAWN, 2)]


def test_what_a_seed_composes_out_of_random_is_the_same_again_and_another_one_for_another_seed() -> None:
    found = [[due.described() for due in scheduled(library.load("random"), seed)] for seed in (1, 1, 2, 3)]
    assert found[0] == found[1]
    assert len({str(one) for one in found}) == 3


def test_who_is_hurt_can_be_said_in_the_file_and_changes_nobody_else() -> None:
    said = FILE.replace("fault: kill_replica", "fault: kill_replica, lot: 0.25")
    assert {due.lot for due in of(said) if isinstance(due.fault, KillReplica)} == {0.25}
    assert [due.at_s for due in of(said)] == [due.at_s for due in of(FILE)]
    assert [due for due in of(said) if isinstance(due.fault, Slow)] == [
        due for due in of(FILE) if isinstance(due.fault, Slow)
    ]


def test_a_repeated_fault_comes_until_its_end_and_never_before_its_moment() -> None:
    kills = [due.at_s for due in of(FILE) if isinstance(due.fault, KillReplica)]
    assert len(kills) == 3
    assert all(moment <= at_s <= moment + 0.5 for moment, at_s in zip((6, 11, 16), kills, strict=True))


def test_without_jitter_a_fault_comes_at_its_very_moment() -> None:
    assert [due.at_s for due in of(FILE) if isinstance(due.fault, Slow)] == [7.0]


def test_faults_stand_in_the_order_of_time() -> None:
    found = [due.at_s for due in of(FILE)]
    assert found == sorted(found)


def test_one_more_fault_at_the_end_changes_none_before_it() -> None:
    longer = FILE + "  - {at: 30s, fault: kill_gateway}\n"
    assert of(longer)[: len(of(FILE))] == of(FILE)


def test_drawn_faults_come_every_so_often_and_are_of_the_list() -> None:
    found = of(DRAWN)
    assert len(found) == 15
    assert {name_of(due.fault) for due in found} == {"kill_replica", "cut", "kill_gateway"}


def test_a_lot_meets_each_of_several_alike_and_never_nobody() -> None:
    assert [one_of(["a", "b"], lot) for lot in (0.0, 0.49, 0.5, 0.999, 1.0)] == ["a", "a", "b", "b", "b"]


def test_every_scenario_that_comes_with_it_is_named_as_its_file_is() -> None:
    found: list[Scenario] = library.everything()
    assert [scenario.name for scenario in found] == library.names()
    assert len(found) >= 15
