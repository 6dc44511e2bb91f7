"""The short form of docs/judgement.md: few false rollbacks, bad canaries found early, outages of both left alone.

Breaking the formula of the evidence breaks these, and so does a budget that doesn't regard chance: the last tests of
the first two parts do so and look.
"""

from __future__ import annotations

from math import log, log1p

import numpy as np
import pytest
from msgspec.structs import replace

from serving.rollout.analysis import COMPARISON, OTHERS, gathered, judged, no_evidence
from serving.rollout.burn_rate import Budget, BurnRateRule, begun, burning, counted
from serving.rollout.evidence import EProcess, Observation, VariantCounts, e_value, log_factors, observed, relative
from serving.rollout.file import parse_rollout
from serving.rollout.spec import RolloutSpec
from tests.micro import shipped
from tests.micro.judgement import (
    BudgetRule,
    Factors,
    Phase,
    ThresholdRule,
    Traffic,
    evidence_decides,
    rules_decide,
    traffic,
)
from tests.micro.judgement_report import (
    AT_LIMITS,
    FAILING,
    MIRRORED,
    SPEC,
    STEPS_FILE,
    WHOLE,
    Simulation,
    alike,
    render,
    slower,
)
from tests.micro.shipped import FINDINGS, Answers, budget_rule, found_in, seen_of, shipped_decides

ALPHA = 0.05
"""Larger than in the docs, so that a few thousand rollouts tell whether it holds."""

COUNTS = ("attempts", "bad", "invalid", "stable_attempts", "stable_bad", "compared", "disagreed")
STEPS = (Phase(20_000, 0.05, 0.005), Phase(20_000, 0.25, 0.005), Phase(20_000, 0.5, 0.005))


def found_bad(*phases: Phase, rollouts: int = 4000, factors: Factors = log_factors) -> float:
    """The share of rollouts that are taken back."""
    decided = evidence_decides(phases, rollouts=rollouts, alpha=ALPHA, seed=20260, factors=factors)
    return float(np.isfinite(decided).mean())


def counts(weight: float, canary: int, stable: int) -> EProcess:
    window = Observation(0, 1, weight, VariantCounts(canary + 1, canary), VariantCounts(stable + 1, stable))
    return observed(EProcess(), window)


# --- false rollbacks


@pytest.mark.parametrize(
    ("weight", "alpha", "expected"),
    [(0.05, 0.01, 0.0048), (0.2, 0.01, 0.0073), (0.5, 0.01, 0.0079), (0.05, 0.05, None), (0.5, 0.05, None)],
)
def test_a_healthy_canary_is_taken_back_with_a_probability_under_alpha_exactly(
    weight: float, alpha: float, expected: float | None
) -> None:
    """No simulation: the real finding after each of 1 000 bad events, in every order in which they can come."""
    events, taken_back, enough = 1000, 0.0, 0
    still = np.zeros(events + 2)  # the probability of so many bad events of the canary, and not taken back
    still[0] = 1
    for event in range(1, events + 1):
        still[1:] = still[1:] * (1 - weight) + still[:-1] * weight
        still[0] *= 1 - weight
        while enough <= event and relative(counts(weight, enough, event - enough), alpha).kind != "bad":
            enough += 1
        taken_back += still[enough:].sum()
        still[enough:] = 0
    assert taken_back <= alpha
    if expected is not None:  # what the docs say
        assert taken_back == pytest.approx(expected, abs=0.00005)


@pytest.mark.parametrize(
    "phases",
    [(Phase(60_000, 0.05, 0.005),), (Phase(60_000, 0.5, 0.005),), STEPS, (Phase(60_000, 0.05, 0.004),)],
    ids=["5 %", "50 %", "steps", "better"],
)
def test_healthy_canaries_are_taken_back_in_less_than_alpha_of_all_rollouts(phases: tuple[Phase, ...]) -> None:
    assert found_bad(*phases) <= ALPHA


