"""What a rollout does next, rule by rule: the real table, evidence and decider, told what was seen."""

from __future__ import annotations

import pytest

from serving.rollout.decide import decide, waiting_for
from serving.rollout.events import (
    Abort,
    ClockTick,
    DeployVersion,
    Finish,
    Pause,
    PauseNow,
    Promote,
    PublishPromotion,
    Resume,
    Rollback,
    RollBackNow,
    SetWeight,
)
from serving.rollout.state import Phase
from tests.rollouts import ROLLOUT_YAML, Run, at_first_weight, baking, kinds, rollout_spec, the

ONE_STEP = "[{setWeight: 5}, {setWeight: 100}]"


def test_first_the_version_is_deployed_and_no_weight_moves_before_it_is_ready() -> None:
    run = Run()
    assert kinds(run.decisions) == ["DeployVersion"]
    assert the(run.decisions, DeployVersion).version == "v2"
    assert run.tick(300) == []
    assert the(run.ready(), SetWeight).weight == 5


def test_a_weight_counts_only_when_every_gateway_has_it() -> None:
    run = Run(rollout_spec(steps=ONE_STEP))
    run.ready()
    assert run.window(canary=500, stable=500, weight=5) == []
    assert run.state.weight == 0
    run.applied()
    assert run.state.weight == 5
    assert run.state.evidence.here.attempts == 0


def test_the_next_weight_waits_for_enough_first_attempts_at_this_one() -> None:
    run = at_first_weight(rollout_spec(steps=ONE_STEP))
    assert run.window(canary=99, stable=1000) == []
    assert waiting_for(run.state) == "1 more first attempts at 5 %"
    assert the(run.window(canary=1), SetWeight).weight == 100


def test_attempts_of_a_window_with_another_weight_do_not_count_for_the_step() -> None:
    run = at_first_weight(rollout_spec(steps=ONE_STEP))
    assert run.window(canary=1000, stable=1000, weight=50) == []


def test_a_timed_pause_holds_the_weight_even_with_all_the_evidence() -> None:
    run = at_first_weight()
    run.window(canary=500, stable=5000)
    assert run.tick(50) == []
    assert the(run.tick(10), SetWeight).weight == 25


def test_a_pause_by_a_person_does_not_use_up_a_timed_pause() -> None:
    run = at_first_weight()
    run.window(canary=500, stable=5000)
    run.tick(30)
    run.hear(Pause(at=run.at, who="anna"))
    assert run.tick(500) == []
    run.hear(Resume(at=run.at, who="anna"))
    assert run.tick(20) == []
    assert kinds(run.tick(10)) == ["SetWeight"]


def test_a_pause_without_duration_waits_for_a_person() -> None:
    run = at_first_weight(rollout_spec(steps="[{setWeight: 5}, {pause: {}}, {setWeight: 100}]"))
    assert run.in_phase(Phase.PAUSED)
    assert run.state.reason == "step 2 of 3 waits for a person"
    assert run.window(canary=500, stable=500) == []
    assert run.tick(3600) == []
    assert the(run.hear(Resume(at=run.at, who="anna")), SetWeight).weight == 100


def test_after_the_last_step_it_is_promoted_and_bakes_with_the_prior_version_kept() -> None:
    run = baking()
    promotion = the(run.decisions, PublishPromotion)
    assert (promotion.version, promotion.prior) == ("v2", "v1")
    assert [decision.weight for decision in run.decisions if isinstance(decision, SetWeight)] == [5, 25, 100]
    run.windows(119, canary=100)
    assert run.in_phase(Phase.BAKING)
    finish = the(run.window(canary=1, seconds=1), Finish)
    assert (finish.outcome, finish.remove) == ("Succeeded", "v1")
    assert not run.state.settled
    run.gone("v1")
    assert run.state.settled


def test_only_time_that_the_gateways_report_on_counts_for_the_bake() -> None:
    run = baking()
    run.windows(100, canary=100)
    run.window(seconds=25, reporting=1)
    run.tick(25)
    assert run.in_phase(Phase.BAKING)
    run.window(canary=10, seconds=19)
    assert run.in_phase(Phase.BAKING)
    run.window(canary=10, seconds=1)
    assert run.in_phase(Phase.SUCCEEDED)


