"""The control plane dies at every single place of whole rollouts: same end, same decisions, nothing done twice.

The stories are short: all their places are tried, except where a test says that it takes some.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models.registry import Registry
from serving.model_settings import ModelSettings
from serving.rollout.events import ClockTick, Decision, Observed, Start
from serving.rollout.history import replayed
from serving.rollout.state import Phase, RolloutState
from serving.routing.outcomes import Kind
from tests.fakes import publish_version
from tests.simulation.rollout_world import Story, World, failing, healthy, patient, said, ten_times_slow

FILE = """
model: digits
version: v2
steps: [{setWeight: 5}, {pause: {duration: 2s}}, {setWeight: 25}, {pause: {}}, {setWeight: 100}]
analysis:
  minAttempts: 60
  latencyObjective: 250ms
  slo: {objective: 0.99, burnRates: [{long: 20s, short: 4s, factor: 14.4}]}
bake: {duration: 7s}
"""


def bad_in_the_bake(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "failed" if luck < (0.7 if weight == 1 and nth > 300 else 0.005) else None


def invalid(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "invalid" if canary and luck < 0.2 else None


def outage(canary: bool, weight: float, luck: float, nth: int) -> Kind | None:
    return "failed" if luck < 0.4 else None


def in_two_minds(state: RolloutState) -> str:
    """A person who aborts at 25 %."""
    return "abort" if state.weight == 25 and not state.over and state.phase is not Phase.ROLLING_BACK else ""


STORIES = {
    "healthy": Story(healthy, Phase.SUCCEEDED),
    "fails 30 % of its calls": Story(failing, Phase.ROLLED_BACK),
    "goes bad in the bake": Story(bad_in_the_bake, Phase.ROLLED_BACK, timed=True),
    "golden test fails": Story(healthy, Phase.ROLLED_BACK, golden="golden example 2 is off by 0.3"),
    "aborted by a person": Story(healthy, Phase.ABORTED, person=in_two_minds),
    "10 times as slow": Story(ten_times_slow, Phase.ROLLED_BACK),
    "invalid answers": Story(invalid, Phase.ROLLED_BACK),
    "crashes again and again": Story(healthy, Phase.ROLLED_BACK, crash_every_s=1.0, timed=True),
}
MakeWorld = Callable[..., World]
Kill = Callable[[str, int], bool]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry(tmp_path_factory.mktemp("store"))
    for version in ("v1", "v2"):
        publish_version(registry, "digits", version, version.encode())
    return registry


@pytest.fixture
def world_of(registry: Registry) -> MakeWorld:
    def make(name: str, **options: object) -> World:
        return World(STORIES[name], registry, FILE, **options)  # type: ignore[arg-type]

    return make


def played(world: World, kill_at: Kill = lambda _where, _place: False, *, down_s: float = 0.0) -> World:
    """The story to its end; another control plane takes the place of each that dies, after some time."""
    world.kill_at = kill_at
    for _ in range(10_000):
        if world.live_once():
            break
        world.clock.advance(down_s)
    else:
        raise AssertionError("killed for ever")
    world.away = (0.0, 0.0)
    assert replayed(world.log).mismatches == 0
    return world


def check_same_end(world: World, whole: World, *, later: bool = False) -> None:
    """The same end, by the same decisions, and nothing done to the world that wasn't done without the deaths.

    The two may differ in how far they came if nobody was there for long, and so it is ``later`` for what comes in time.

    When it was decided, and by which figures, depends on when gateways were asked; why a canary is held to be bad does
    so, too, but it is held to be so for a reason.
    """
    assert world.state.phase is whole.state.phase
    healthy = whole.state.phase is Phase.SUCCEEDED
    if not (later and world.story.timed):
        assert [said(one, figures=healthy) for one in world.decisions()] == [
            said(one, figures=healthy) for one in whole.decisions()
        ]
        assert world.changes == whole.changes
    deployed = [change for change in world.changes if change.startswith("deployed")]
    assert len(deployed) == len(set(deployed))
    assert (world.running, world.withdrawn.keys()) == (whole.running, whole.withdrawn.keys())
    assert world.desired.rolled_back.keys() == whole.desired.rolled_back.keys()
    assert all(gateway.table == world.written for gateway in world.live)


@pytest.mark.parametrize("name", STORIES)
def test_it_comes_to_its_end_and_leaves_the_right_version(world_of: MakeWorld, name: str) -> None:
    world = played(world_of(name))
    assert world.state.phase is STORIES[name].end
    left = "v2" if world.state.phase is Phase.SUCCEEDED else "v1"
    assert world.running == {f"digits@{left}"}
    for gateway in world.live:
        route = gateway.table.models["digits"]
        assert (route.stable, list(route.versions), route.split) == (left, [left], None)
    assert len(world.withdrawn) == (world.state.phase is Phase.ROLLED_BACK)


def test_each_story_ends_for_its_own_reason(world_of: MakeWorld) -> None:
    reasons = {name: played(world_of(name)).state.reason for name in STORIES}
    assert "bad first attempts were the canary's" in reasons["fails 30 % of its calls"]
    assert "budget" in reasons["goes bad in the bake"]
    assert "golden example 2" in reasons["golden test fails"]
    assert reasons["aborted by a person"] == "aborted by anna"
    assert "invalid answer" in reasons["invalid answers"] or "first attempts" in reasons["invalid answers"]
    assert "crashes again and again: 3 replicas died" in reasons["crashes again and again"]


@pytest.mark.parametrize("name", STORIES)
def test_killed_anywhere_it_comes_to_the_same_end_by_the_same_decisions(world_of: MakeWorld, name: str) -> None:
    whole = played(world_of(name))
    assert whole.places >= 15
    for place in range(1, whole.places + 1):
        world = played(world_of(name), lambda _where, now, place=place: now == place)  # type: ignore[misc]
        try:
            check_same_end(world, whole)
        except AssertionError as error:
            error.add_note(f"killed at place {place} of {whole.places}")
            raise


@pytest.mark.parametrize("name", STORIES)
def test_killed_after_every_decision_and_every_effect_it_still_comes_to_the_same_end(
    world_of: MakeWorld, name: str
) -> None:
    whole, world = played(world_of(name)), world_of(name)
    died_of: set[object] = set()

    def kill(where: str, _: int) -> bool:
        """Once after each event that isn't only an observation, and once after each thing that was done."""
        what: object = (where, len(world.changes))
        if where == "event":
            events = world.events()
            if not events or isinstance(events[-1][1].event, Observed | ClockTick):
                return False
            what = events[-1][0].hash
        new = what not in died_of
        died_of.add(what)
        return new

    played(world, kill)
    assert len(died_of) > len(whole.decisions())
    check_same_end(world, whole, later=True)


