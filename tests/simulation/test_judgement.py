"""The short form of docs/judgement.md: few false rollbacks, bad canaries found early, outages of both left alone.

Breaking the formula of the evidence breaks these: the last tests of the first part do so and look.
"""

from __future__ import annotations

from math import log, log1p

import numpy as np
import pytest

from serving.rollout.burn_rate import Budget, BurnRateRule, begun, burning, counted
from serving.rollout.evidence import EProcess, Observation, VariantCounts, e_value, log_factors, observed, relative
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
from tests.micro.judgement_report import Simulation, render

ALPHA = 0.05
"""Larger than in the docs, so that a few thousand rollouts tell whether it holds."""

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


# --- how soon


@pytest.mark.parametrize(
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
def test_a_bad_canary_is_found_within_few_requests(bad: float, weight: float, at_most: int) -> None:
    decided = evidence_decides((Phase(200_000, weight, bad),), rollouts=1000, alpha=0.01, seed=5)
    assert np.isfinite(decided).all()
    assert np.median(decided) <= at_most


# --- the simulation is about the real thing


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
    assert page.count("\n## ") == 5
    assert picture.count("<path") == 6