def test_a_bake_without_traffic_proves_nothing_and_waits_for_a_person_in_the_end() -> None:
    run = baking()
    for _ in range(71):
        run.window(seconds=10)
    assert run.in_phase(Phase.BAKING)
    run.window(seconds=10)
    assert run.in_phase(Phase.PAUSED)
    assert "100 more first attempts" in run.state.reason


def test_a_canary_that_is_worse_than_stable_is_taken_back_with_the_evidence_in_one_sentence() -> None:
    run = at_first_weight()
    decision = the(run.window(canary=20, bad=6, stable=380), RollBackNow)
    assert decision.withdraw
    assert "evidence" in decision.reason
    assert [finding.what for finding in decision.findings] == ["relative"]
    assert run.state.reason == decision.reason
    run.applied()
    assert run.in_phase(Phase.ROLLED_BACK)
    assert run.state.weight == 0
    assert the(run.decisions, Finish).remove == "v2"


def test_an_outage_that_hits_both_takes_nothing_back_and_moves_nothing_up() -> None:
    run = at_first_weight(rollout_spec(steps=ONE_STEP))
    for _ in range(20):
        assert run.window(canary=50, bad=10, stable=950, stable_bad=190, seconds=5) == []
    assert "stable's does so too" in waiting_for(run.state)


def test_in_the_bake_the_error_budget_takes_it_back() -> None:
    run = baking()
    decision = the(run.window(canary=100, bad=90, seconds=5), RollBackNow)
    assert decision.prior == "v1"
    assert decision.findings[0].what == "burn_rate"


def test_invalid_answers_over_the_limit_take_it_back() -> None:
    run = baking()
    found = the(run.window(canary=30, invalid=9, bad=9), RollBackNow).findings
    assert [finding.what for finding in found] == ["validity"]


def test_answers_that_disagree_with_the_mirrored_ones_take_it_back() -> None:
    run = at_first_weight(
        rollout_spec(text=ROLLOUT_YAML.replace("  invalidMax", "  shadow: {agreement: 0.95}\n  invalidMax"))
    )
    run.window(canary=10, stable=100, compared=99, agreed=0)
    assert run.in_phase(Phase.PROGRESSING)
    decision = the(run.window(canary=1, stable=1, compared=1, agreed=0), RollBackNow)
    assert [finding.what for finding in decision.findings] == ["agreement"]


def test_with_a_shadow_rule_the_weight_waits_until_enough_answers_were_compared() -> None:
    text = ROLLOUT_YAML.replace("  invalidMax", "  shadow: {agreement: 0.95, minCompared: 50}\n  invalidMax")
    run = at_first_weight(rollout_spec(text=text, steps=ONE_STEP))
    assert run.window(canary=500, stable=500, compared=49, agreed=49) == []
    assert "too few to judge" in waiting_for(run.state)
    assert kinds(run.window(compared=1, agreed=1)) == ["SetWeight"]


def test_a_version_that_is_not_ready_by_the_deadline_is_taken_back() -> None:
    run = Run()
    assert run.tick(590) == []
    assert the(run.tick(10), RollBackNow).reason == "digits@v2 wasn't ready within 10m"


@pytest.mark.parametrize("breach", ["rollback", "pause"])
def test_a_version_that_fails_its_golden_test_is_taken_back_whatever_the_file_says(breach: str) -> None:
    run = Run(rollout_spec(onBreach=breach))
    decision = the(run.failed("golden example 3 is off by 0.2", deploying=True), RollBackNow)
    assert decision.reason == "golden example 3 is off by 0.2"
    assert run.state.weight == 0


def test_a_version_that_crashes_again_and_again_is_taken_back_at_any_weight() -> None:
    run = at_first_weight()
    assert the(run.failed("crashed 3 times in 20 s"), RollBackNow).reason == "crashed 3 times in 20 s"