def test_the_bound_holds_when_each_step_is_judged_afresh() -> None:
    found = evidence_decides(STEPS, rollouts=4000, alpha=ALPHA, seed=1, afresh=True)
    assert 0 < np.isfinite(found).mean() <= ALPHA


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_an_outage_of_both_is_no_reason_to_take_the_canary_back(weight: float) -> None:
    assert found_bad(Phase(20_000, weight, 0.2, 0.2), rollouts=1000) <= ALPHA


@pytest.mark.parametrize(
    "broken",
    [
        lambda risk, weight: (log(risk), -log1p(weight * (risk - 1)) / 2),
        lambda risk, weight: (log(risk), -log1p(weight * (risk - 1))),
        lambda risk, weight: (log(risk) - log1p(0.8 * weight * (risk - 1)), -log1p(0.8 * weight * (risk - 1))),
    ],
    ids=["stable's worth halved", "the canary's not divided", "weight too small"],
)
def test_a_broken_formula_would_be_noticed(broken: Factors) -> None:
    assert max(found_bad(phase, factors=broken) for phase in (STEPS[0], STEPS[2])) > ALPHA


@pytest.mark.parametrize(
    "phases",
    [
        (Phase(50_000, 0.05, 0.005, cluster=20),),
        (Phase(100, 0.05, 0.2, 0.2), Phase(2000, 0.05, 0.2, 0.0)),
    ],
    ids=["every request of a sticky key", "no refusals by stable's open breaker"],
)
def test_counting_wrongly_does_break_the_bound(phases: tuple[Phase, ...]) -> None:
    """What the docstring of the evidence asks for is needed."""
    assert found_bad(*phases, rollouts=1000) > 2 * ALPHA


# --- all findings together, as a rollout file without `analysis` has them


def judged_as(alpha: float, *, mirrored: bool = False) -> RolloutSpec:
    shadow = ", shadow: {agreement: 0.95}" if mirrored else ""
    return parse_rollout(f"{STEPS_FILE}analysis: {{alpha: {alpha}{shadow}}}\n")


def taken_back(
    phases: tuple[Phase, ...],
    *,
    alpha: float = ALPHA,
    mirrored: bool = False,
    rollouts: int = 1000,
    rate: int = 150,
    answers: Answers = FAILING,
) -> dict[str, float]:
    """By finding, and by any, the share of rollouts that are taken back."""
    spec = judged_as(alpha, mirrored=mirrored)
    found = shipped_decides(phases, spec, rollouts=rollouts, rate=rate, seed=20260, answers=answers)
    return {what: float(np.isfinite(decided).mean()) for what, decided in found.items()}


def test_the_shares_of_alpha_are_all_of_it() -> None:
    assert pytest.approx(1) == COMPARISON + 3 * OTHERS


@pytest.mark.parametrize("bad", [0.001, 0.005, 0.007, 0.01])
def test_a_canary_that_is_no_worse_is_taken_back_in_less_than_alpha_of_all_rollouts(bad: float) -> None:
    """At 5 % for long, and to the end of a bake; also where there is little traffic."""
    assert taken_back(alike(bad, (Phase(40_000, 0.05, 0),)), rollouts=2000)["all"] <= ALPHA
    assert taken_back(alike(bad, slower(WHOLE, 6)), answers=Answers(invalid=1))["all"] <= ALPHA
    assert taken_back(alike(bad, slower(WHOLE, 30)), rate=5)["all"] <= ALPHA


def test_with_everything_at_its_limit_it_is_still_less_than_alpha() -> None:
    found = taken_back(alike(0.0144, slower(WHOLE, 3)), mirrored=True, rollouts=3000, answers=AT_LIMITS)
    assert found["burn_rate"] <= ALPHA * OTHERS / 2
    assert all(0 < found[what] <= ALPHA * OTHERS for what in ("validity", "agreement"))
    assert 0 < found["relative"] <= ALPHA * COMPARISON
    assert max(found[what] for what in FINDINGS) < found["all"] <= ALPHA


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_an_outage_of_both_takes_nothing_back_by_all_findings_together(weight: float) -> None:
    assert taken_back((Phase(20_000, weight, 0.2, 0.2),), rollouts=500)["all"] <= ALPHA


