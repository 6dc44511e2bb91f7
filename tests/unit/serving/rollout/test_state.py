"""The table of a rollout and what ``apply`` makes of it: every move not in it is refused and changes nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import get_args

import msgspec
import pytest

from serving.rollout.apply import apply
from serving.rollout.events import (
    Abort,
    ClockTick,
    Command,
    Decision,
    DeployVersion,
    Event,
    Finish,
    Observed,
    Pause,
    PauseNow,
    Promote,
    PublishPromotion,
    Resume,
    Rollback,
    RollBackNow,
    SetWeight,
    Start,
    VersionFailed,
    VersionGone,
    VersionReady,
    Wait,
    WeightApplied,
)
from serving.rollout.evidence import Observation, VariantCounts
from serving.rollout.state import OVER, TABLE, IllegalMove, Phase, RolloutState, allowed
from tests.rollouts import Run, at_first_weight, baking, kinds, rollout_spec, start_of

WINDOW = Observation(0.0, 1.0, 0.05, VariantCounts(), VariantCounts(), gateways=1, gateways_reporting=1)
EVENTS: list[Event] = [
    start_of(rollout_spec()),
    Pause(at=0.0, who="anna"),
    Resume(at=0.0, who="anna"),
    Promote(at=0.0, who="anna"),
    Abort(at=0.0, who="anna"),
    Rollback(at=0.0, who="anna"),
    Observed(at=0.0, observation=WINDOW),
    VersionReady(at=0.0, effect=1),
    VersionFailed(at=0.0, reason="crashed"),
    WeightApplied(at=0.0, effect=1, generation=1, weight=5, acknowledged=1, gateways=1),
    VersionGone(at=0.0, effect=1, version="v1"),
    ClockTick(at=0.0),
    DeployVersion(at=0.0, id=1, version="v2"),
    SetWeight(at=0.0, id=1, step=0, version="v2", weight=5),
    Wait(at=0.0, id=1, step=1),
    PauseNow(at=0.0, id=1, cause="breach", reason="bad"),
    PublishPromotion(at=0.0, id=1, version="v2", prior="v1"),
    RollBackNow(at=0.0, id=1, version="v2", prior="v1", reason="bad", withdraw=True),
    Finish(at=0.0, id=1, outcome="Succeeded", remove="v1", reason="good"),
]


def in_phase(phase: Phase) -> RolloutState:
    """A state that has come to the phase by legal moves, where there are any to come to it by."""
    state = msgspec.structs.replace(at_first_weight().state, phase=phase)
    return msgspec.structs.replace(state, paused_in=Phase.PROGRESSING if phase is Phase.PAUSED else None)


def test_there_is_an_example_of_every_event() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


def test_every_phase_has_its_row_and_every_move_leads_to_a_phase() -> None:
    assert set(TABLE) == set(Phase)
    known = set(get_args(Event)) - {Start}
    for moves in TABLE.values():
        assert set(moves) <= known
        assert all(targets for targets in moves.values())


def test_nothing_leads_out_of_an_end() -> None:
    for phase in OVER:
        assert {target for targets in TABLE[phase].values() for target in targets} == {phase}


def test_from_every_phase_that_is_not_over_there_is_a_way_back() -> None:
    for phase in set(Phase) - OVER - {Phase.ROLLING_BACK}:
        for kind in (RollBackNow, Rollback, Abort):
            assert TABLE[phase][kind] == (Phase.ROLLING_BACK,)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_move_that_is_not_in_the_table_is_refused_and_changes_nothing(phase: Phase, event: Event) -> None:
    state = in_phase(phase)
    if isinstance(event, get_args(Decision)):
        event = msgspec.structs.replace(event, id=state.decided + 1)
    before = msgspec.json.encode(state)
    if type(event) in TABLE[phase]:
        with suppress(IllegalMove):  # the table allows the kind of event; this one may name a step that isn't next
            assert apply(state, event).phase in TABLE[phase][type(event)]
    else:
        with pytest.raises(IllegalMove, match=rf"digits-1 is {phase.value}"):
            apply(state, event)
    assert msgspec.json.encode(state) == before


def test_a_refusal_says_what_a_person_can_do_instead() -> None:
    run = at_first_weight()
    with pytest.raises(IllegalMove, match=r"no Resume now\. What a person can do: pause, promote, abort, rollback"):
        run.hear(Resume(at=run.at, who="anna"))


@pytest.mark.parametrize(
    ("phase", "instead"),
    [
        (Phase.SUCCEEDED, "start a rollout, of v1,"),
        (Phase.ROLLED_BACK, "start a rollout, of v2,"),
        (Phase.ABORTED, "start a rollout, of v2,"),
        (Phase.ROLLING_BACK, "wait until it is taken back"),
    ],
)
def test_where_no_command_is_taken_the_refusal_says_what_to_do_all_the_same(phase: Phase, instead: str) -> None:
    with pytest.raises(IllegalMove, match=f"What a person can do: {instead}"):
        apply(in_phase(phase), Pause(at=1.0, who="anna"))


def test_what_a_person_may_do_is_read_from_the_table() -> None:
    assert allowed(in_phase(Phase.PAUSED)) == ["Resume", "Promote", "Abort", "Rollback"]
    assert allowed(in_phase(Phase.SUCCEEDED)) == []


@pytest.mark.parametrize("number", [0, 2, 3, 5, 99])
def test_a_decision_out_of_turn_is_refused_as_that_of_a_second_controller(number: int) -> None:
    run = at_first_weight()
    assert run.state.decided == 3
    with pytest.raises(IllegalMove, match=f"decision {number} can't follow decision 3"):
        apply(run.state, PublishPromotion(at=run.at, id=number, version="v2", prior="v1"))


def test_an_answer_to_an_effect_that_was_never_decided_is_refused() -> None:
    run = at_first_weight()
    with pytest.raises(IllegalMove, match="never decided"):
        apply(run.state, VersionReady(at=run.at, effect=17))


def test_an_answer_that_comes_late_or_twice_changes_nothing_but_the_time() -> None:
    run = at_first_weight()
    before = run.state
    assert run.hear(VersionReady(at=run.at, effect=1)) == []
    assert run.hear(WeightApplied(at=run.at, effect=2, generation=1, weight=5, acknowledged=2, gateways=2)) == []
    assert run.state == before


def test_a_table_that_some_gateways_do_not_have_yet_is_not_in_force() -> None:
    run = Run()
    run.ready()
    run.hear(WeightApplied(at=run.at, effect=2, generation=1, weight=5, acknowledged=1, gateways=2))
    assert run.state.weight == 0
    assert run.state.open is not None


def test_an_answer_with_another_weight_than_asked_for_is_refused() -> None:
    run = Run()
    run.ready()
    with pytest.raises(IllegalMove, match="asked for 5 %, not for 50 %"):
        run.hear(WeightApplied(at=run.at, effect=2, generation=1, weight=50, acknowledged=2, gateways=2))


@pytest.mark.parametrize(("step", "weight"), [(0, 5), (2, 50), (1, 60), (4, 100), (7, 100), (-3, 25)])
def test_only_the_weight_that_comes_next_can_be_set(step: int, weight: int) -> None:
    run = at_first_weight()
    decision = SetWeight(at=run.at, id=run.state.decided + 1, step=step, version="v2", weight=weight)
    with pytest.raises(IllegalMove):
        apply(run.state, decision)


def test_no_weight_is_set_while_another_one_is_on_its_way() -> None:
    run = Run(rollout_spec(steps="[{setWeight: 5}, {setWeight: 100}]"))
    run.ready()
    with pytest.raises(IllegalMove, match="isn't what comes after step 1"):
        apply(run.state, SetWeight(at=run.at, id=run.state.decided + 1, step=1, version="v2", weight=100))


@pytest.mark.parametrize("step", [0, 2, 3, 99])
def test_only_the_pause_that_comes_next_can_begin(step: int) -> None:
    run = at_first_weight()
    for decision in (
        Wait(at=run.at, id=run.state.decided + 1, step=step),
        PauseNow(at=run.at, id=run.state.decided + 1, step=step, cause="step", reason=""),
    ):
        with pytest.raises(IllegalMove):
            apply(run.state, decision)


def test_nobody_decides_to_promote_before_all_steps_are_done_but_a_person() -> None:
    run = at_first_weight()
    with pytest.raises(IllegalMove, match="before all steps are done"):
        apply(run.state, PublishPromotion(at=run.at, id=run.state.decided + 1, version="v2", prior="v1"))


def test_the_prior_version_stays_until_the_bake_is_over_whoever_decides() -> None:
    run = baking()
    run.window(canary=100, seconds=60)
    finish = Finish(at=run.at, id=run.state.decided + 1, outcome="Succeeded", remove="v1", reason="in a hurry")
    with pytest.raises(IllegalMove, match="v1 stays until the bake is over"):
        apply(run.state, finish)


def test_a_rollback_is_not_over_while_a_gateway_may_still_send_requests() -> None:
    run = at_first_weight()
    run.hear(Abort(at=run.at, who="anna"))
    finish = Finish(at=run.at, id=run.state.decided + 1, outcome="Aborted", remove="v2", reason="")
    with pytest.raises(IllegalMove, match="may still send requests"):
        apply(run.state, finish)


def test_only_the_version_that_lost_is_removed() -> None:
    run = at_first_weight()
    run.hear(Abort(at=run.at, who="anna"))
    number = run.state.decided
    back = apply(run.state, WeightApplied(at=run.at, effect=number, generation=2, weight=0, acknowledged=1, gateways=1))
    with pytest.raises(IllegalMove, match="v1 stays"):
        apply(back, Finish(at=run.at, id=number + 1, outcome="Aborted", remove="v1", reason=""))


def test_what_is_promoted_is_not_promoted_again_out_of_a_pause() -> None:
    run = baking()
    run.hear(Pause(at=run.at, who="anna"))
    with pytest.raises(IllegalMove, match="promoted already"):
        run.hear(Promote(at=run.at, who="anna"))


@pytest.mark.parametrize(("weight", "seconds"), [(1.5, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.05, -1.0)])
def test_a_window_that_cannot_be_is_refused(weight: float, seconds: float) -> None:
    run = at_first_weight()
    window = msgspec.structs.replace(WINDOW, weight=weight, seconds=seconds)
    with pytest.raises(IllegalMove):
        run.hear(Observed(at=run.at, observation=window))


def test_the_history_tells_phases_and_weights_in_order_with_what_ended_each() -> None:
    run = Run()
    run.tick(5)
    run.ready()
    run.tick(1)
    run.applied()
    run.window(canary=200, bad=1, stable=2000)
    run.tick(60)
    run.applied()
    run.tick(1)
    run.hear(Abort(at=run.at, who="anna"))
    run.tick(1)
    run.applied()
    told = [(one.phase.value, one.step, one.weight, one.attempts, one.bad, one.why) for one in run.state.history]
    assert told == [
        ("Starting", -1, 0, 0, 0, "digits@v2 is ready"),
        ("Progressing", 0, 5, 0, 0, "pauses for 60s at 5 %"),
        ("Progressing", 1, 5, 200, 1, "25 % is being published"),
        ("Paused", 3, 25, 0, 0, "aborted by anna"),
        ("RollingBack", 3, 25, 0, 0, "no gateway has digits@v2 any more"),
    ]
    assert [one.until for one in run.state.history[:-1]] == [one.since for one in run.state.history[1:]]


def test_a_state_is_plain_data_and_survives_json_to_the_last_bit() -> None:
    for run in (Run(), at_first_weight(), baking()):
        run.window(canary=7, bad=1, stable=13, seconds=0.25)
        raw = msgspec.json.encode(run.state)
        assert msgspec.json.decode(raw, type=RolloutState) == run.state
        assert msgspec.json.encode(msgspec.json.decode(raw, type=RolloutState)) == raw


def test_every_event_survives_json() -> None:
    for event in EVENTS:
        assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_commands_name_who_gave_them() -> None:
    assert all("who" in kind.__struct_fields__ for kind in get_args(Command))


def test_after_the_rollback_late_windows_say_nothing_more() -> None:
    run = at_first_weight()
    run.window(canary=20, bad=6, stable=380)
    evidence = run.state.evidence
    assert kinds(run.window(canary=20, bad=20, stable=380)) == []
    assert run.state.evidence == evidence