def test_a_version_that_crashes_while_it_is_promoted_is_taken_back_before_it_has_all_requests() -> None:
    run = at_first_weight()
    run.hear(Promote(at=run.at, who="anna"))
    assert kinds(run.failed("crashed 3 times in 20 s")) == ["RollBackNow"]


def test_a_pause_protects_nobody() -> None:
    run = at_first_weight()
    run.hear(Pause(at=run.at, who="anna"))
    assert kinds(run.window(canary=20, bad=6, stable=380)) == ["RollBackNow"]


def test_a_rollback_overtakes_a_weight_that_is_still_being_published() -> None:
    run = Run()
    run.ready()
    assert run.state.open is not None
    late = run.state.open.id
    assert kinds(run.failed("crashed 3 times in 20 s")) == ["RollBackNow"]
    assert run.state.open is not None
    assert run.state.open.id > late


def test_missing_figures_pause_and_never_take_back() -> None:
    run = at_first_weight()
    for _ in range(29):
        assert run.window(reporting=0) == []
    pause = the(run.window(reporting=0), PauseNow)
    assert pause.cause == "metrics"
    assert "none of 2 gateways reported" in pause.reason
    for _ in range(3600):
        assert run.window(reporting=0) == []
    assert run.in_phase(Phase.PAUSED)


def test_missing_figures_pause_the_bake_which_goes_on_where_it_was() -> None:
    run = baking()
    run.windows(100, canary=100)
    assert the(run.window(reporting=0, seconds=30), PauseNow).cause == "metrics"
    run.hear(Resume(at=run.at, who="anna"))
    assert run.window(canary=1, seconds=19) == []
    assert kinds(run.window(canary=1, seconds=1)) == ["Finish"]


def test_a_short_gap_in_the_figures_does_not_pause_but_nothing_goes_up_in_it() -> None:
    run = at_first_weight(rollout_spec(steps=ONE_STEP))
    assert run.window(canary=200, stable=200, reporting=1, seconds=20) == []
    assert waiting_for(run.state) == "all gateways to report"
    assert kinds(run.window(canary=1)) == ["SetWeight"]
    run.applied()
    assert run.window(reporting=1, seconds=20) == []


def test_after_missing_figures_resume_waits_for_them_anew() -> None:
    run = at_first_weight()
    run.window(reporting=0, seconds=30)
    assert run.hear(Resume(at=run.at, who="anna")) == []
    assert run.window(reporting=0, seconds=29) == []
    assert kinds(run.window(reporting=0, seconds=1)) == ["PauseNow"]


def test_a_step_without_enough_evidence_by_the_deadline_pauses() -> None:
    run = at_first_weight(rollout_spec(steps=ONE_STEP))
    assert run.window(canary=10, stable=100) == []
    assert run.tick(580) == []
    pause = the(run.tick(30), PauseNow)
    assert pause.cause == "evidence"
    assert "90 more first attempts at 5 %" in pause.reason
    assert run.hear(Resume(at=run.at, who="anna")) == []
    assert kinds(run.window(canary=90, stable=900)) == ["SetWeight"]


def test_a_weight_that_not_every_gateway_takes_by_the_deadline_pauses() -> None:
    run = Run()
    run.ready()
    assert run.tick(590) == []
    assert the(run.tick(10), PauseNow).cause == "evidence"


def test_if_the_file_says_pause_a_breach_waits_for_a_person_at_the_same_weight() -> None:
    run = at_first_weight(rollout_spec(onBreach="pause"))
    pause = the(run.window(canary=20, bad=6, stable=380), PauseNow)
    assert pause.cause == "breach"
    assert run.state.weight == 5
    assert run.window(canary=20, bad=6, stable=380) == []


def test_resume_after_a_breach_forgives_the_past_but_not_what_comes() -> None:
    run = at_first_weight(rollout_spec(onBreach="pause"))
    run.window(canary=20, bad=6, stable=380)
    assert run.hear(Resume(at=run.at, who="anna", why="it was the test traffic")) == []
    assert run.in_phase(Phase.PROGRESSING)
    assert run.window(canary=20, stable=380) == []
    assert kinds(run.window(canary=20, bad=6, stable=380)) == ["PauseNow"]