@pytest.mark.parametrize("name", ["healthy", "fails 30 % of its calls"])
def test_time_without_a_control_plane_decides_nothing(world_of: MakeWorld, name: str) -> None:
    """Every fifth place; it is away for longer than any time that a rollout waits for."""
    whole = played(world_of(name))
    for place in range(1, whole.places + 1, 5):
        world = played(world_of(name), lambda _where, now, place=place: now == place, down_s=25.0)  # type: ignore[misc]
        check_same_end(world, whole)


@pytest.mark.parametrize("name", ["healthy", "fails 30 % of its calls", "aborted by a person"])
def test_an_event_that_is_written_but_reported_as_failed_counts_once(world_of: MakeWorld, name: str) -> None:
    whole = played(world_of(name))
    world = world_of(name)
    world.answers_lost = 1.0
    played(world)
    check_same_end(world, whole)
    starts = [entry for _, entry in world.events() if isinstance(entry.event, Start)]
    assert len(starts) == 1


@pytest.mark.parametrize("name", STORIES)
def test_while_the_log_is_away_nothing_is_decided_and_then_it_goes_on(world_of: MakeWorld, name: str) -> None:
    whole = played(world_of(name))
    last = whole.clock.now
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        since = 1000.0 + share * (last - 1000.0)
        world = world_of(name)
        world.away = (since, since + 30.0)
        played(world)
        meanwhile = [what for what, at in world.changes_at if since + 1.0 < at < since + 30.0]
        assert not [what for what in meanwhile if "%" in what or "void" in what], "done without being written down"
        check_same_end(world, whole, later=True)


