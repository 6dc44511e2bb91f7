"""Evidence against a canary: what it is worth, that chance alone seldom makes enough of it, and what is no evidence."""

from __future__ import annotations

import random
from math import exp, inf, isclose, nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rollout.evidence import (
    E_MAX,
    MAX_WEIGHTS,
    RELATIVE_RISKS,
    EProcess,
    Finding,
    Observation,
    VariantCounts,
    agreement,
    coverage,
    e_value,
    log_e_value,
    observed,
    relative,
    validity,
)

WEIGHTS = st.floats(0.001, 0.999)
SMALL = st.integers(0, 40)


def seen(weight: float, *, canary: int = 0, stable: int = 0, attempts: int = 1000) -> Observation:
    """A window in which so many first attempts of each variant were bad."""
    return Observation(
        at=1.7e9,
        seconds=0.25,
        weight=weight,
        canary=VariantCounts(attempts=attempts, bad=canary),
        stable=VariantCounts(attempts=attempts, bad=stable),
    )


def after(*observations: Observation) -> EProcess:
    process = EProcess()
    for observation in observations:
        process = observed(process, observation)
    return process


PROCESSES = st.lists(st.builds(seen, WEIGHTS, canary=SMALL, stable=SMALL), max_size=6).map(lambda seen: after(*seen))


# --- the formula


def test_one_bad_event_is_worth_what_the_formula_says() -> None:
    ratios = [r / (1 - 0.05 + r * 0.05) for r in RELATIVE_RISKS]
    assert e_value(after(seen(0.05, canary=1))) == pytest.approx(sum(ratios) / len(ratios))
    ratios = [1 / (1 - 0.05 + r * 0.05) for r in RELATIVE_RISKS]
    assert e_value(after(seen(0.05, stable=1))) == pytest.approx(sum(ratios) / len(ratios))


def test_products_are_formed_across_weights_before_the_mean() -> None:
    products = [(r / (0.95 + r * 0.05)) ** 2 / (0.5 + r * 0.5) ** 3 for r in RELATIVE_RISKS]
    process = after(seen(0.05, canary=2), seen(0.5, stable=3))
    assert e_value(process) == pytest.approx(sum(products) / len(products))
    assert [exp(product) for product in process.log_products] == pytest.approx(products)


def test_nothing_seen_says_nothing() -> None:
    assert e_value(EProcess()) == 1


@given(PROCESSES, WEIGHTS)
def test_if_the_canary_is_no_worse_the_next_bad_event_leaves_the_evidence_on_average_as_it_is(
    process: EProcess, weight: float
) -> None:
    """The martingale property itself, exactly: what Ville's inequality, and so the whole promise, stands on."""
    before = log_e_value(process)
    own = exp(log_e_value(observed(process, seen(weight, canary=1))) - before)
    others = exp(log_e_value(observed(process, seen(weight, stable=1))) - before)
    assert isclose(weight * own + (1 - weight) * others, 1, rel_tol=1e-9)
    assert others < 1 < own  # so with a smaller probability than its weight it falls on average


@given(PROCESSES, WEIGHTS)
def test_more_bad_events_of_the_canary_are_more_evidence_and_of_stable_less(process: EProcess, weight: float) -> None:
    assert log_e_value(observed(process, seen(weight, canary=1))) > log_e_value(process)
    assert log_e_value(observed(process, seen(weight, stable=1))) < log_e_value(process)