def test_a_breach_in_the_bake_pauses_the_bake_if_the_file_says_so() -> None:
    run = baking(rollout_spec(onBreach="pause"))
    run.window(canary=100, bad=90, seconds=5)
    assert run.in_phase(Phase.PAUSED)
    assert run.state.paused_in is Phase.BAKING
    run.hear(Resume(at=run.at, who="anna"))
    assert run.in_phase(Phase.BAKING)


def test_a_person_may_promote_without_the_steps_that_are_left() -> None:
    run = at_first_weight()
    assert kinds(run.hear(Promote(at=run.at, who="anna"))) == ["PublishPromotion"]
    run.applied()
    assert (run.state.phase, run.state.weight) == (Phase.BAKING, 100)


def test_a_person_may_abort_and_the_version_is_not_held_to_be_bad() -> None:
    run = at_first_weight()
    decision = the(run.hear(Abort(at=run.at, who="anna", why="wrong file")), RollBackNow)
    assert not decision.withdraw
    assert decision.reason == "aborted by anna: wrong file"
    run.applied()
    assert run.in_phase(Phase.ABORTED)


def test_a_person_may_roll_back_and_then_it_is() -> None:
    run = baking()
    assert the(run.hear(Rollback(at=run.at, who="anna", why="users complain")), RollBackNow).withdraw
    run.applied()
    run.gone("v2")
    assert run.in_phase(Phase.ROLLED_BACK)
    assert run.state.reason == "rolled back by anna: users complain"


def test_an_hour_that_nobody_watched_ends_no_pause_and_passes_no_deadline() -> None:
    run = Run()
    assert run.hear(ClockTick(at=run.at + 3600)) == []
    assert run.in_phase(Phase.STARTING)


@pytest.mark.parametrize("reporting", [0, 2])
def test_a_window_as_long_as_the_controller_was_down_neither_pauses_nor_bakes(reporting: int) -> None:
    run = baking()
    run.window(canary=1000, seconds=10)
    assert run.window(seconds=600, reporting=reporting) == []
    assert run.in_phase(Phase.BAKING)
    assert run.window(canary=10, seconds=30) == []


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_a_clock_that_is_wrong_once_stops_nothing(jump_s: int) -> None:
    run = Run()
    run.hear(ClockTick(at=run.at + jump_s))
    run.tick(550)
    assert kinds(run.tick(80)) == ["RollBackNow"]


@pytest.mark.parametrize("jump_s", [-86_400, 86_400])
def test_a_clock_that_is_put_back_or_forward_for_good_stops_nothing(jump_s: int) -> None:
    run = Run()
    run.tick(300)
    run.at += jump_s
    run.tick(250)
    assert kinds(run.tick(80)) == ["RollBackNow"]
    assert all(passage.since <= passage.until for passage in run.state.history)


def test_deciding_changes_nothing_and_the_same_state_gives_the_same_decision() -> None:
    run = Run()
    run.ready()
    run.applied()
    state = run.state
    assert decide(state) == decide(state)
    assert run.state is state


def test_a_model_that_is_hardly_asked_can_be_baked_to_the_end_by_a_person() -> None:
    """It pauses for want of attempts; who resumes it then lets it go on without them."""
    run = baking()
    run.windows(60.0 * 60, canary=0)
    assert run.in_phase(Phase.PAUSED)
    assert run.state.pause_cause == "evidence"
    decisions = run.hear(Resume(at=run.at, who="anna"))
    decisions += run.window(canary=0)
    assert the(decisions, Finish).outcome == "Succeeded"


def test_a_resume_at_a_step_excuses_nothing() -> None:
    run = at_first_weight()
    run.windows(60.0 * 60, canary=0)
    assert run.state.pause_cause == "evidence"
    run.hear(Resume(at=run.at, who="anna"))
    assert not run.state.excused