@pytest.mark.parametrize("name", ["healthy", "fails 30 % of its calls", "aborted by a person"])
def test_everything_is_switched_off_and_on_and_the_rollout_goes_on(world_of: MakeWorld, name: str) -> None:
    """Every third place."""
    whole = played(world_of(name))
    for place in range(2, whole.places + 1, 3):
        world = world_of(name)
        world.kill_at = lambda _where, now, place=place: now == place  # type: ignore[misc]
        while not world.live_once():
            world.stop_all()
        assert world.state.phase is whole.state.phase
        assert replayed(world.log).mismatches == 0
        assert [type(one) for one in world.decisions()] == [type(one) for one in whole.decisions()]
        assert world.running == whole.running, f"place {place}"
        assert world.withdrawn.keys() == whole.withdrawn.keys()
        route = world.written.models["digits"]
        assert (route.stable, route.split) == (whole.written.models["digits"].stable, None)


@pytest.mark.parametrize("name", ["healthy", "fails 30 % of its calls"])
def test_switched_off_after_its_end_what_it_has_come_to_is_served(world_of: MakeWorld, name: str) -> None:
    """Though the settings name both versions, and the canary as the stable one."""
    world = played(world_of(name))
    world.models = (ModelSettings(name="digits", versions=("v1", "v2"), stable="v2" if name != "healthy" else "v1"),)
    world.stop_all()
    played(world)
    served = {"healthy": ({"v2"}, "v2"), "fails 30 % of its calls": ({"v1"}, "v1")}
    route = world.written.models["digits"]
    assert (set(route.versions), route.stable) == served[name]
    assert world.running == {f"digits@{version}" for version in route.versions}


@pytest.mark.parametrize(
    ("name", "after_s"),
    [
        *((name, after_s) for name in ("healthy", "aborted by a person") for after_s in (0.0, 1.0, 2.0, 4.5, 8.0)),
        *(("fails 30 % of its calls", after_s) for after_s in (0.0, 0.9, 1.0, 2.0)),
    ],
)
def test_of_two_control_planes_the_later_one_writes_and_the_end_is_the_same(
    world_of: MakeWorld, name: str, after_s: float
) -> None:
    whole, world = played(world_of(name)), world_of(name)
    states = world.live_twice(after_s=after_s)
    assert sorted(states) == ["standby", "writing"]
    assert states[0] == "standby" or not after_s
    check_same_end(world, whole)
    assert replayed(world.log).mismatches == 0


def test_a_shared_outage_takes_nothing_back_and_moves_nothing_up(world_of: MakeWorld, registry: Registry) -> None:
    phases: list[Phase] = []

    def tired_at_last(state: RolloutState) -> str:
        phases.append(state.phase)
        return "abort" if len(phases) > 200 and state.phase is Phase.PROGRESSING else patient(state)

    world = played(World(Story(outage, Phase.ABORTED, person=tired_at_last), registry, FILE))
    assert world.state.phase is Phase.ABORTED
    assert set(phases) <= {Phase.STARTING, Phase.PROGRESSING, Phase.ROLLING_BACK, Phase.ABORTED}
    assert [change for change in world.changes if "%" in change] == ["v1 v2, v1 answers, v2 has 5 %"]


def test_nothing_is_decided_by_what_is_no_decision(world_of: MakeWorld) -> None:
    world = played(world_of("healthy"))
    assert all(event.cause is not None for event, entry in world.events() if isinstance(entry.event, Decision))


def test_the_store_is_not_asked_without_need(world_of: MakeWorld, tmp_path: Path) -> None:
    """About one event a second while there is traffic: a log of a month must stay readable."""
    world = played(world_of("healthy"))
    assert len(world.events()) < 3 * (world.clock.now - 1000.0)
