"""A line for each model and for each event, that a person reads without knowing the code."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC

import msgspec
import pytest

from serving.commands.lines import change_line, history_lines, overview_lines, said
from serving.commands.terminal import drawn
from serving.rollout.desired import DesiredState
from serving.rollout.events import (
    Abort,
    ClockTick,
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
    RolloutEvent,
    SetWeight,
    VersionFailed,
    VersionGone,
    VersionReady,
    Wait,
    WeightApplied,
)
from serving.rollout.evidence import Observation, VariantCounts
from serving.rollout.history import HistoryEvent
from serving.rollout.report import ControllerReport, overview, report
from tests.rollouts import Run, at_first_weight, rollout_spec, shut_out, start_of

WRITING = ControllerReport("writing")
WINDOW = Observation(1.0, 0.25, 0.05, VariantCounts(20, 1), VariantCounts(1380, 2), gateways=2, gateways_reporting=2)

SENTENCES: list[tuple[Event, str]] = [
    (start_of(rollout_spec()), "anna starts digits v1 → v2: more accurate"),
    (Pause(at=1, who="anna"), "anna pauses it"),
    (Resume(at=1, who="anna", why="rested"), "anna resumes it: rested"),
    (Promote(at=1, who="anna"), "anna promotes it"),
    (Abort(at=1, who="anna"), "anna aborts it"),
    (Rollback(at=1, who="anna", why="smells"), "anna rolls it back: smells"),
    (
        Observed(at=1, observation=WINDOW),
        "canary 20 attempts, 1 bad; stable 1,380 attempts, 2 bad; 2 of 2 gateways",
    ),
    (VersionReady(at=1, effect=1), "the version is ready"),
    (VersionFailed(at=1, reason="it crashes"), "it crashes"),
    (
        WeightApplied(at=1, effect=2, generation=12, weight=5, acknowledged=1, gateways=2),
        "5 % is known to 1 of 2 gateways (table 12)",
    ),
    (VersionGone(at=1, effect=3, version="v1"), "v1 has no replicas left"),
    (ClockTick(at=1), "time passes"),
    (DeployVersion(at=1, id=1, version="v2"), "deploy v2"),
    (SetWeight(at=1, id=2, step=0, version="v2", weight=5), "give v2 5 % (step 1)"),
    (Wait(at=1, id=3, step=1), "wait (step 2)"),
    (PauseNow(at=1, id=3, cause="metrics", reason="figures are missing"), "figures are missing"),
    (PublishPromotion(at=1, id=4, version="v2", prior="v1"), "give v2 all requests, keep v1 warm"),
    (
        RollBackNow(at=1, id=4, version="v2", prior="v1", reason="it fails", withdraw=True),
        "take v2 back: it fails",
    ),
    (Finish(at=1, id=5, outcome="Succeeded", remove="v1", reason="proved itself"), "Succeeded, end v1: proved itself"),
]


def numbered(*events: Event, rollout: str = "digits-1") -> list[HistoryEvent]:
    return [
        HistoryEvent(seq, 1000.0 + seq, seq - 1 if seq > 1 else None, rollout, event)
        for seq, event in enumerate(events, 1)
    ]


def lines(found: list[HistoryEvent], *, whole: bool = False) -> list[str]:
    return [drawn(line, None, color=False) for line in history_lines(found, whole=whole, zone=UTC)]


@pytest.mark.parametrize(("event", "sentence"), SENTENCES, ids=lambda one: type(one).__name__)
def test_every_event_is_a_sentence(event: Event, sentence: str) -> None:
    assert said(event) == sentence


def test_no_kind_of_event_is_forgotten() -> None:
    kinds = set(RolloutEvent.__subclasses__())
    assert {type(event) for event, _ in SENTENCES} == kinds


def test_a_history_has_time_number_kind_and_what_led_to_it() -> None:
    assert lines(numbered(start_of(rollout_spec()), DeployVersion(at=1, id=1, version="v2"))) == [
        "1970-01-01 00:16:41       1  digits-1  Start             anna starts digits v1 → v2: more accurate",
        "1970-01-01 00:16:42       2  digits-1  DeployVersion     deploy v2  (after 1)",
    ]


def test_windows_that_follow_one_another_have_one_line() -> None:
    window, tick = Observed(at=1, observation=WINDOW), ClockTick(at=1)
    found = numbered(window, window, tick, Wait(at=1, id=3, step=1), window)
    assert lines(found) == [
        (
            "1970-01-01 00:16:41       1  digits-1  Observed          2 windows up to event 3: canary 40 attempts, "
            "2 bad; stable 2,760 attempts, 4 bad"
        ),
        "1970-01-01 00:16:44       4  digits-1  Wait              wait (step 2)  (after 3)",
        (
            "1970-01-01 00:16:45       5  digits-1  Observed          canary 20 attempts, 1 bad; stable 1,380 "
            "attempts, 2 bad; 2 of 2 gateways  (after 4)"
        ),
    ]
    assert len(lines(found, whole=True)) == 5


def test_windows_of_two_rollouts_are_kept_apart() -> None:
    window = Observed(at=1, observation=WINDOW)
    assert len(lines([*numbered(window, window), *numbered(window, window, rollout="digits-2")])) == 2


def test_the_overview_has_a_line_for_each_model_with_the_reason_last() -> None:
    desired = DesiredState(rollouts={"digits": at_first_weight().state})
    assert [drawn(line, None, color=False) for line in overview_lines(overview(desired, WRITING))] == [
        "digits  v1 → v2  Progressing  step 2/5  5 %  evidence 1/150  pauses for 60s at 5 %",
    ]


def test_its_columns_stand_below_one_another() -> None:
    other = at_first_weight(rollout_spec(model="orientation")).state
    desired = DesiredState(rollouts={"digits": Run().state, "orientation": other})
    first, second = (drawn(line, None, color=False) for line in overview_lines(overview(desired, WRITING)))
    for word, under in (("v1 → v2", "v1 → v2"), ("step 0", "step 2"), ("evidence", "evidence")):
        assert first.index(word) == second.index(under)


def test_it_says_what_keeps_rollouts_from_going_on() -> None:
    told = overview(DesiredState(), ControllerReport("log_corrupt", "event 3: missing"))
    assert [drawn(line, None, color=False) for line in overview_lines(told)] == [
        "the controller's state is log_corrupt: event 3: missing",
        "no model has had a rollout yet",
    ]


def test_versions_that_were_taken_back_earlier_are_named_too() -> None:
    run = shut_out()
    marks = {"digits@v2": run.state.reason, "digits@v0": "it failed"}
    told = overview(DesiredState(rollouts={"digits": run.state}, rolled_back=marks), WRITING)
    one, other = (drawn(line, None, color=False) for line in overview_lines(told))
    assert "RolledBack" in one
    assert run.state.reason in one
    assert other == "digits@v0 was rolled back and stays so until a rollout of it is started: it failed"


@pytest.mark.parametrize("make", [Run, at_first_weight, shut_out])
def test_a_change_is_one_line(make: Callable[[], Run]) -> None:
    told = report(make().state)
    line = change_line(told, UTC)
    assert line.startswith("00:16:4")
    assert told.phase in line
    assert line.endswith(told.reason)
    assert change_line(msgspec.structs.replace(told, reason="a\nb\x1b"), UTC).isprintable()