def test_a_budget_that_does_not_regard_chance_would_break_the_bound() -> None:
    """Rules 1, as a rollout file without `analysis` has them: by the budget alone more than all may be."""
    [beside] = rules_decide(
        alike(0.007, (Phase(60_000, 0.05, 0),)), [budget_rule(SPEC, beside=True)], rollouts=2000, rate=150, seed=1
    )
    assert np.isfinite(beside).mean() > SPEC.analysis.alpha


def test_without_evidence_the_budget_would_break_it_where_nobody_is_beside_the_canary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shipped, "overspent", lambda _rule, attempts, *_: np.ones(attempts.shape, dtype=bool))
    assert taken_back(alike(0.01, slower(WHOLE, 30)), rate=5)["burn_rate"] > ALPHA


# --- how soon


SOON_ENOUGH = pytest.mark.parametrize(
    ("bad", "weight", "at_most"),
    [
        (0.02, 0.05, 10_500),
        (0.05, 0.05, 2100),
        (0.30, 0.05, 230),
        (1.00, 0.05, 70),
        (0.02, 0.20, 3400),
        (0.05, 0.20, 700),
        (0.30, 0.20, 80),
        (1.00, 0.20, 25),
    ],
)


@SOON_ENOUGH
def test_a_bad_canary_is_found_within_few_requests(bad: float, weight: float, at_most: int) -> None:
    decided = evidence_decides((Phase(200_000, weight, bad),), rollouts=1000, alpha=0.01, seed=5)
    assert np.isfinite(decided).all()
    assert np.median(decided) <= at_most


@SOON_ENOUGH
def test_all_findings_together_are_as_quick(bad: float, weight: float, at_most: int) -> None:
    requests = 60_000 if bad < 0.05 else 12_000
    found = shipped_decides((Phase(requests, weight, bad),), SPEC, rollouts=500, rate=150, seed=5)["all"]
    assert np.isfinite(found).all()
    assert np.median(found) <= at_most


@pytest.mark.parametrize(("bad", "at_most_s"), [(0.3, 20), (1.0, 6)])
def test_a_canary_that_goes_bad_in_the_bake_is_found_within_seconds(bad: float, at_most_s: float) -> None:
    phases = (Phase(45_000, 1.0, 0.005), Phase(15_000, 1.0, bad))
    found = shipped_decides(phases, SPEC, rollouts=100, rate=150, seed=5)["all"]
    assert (found > 45_000).all()
    assert np.median(found) / 150 - 300 <= at_most_s


# --- the simulation is about the real thing


