"""What people and programs are told of a rollout says what there is, and nothing that would be refused."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.rollout.apply import apply
from serving.rollout.desired import DesiredState
from serving.rollout.events import (
    Abort,
    ClockTick,
    Pause,
    Promote,
    Resume,
    Rollback,
    RolloutEvent,
)
from serving.rollout.report import ControllerReport, RolloutReport, overview, report
from serving.rollout.state import IllegalMove
from tests.rollouts import Run, at_first_weight, baking, rollout_spec, shut_out

COMMANDS: dict[str, type[Any]] = {
    "pause": Pause,
    "resume": Resume,
    "promote": Promote,
    "abort": Abort,
    "rollback": Rollback,
}


def of(run: Run) -> RolloutReport:
    return report(run.state)


def test_it_has_the_keys_of_the_contract_and_no_others() -> None:
    told = msgspec.json.decode(msgspec.json.encode(of(shut_out())))
    assert set(told) == {
        *("rollout", "model", "version", "prior", "phase", "reason", "over", "settled", "started_by", "started_at"),
        *("since", "at", "step", "steps", "weight", "open", "waiting_for", "can", "findings", "evidence"),
        *("budget_left", "bake", "here_s", "history", "rollback_took_s", "rolled_back_before"),
    }
    assert set(told["evidence"]) == {"e_value", "threshold", "canary", "stable", "here", "compared", "agreed"}
    assert set(told["evidence"]["here"]) == {"attempts", "bad", "slow", "invalid", "repeated"}
    assert set(told["history"][0]) == {"phase", "step", "weight", "since", "until", "attempts", "bad", "why"}


def test_it_can_be_read_back_by_whoever_asked() -> None:
    told = of(shut_out())
    assert msgspec.json.decode(msgspec.json.encode(told), type=RolloutReport) == told


def test_steps_look_as_in_the_file() -> None:
    told = msgspec.json.decode(msgspec.json.encode(of(Run())))
    assert told["steps"] == [
        {"setWeight": 5},
        {"pause": {"duration": "60s"}},
        {"setWeight": 25},
        {"pause": {}},
        {"setWeight": 100},
    ]
    assert told["step"] == -1


def test_evidence_budget_and_counts_are_those_of_the_state() -> None:
    run = at_first_weight()
    run.window(canary=50, stable=950, bad=1, stable_bad=3, compared=40, agreed=39)
    told = of(run)
    assert told.evidence.threshold == 150
    assert 0 < told.evidence.e_value < 100
    assert (told.evidence.canary.bad, told.evidence.stable.bad, told.evidence.here.attempts) == (1, 3, 50)
    assert (told.evidence.compared, told.evidence.agreed) == (40, 39)
    assert told.budget_left == 0.0  # 1 of 50 with an objective of 0.99
    assert {finding.what for finding in told.findings} >= {"relative", "burn_rate", "validity", "coverage"}


def test_a_budget_without_traffic_is_none_and_an_overdrawn_one_is_0() -> None:
    run = at_first_weight()
    assert of(run).budget_left is None
    run.window(canary=200, stable=200)
    assert of(run).budget_left == 1.0
    run.window(canary=5, stable=200, bad=5)
    assert of(run).budget_left == 0.0


def test_evidence_without_end_is_still_json() -> None:
    run = at_first_weight()
    run.window(canary=100_000, stable=100, bad=100_000)
    assert msgspec.json.decode(msgspec.json.encode(of(run)))["evidence"]["e_value"] == 1e300


def test_it_says_what_is_waited_for() -> None:
    assert of(Run()).waiting_for == "v2 to be ready"
    steep = at_first_weight(rollout_spec(steps="[{setWeight: 5}, {setWeight: 100}]"))
    assert of(steep).waiting_for == "100 more first attempts at 5 %"


def test_it_says_how_long_a_pause_lasts_and_what_is_still_needed_then() -> None:
    run = at_first_weight()
    assert (run.state.step, of(run).waiting_for) == (1, "60 s more of the pause, 100 more first attempts at 5 %")
    run.window(canary=120, stable=2000, seconds=20.0)
    assert of(run).waiting_for == "40 s more of the pause"
    run.tick(40.0)
    assert of(run).waiting_for == "all gateways to have the new weight"


def test_it_says_which_table_the_gateways_have_yet_to_get() -> None:
    run = Run()
    run.ready()
    assert (of(run).open, of(run).waiting_for) == ("SetWeight", "all gateways to have the new weight")
    run = at_first_weight()
    run.hear(Abort(at=run.at, who="anna"))
    assert (of(run).open, of(run).waiting_for) == ("RollBackNow", "all gateways to let go of v2")
    run.applied()
    assert (of(run).open, of(run).waiting_for) == ("Finish", "the replicas of v2 to end")
    run.gone("v2")
    assert (of(run).open, of(run).waiting_for, of(run).settled) == (None, "", True)


def test_a_bake_shows_how_much_of_it_is_done() -> None:
    run = baking()
    assert of(at_first_weight()).bake is None
    told = of(run)
    assert told.bake is not None
    assert (told.bake.done_s, told.bake.of_s) == (0.0, 120.0)
    run.windows(30, canary=200)
    told = of(run)
    assert told.bake is not None
    assert told.bake.done_s == 30.0
    assert told.waiting_for == "90 s more of the bake"
    run.windows(120, canary=200)
    told = of(run)
    assert (told.phase, told.over, told.open) == ("Succeeded", True, "Finish")
    assert told.bake is not None
    assert told.bake.done_s == 120.0


def test_the_time_of_a_rollback_is_from_the_evidence_to_the_last_gateway() -> None:
    run = at_first_weight()
    assert of(run).rollback_took_s is None
    run.hear(Rollback(at=run.at, who="anna"))
    assert of(run).rollback_took_s is None
    assert of(shut_out()).rollback_took_s == 0.4


def test_a_rollback_that_took_no_time_by_the_clock_took_0_s() -> None:
    run = at_first_weight()
    run.hear(Rollback(at=run.at, who="anna"))
    run.applied()
    assert of(run).rollback_took_s == 0.0


def test_the_reason_of_a_rollback_is_a_sentence_and_stays() -> None:
    told = of(shut_out())
    assert told.reason == next(finding.why for finding in told.findings if finding.kind == "bad")
    assert told.phase == "RolledBack"


def test_what_a_person_can_do_is_what_is_not_refused() -> None:
    paused_in_bake = baking()
    paused_in_bake.hear(Pause(at=paused_in_bake.at, who="anna"))
    paused = at_first_weight()
    paused.hear(Pause(at=paused.at, who="anna"))
    for run in (Run(), at_first_weight(), paused, paused_in_bake, baking(), shut_out()):
        accepted = {name for name, kind in COMMANDS.items() if taken(run, kind(at=run.at, who="anna"))}
        assert set(of(run).can) == accepted
    assert of(paused).waiting_for == "a person: resume, promote, abort, rollback"
    assert of(paused_in_bake).waiting_for == "a person: resume, abort, rollback"


def taken(run: Run, command: RolloutEvent) -> bool:
    try:
        apply(run.state, command)  # type: ignore[arg-type]  # every command is an event
    except IllegalMove:
        return False
    return True


def test_the_overview_has_every_model_in_order_and_what_was_shut_out() -> None:
    run = at_first_weight()
    desired = DesiredState(rollouts={"b": run.state, "a": Run().state}, rolled_back={"digits@v2": "bad"})
    told = overview(desired, ControllerReport("writing", pid=7, seq=57, log="events.db"))
    assert [one.step for one in told.rollouts] == [-1, 1]
    assert told.rolled_back == {"digits@v2": "bad"}
    assert msgspec.json.decode(msgspec.json.encode(told))["controller"] == {
        "state": "writing",
        "detail": "",
        "pid": 7,
        "seq": 57,
        "log": "events.db",
    }


def test_time_that_passes_is_the_reports_own() -> None:
    run = at_first_weight()
    run.hear(ClockTick(at=run.at + 5))
    assert of(run).here_s == 5.0
    assert of(run).at - of(run).since == 5.0
