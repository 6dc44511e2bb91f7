"""The controller is killed after every single event of whole rollouts: same end, same decisions, nothing done twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from serving.rollout.events import Abort, Event
from serving.rollout.state import Phase, RolloutState
from tests.rollouts import rollout_spec, start_of
from tests.simulation.rollout_world import Controller, Killed, Person, World, patient, replayed_decisions

SPEC = rollout_spec(
    steps="[{setWeight: 5}, {pause: {duration: 4s}}, {setWeight: 25}, {pause: {}}, {setWeight: 100}]",
    analysis="{minAttempts: 60, slo: {objective: 0.99, burnRates: [{long: 20s, short: 4s, factor: 14.4}]}}",
    bake="{duration: 8s}",
)


def healthy(weight: int, canary: bool) -> float:
    return 0.005


def failing(weight: int, canary: bool) -> float:
    return 0.3 if canary else 0.005


def bad_once_promoted(weight: int, canary: bool) -> float:
    return 0.5 if weight > 100 else 0.005


def outage(weight: int, canary: bool) -> float:
    return 0.4


def in_two_minds(state: RolloutState) -> Event | None:
    """A person who aborts at 25 %."""
    return Abort(at=state.at, who="anna", why="not today") if state.weight == 25 else patient(state)


@dataclass
class Story:
    bad_share: Callable[[int, bool], float]
    end: Phase
    deployed: set[str]
    stable: str
    fails: str = ""
    person: Person = patient

    def world(self) -> World:
        return World(bad_share=self.bad_share, fails=self.fails)


STORIES = {
    "healthy": Story(healthy, Phase.SUCCEEDED, {"v2"}, "v2"),
    "fails 30 % of its calls": Story(failing, Phase.ROLLED_BACK, {"v1"}, "v1"),
    "goes bad in the bake": Story(bad_once_promoted, Phase.ROLLED_BACK, {"v1"}, "v1"),
    "golden test fails": Story(healthy, Phase.ROLLED_BACK, {"v1"}, "v1", fails="golden example 2 is off by 0.3"),
    "aborted by a person": Story(healthy, Phase.ABORTED, {"v1"}, "v1", person=in_two_minds),
}


def played(story: Story, kill: Callable[[str, int], bool]) -> tuple[list[bytes], World, Controller]:
    """The story to its end; a killed controller is started again with nothing but the log."""
    log: list[bytes] = []
    world = story.world()
    for _ in range(10_000):
        controller = Controller(log, world, story.person, kill)
        try:
            controller.run(start_of(SPEC))
        except Killed:
            continue
        return log, world, controller
    raise AssertionError("killed for ever")


def never(where: str, length: int) -> bool:
    return False


@pytest.mark.parametrize("name", STORIES)
def test_it_comes_to_its_end_and_leaves_the_right_version(name: str) -> None:
    story = STORIES[name]
    _, world, controller = played(story, never)
    assert controller.state.phase is story.end
    assert (world.deployed, world.stable) == (story.deployed, story.stable)
    assert world.weight == (100 if story.end is Phase.SUCCEEDED else 0)
    assert len(world.changes) == len(set(world.changes))


@pytest.mark.parametrize("name", STORIES)
def test_killed_after_any_event_it_comes_to_the_same_end_by_the_same_decisions(name: str) -> None:
    story = STORIES[name]
    log, world, whole = played(story, never)
    assert len(log) >= 7
    for length in range(1, len(log) + 1):
        for where in ("append", "effect"):
            left = [1]

            def once(at: str, now: int, *, where: str = where, length: int = length, left: list[int] = left) -> bool:
                if at == where and now == length and left:
                    left.pop()
                    return True
                return False

            again, same_world, controller = played(story, once)
            assert again == log, f"killed at {where} {length}"
            assert same_world.changes == world.changes, f"killed at {where} {length}"
            assert controller.desired == whole.desired


@pytest.mark.parametrize("name", STORIES)
def test_killed_after_every_event_it_still_comes_to_the_same_end(name: str) -> None:
    story = STORIES[name]
    log, world, _ = played(story, never)
    killed: set[tuple[str, int]] = set()

    def always_once(where: str, length: int) -> bool:
        new = (where, length) not in killed
        killed.add((where, length))
        return new

    again, same_world, _ = played(story, always_once)
    assert again == log
    assert same_world.changes == world.changes
    assert len(killed) > len(log)


@pytest.mark.parametrize("name", STORIES)
def test_a_replay_of_the_log_makes_the_same_decisions_byte_for_byte(name: str) -> None:
    log, _, _ = played(STORIES[name], never)
    logged, made = replayed_decisions(log)
    assert logged
    assert made == logged


def test_a_shared_outage_takes_nothing_back_and_moves_nothing_up() -> None:
    phases: list[Phase] = []

    def tired_at_last(state: RolloutState) -> Event | None:
        phases.append(state.phase)
        return Abort(at=state.at, who="anna") if len(phases) > 300 else patient(state)

    story = Story(outage, Phase.ABORTED, {"v1"}, "v1", person=tired_at_last)
    _, world, controller = played(story, never)
    assert controller.state.phase is story.end
    assert set(phases) == {Phase.PROGRESSING}
    assert world.changes == [
        "deploy v2",
        "publish weight 5, stable v1",
        "publish weight 0, stable v1",
        "remove v2",
    ]