@given(st.lists(st.tuples(st.sampled_from([0.05, 0.25, 0.5]), SMALL, SMALL), max_size=12), st.randoms())
def test_order_and_grouping_of_windows_make_no_difference_to_the_last_bit(
    windows: list[tuple[float, int, int]], chance: random.Random
) -> None:
    together = after(*(seen(weight, canary=canary, stable=stable) for weight, canary, stable in windows))
    singly = [
        seen(weight, canary=canary, stable=1 - canary, attempts=0)
        for weight, own, others in windows
        for canary in [1] * own + [0] * others
    ]
    chance.shuffle(singly)
    assert after(*singly).tallies == together.tallies
    assert e_value(after(*singly)) == e_value(together)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_without_a_split_there_is_no_evidence(weight: float) -> None:
    assert e_value(after(seen(weight, canary=1000, stable=3))) == 1


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e-9, 1 - 2**-53])
def test_weights_next_to_none_and_all_are_safe(weight: float) -> None:
    for counts in ({"canary": 1}, {"stable": 1}, {"canary": 10**6, "stable": 10**6}):
        assert 0 <= e_value(after(seen(weight, **counts))) <= E_MAX


@pytest.mark.parametrize("weight", [-0.1, 1.1, nan, inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        observed(EProcess(), seen(weight, canary=1))


def test_millions_of_bad_events_overflow_nothing() -> None:
    worse = after(seen(0.05, canary=5_000_000, stable=10))
    assert e_value(worse) == pytest.approx(E_MAX)
    assert relative(worse, 0.01).kind == "bad"
    well = after(seen(0.05, stable=5_000_000))
    assert e_value(well) == 0
    assert relative(well, 0.01).kind == "good"


@given(PROCESSES)
def test_a_process_survives_json_to_the_last_bit(process: EProcess) -> None:
    again = msgspec.json.decode(msgspec.json.encode(process), type=EProcess)
    assert again == process
    assert log_e_value(again) == log_e_value(process)


def test_a_rollout_moved_by_hand_for_ever_keeps_a_bounded_state_and_gains_no_evidence_by_it() -> None:
    chance = random.Random(1)
    windows = [seen(chance.uniform(0.01, 0.99), canary=chance.randrange(3), stable=1) for _ in range(500)]
    process = after(*windows)
    assert len(process.tallies) == MAX_WEIGHTS
    assert [tally.weight for tally in process.tallies] == sorted(tally.weight for tally in process.tallies)
    assert sum(tally.canary for tally in process.tallies) == sum(window.canary.bad for window in windows)
    exact = [sum(sum(pair) for window in windows for pair in [_worth(risk, window)]) for risk in RELATIVE_RISKS]
    assert all(kept <= full for kept, full in zip(process.log_products, exact, strict=True))


def _worth(risk: float, window: Observation) -> tuple[float, float]:
    own, others = (after(seen(window.weight, **{who: 1})).log_products for who in ("canary", "stable"))
    place = RELATIVE_RISKS.index(risk)
    return own[place] * window.canary.bad, others[place] * window.stable.bad


# --- the promise


@pytest.mark.parametrize("harm", [1.0, 0.5])
def test_canaries_that_are_no_worse_are_seldom_found_bad_at_changing_weights_and_rates(harm: float) -> None:
    """`harm` is the canary's true relative risk. Looked at after every event, at an alpha that shows."""
    chance, alpha, rollouts = random.Random(2011_03567), 0.1, 600
    found = 0
    for _ in range(rollouts):
        process = EProcess()
        for weight in (0.05, 0.05, 0.25, 0.5, chance.uniform(0.01, 0.99)):
            for _ in range(chance.choice([5, 20, 60])):  # bad events at this weight: rates move, too
                own = chance.random() < weight * harm / (1 - weight + weight * harm)
                process = observed(process, seen(weight, canary=own, stable=not own))
                if relative(process, alpha).kind == "bad":
                    break
            else:
                continue
            found += 1
            break
    assert found <= alpha * rollouts
    assert found > 0 or harm < 1  # or the test would be about nothing


# --- findings


def test_a_canary_with_more_than_its_part_of_the_bad_attempts_is_bad_and_says_so_in_a_sentence() -> None:
    found = relative(after(seen(0.05, canary=4, stable=1)), 0.01)
    assert found.kind == "bad"
    assert found.value is not None
    assert found.value > 1000
    assert found.threshold == 100
    assert "4 of 5 bad first attempts were the canary's and its weight explains 0.25" in found.why


def test_a_canary_with_its_part_is_good() -> None:
    assert relative(after(seen(0.05, canary=1, stable=19)), 0.01).kind == "good"
    assert relative(after(seen(0.05)), 0.01) == Finding(
        "good",
        "relative",
        "0 of 0 bad first attempts were the canary's and its weight explains 0: evidence 1 against it, 100 is enough",
        1.0,
        100.0,
    )


def test_without_attempts_of_both_there_is_nothing_to_compare() -> None:
    nobody = VariantCounts()
    some = VariantCounts(attempts=100, bad=50)
    assert relative(EProcess(), 0.01).kind == "no_data"
    assert relative(after(Observation(0, 1, 0.05, nobody, some)), 0.01).kind == "no_data"
    assert relative(after(Observation(0, 1, 0.05, some, nobody)), 0.01).kind == "no_data"


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0, -0.01, nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        relative(EProcess(), alpha)


def test_sums_go_on_over_all_observations() -> None:
    window = Observation(0, 1, 0.5, VariantCounts(9, 3, 2, 1), VariantCounts(8, 1), shadow_compared=5, shadow_agreed=4)
    process = after(window, window)
    assert process.canary == VariantCounts(18, 6, 4, 2)
    assert process.stable == VariantCounts(16, 2)
    assert (process.compared, process.agreed) == (10, 8)


@pytest.mark.parametrize(
    ("invalid", "attempts", "limit", "kind"),
    [
        (0, 0, 0.001, "no_data"),
        (0, 500, 0.001, "good"),
        (1, 500, 0.001, "good"),  # over the limit, but one is chance
        (5, 500, 0.001, "bad"),
        (1, 10_000, 0.0, "bad"),  # none are allowed
        (500, 500, 1.0, "good"),
        (6, 5, 0.1, "error"),
        (-1, 5, 0.1, "error"),
    ],
)
def test_invalid_answers_are_judged_against_their_limit(invalid: int, attempts: int, limit: float, kind: str) -> None:
    counts = VariantCounts(attempts=attempts, bad=attempts, invalid=invalid)
    assert validity(counts, limit=limit, alpha=0.01).kind == kind


@pytest.mark.parametrize("limit", [-0.1, 1.5, nan])
def test_a_limit_that_is_no_share_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="limited to"):
        validity(VariantCounts(10), limit=limit, alpha=0.01)


@pytest.mark.parametrize(
    ("compared", "agreed", "kind"),
    [
        (0, 0, "no_data"),
        (49, 0, "no_data"),
        (50, 43, "good"),  # 86 % where 90 % are wanted: chance does that
        (50, 20, "bad"),
        (5000, 4300, "bad"),  # 86 % again, and no chance any more
        (5000, 4950, "good"),
        (10, 11, "error"),
    ],
)
def test_agreement_is_judged_by_what_chance_explains(compared: int, agreed: int, kind: str) -> None:
    found = agreement(compared, agreed, 0.9, 50)
    assert found.kind == kind
    assert found.threshold == 0.9


def test_agreement_at_its_floor_is_seldom_found_bad_however_often_it_is_looked_at() -> None:
    chance, alpha, runs = random.Random(7), 0.1, 200
    found = 0
    for _ in range(runs):
        agreed = 0
        for compared in range(1, 401):
            agreed += chance.random() < 0.9
            if agreement(compared, agreed, 0.9, 1, alpha=alpha).kind == "bad":
                found += 1
                break
    assert 0 < found <= alpha * runs


def test_gateways_that_do_not_report_are_never_the_canarys_fault() -> None:
    assert coverage(3, 3).kind == "good"
    assert coverage(3, 2).kind == "error"
    assert coverage(3, 2, least=0.5).kind == "good"
    assert coverage(3, 0).kind == "no_data"
    assert coverage(0, 0).kind == "no_data"
    assert coverage(2, 3).kind == "error"