@pytest.mark.parametrize(
    ("phases", "answers"),
    [
        ((Phase(3000, 0.05, 0.005), Phase(3000, 0.25, 0.02), Phase(3000, 1.0, 0.06)), Answers(invalid=0.1)),
        ((Phase(1500, 0.2, 0.0144, 0.0144), Phase(9000, 1.0, 0.03)), Answers(disagreeing=0.05)),
        ((Phase(1500, 0.5, 0.3, 0.3),), Answers(invalid=0.1)),
        ((Phase(4500, 0.2, 0.005),), Answers(disagreeing=0.2)),
        ((Phase(1500, 0.2, 0.005), Phase(12_000, 1.0, 0.005), Phase(6000, 1.0, 0.3)), Answers()),
    ],
    ids=["worse and worse", "over the budget", "invalid", "disagreeing", "bad in the bake"],
)
def test_arrays_judge_as_the_real_thing_does(phases: tuple[Phase, ...], answers: Answers) -> None:
    """Looked at after every second: evidence that is enough after one event may have gone again by then."""
    rate, rollouts, gone = 150, 8, 0
    rng = np.random.default_rng(11)
    seen = seen_of(phases, MIRRORED, rollouts, rate, rng=rng, answers=answers)
    found = found_in(phases, MIRRORED, seen, rate)
    weights = np.repeat([phase.weight for phase in phases], [phase.requests // rate for phase in phases])
    for rollout in range(rollouts):
        at = {what: float(np.ceil(found[what][rollout] / rate)) for what in FINDINGS}
        first = min(at.values())
        evidence, bad, second = no_evidence(MIRRORED), set[str](), 0
        for second, weight in enumerate(weights):
            counts = {name: int(getattr(seen, name)[rollout, second]) for name in COUNTS}
            window = Observation(
                float(second),
                1.0,
                float(weight),
                VariantCounts(counts["attempts"], counts["bad"], 0, counts["invalid"]),
                VariantCounts(counts["stable_attempts"], counts["stable_bad"]),
                counts["compared"],
                counts["compared"] - counts["disagreed"],
                1,
                1,
            )
            if second and weight != weights[second - 1]:
                evidence = replace(evidence, here=VariantCounts())
            evidence = gathered(evidence, window, here=True)
            bad = {finding.what for finding in judged(MIRRORED, evidence) if finding.kind == "bad"}
            if bad or second + 1 >= first:
                break
        expected = {what for what in FINDINGS if at[what] == first < np.inf}
        if expected == {"relative"} and not bad:
            gone += 1
            continue
        assert expected <= bad <= expected | {"burn_rate"}, f"rollout {rollout}, second {second + 1}: {at}"
    assert gone <= 2


def test_arrays_reckon_what_the_real_evidence_does() -> None:
    """A canary that is all bad beside a stable that never is: the number of requests tells the number of events."""
    decided = evidence_decides((Phase(100_000, 0.05, 1.0, 0.0),), rollouts=500, alpha=0.01, seed=3)
    needed = next(own for own in range(1, 50) if e_value(counts(0.05, own, 0)) >= 100)
    assert np.mean(decided) == pytest.approx(needed / 0.05, rel=0.1)


@pytest.mark.parametrize("bad", [0.005, 0.03, 0.2])
def test_arrays_burn_what_the_real_budget_does(bad: float) -> None:
    rules = (BurnRateRule(60, 5, 6), BurnRateRule(100, 7, 3))
    seen = traffic(
        (Phase(15_000, 0.2, 0.005), Phase(30_000, 0.2, bad)), rollouts=10, rate=150, rng=np.random.default_rng(4)
    )
    fires = BudgetRule(Budget(0.995), rules, min_bad=8).fires(seen.canary_attempts, seen.canary_bad)
    for rollout, ticks in enumerate(fires):
        state = begun(Budget(0.995), rules, min_bad=8)
        for second, fired in enumerate(ticks):
            both = int(seen.canary_attempts[rollout, second]), int(seen.canary_bad[rollout, second])
            state = counted(state, VariantCounts(*both), 1.0)
            assert (burning(state).kind == "bad") == fired


def test_the_threshold_rule_rolls_back_at_the_run_after_its_last_failed_check() -> None:
    bad = np.array([[0, 2, 0, 0, 0, 2, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1]])
    hundred = np.full_like(bad, 50)
    seen = Traffic(hundred, bad, hundred, bad, rate=10)
    assert list(ThresholdRule(interval_s=2, failed_checks=2).decides(seen)) == [4 * 2 * 10, np.inf]


def test_budgets_spare_shared_outages_only_beside_stables() -> None:
    rules = [
        BudgetRule(Budget(0.995), (BurnRateRule(60, 5, 14.4),), min_bad=10, beside=beside) for beside in (False, True)
    ]
    alone, beside = rules_decide((Phase(15_000, 0.05, 0.2, 0.2),), rules, rollouts=200, rate=150, seed=1)
    assert np.isfinite(alone).all()
    assert np.isfinite(beside).mean() <= 0.05


def test_the_page_can_be_written() -> None:
    page, picture = render(Simulation(many=20, some=10))
    assert page.count("\n## ") == 7
    assert picture.count("<path") == 6
