"""The error budget: both windows have to burn, few bad events are no alarm, and what everybody burns is nobody's."""

from __future__ import annotations

import math
import random
from math import nan

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.rollout.burn_rate import (
    BUCKETS,
    WORKBOOK_RULES,
    Budget,
    BurnRate,
    BurnRateRule,
    begun,
    budget_left,
    burning,
    burning_beyond_chance,
    counted,
    overspent,
)
from serving.rollout.evidence import Finding, VariantCounts, log_share_e_value

RULE = BurnRateRule(long_s=12, short_s=3, factor=10)


def started(*rules: BurnRateRule, min_bad: int = 5) -> BurnRate:
    return begun(Budget(0.99), rules or (RULE,), min_bad=min_bad)


def ticks(state: BurnRate, count: int, *, attempts: int = 10, bad: int = 0, seconds: float = 0.25) -> BurnRate:
    for _ in range(count):
        state = counted(state, VariantCounts(attempts, bad), seconds)
    return state


def test_a_variant_that_burns_in_both_windows_is_bad_and_says_so_in_a_sentence() -> None:
    found = burning(ticks(started(), 40, bad=2))
    assert (found.kind, found.value, found.threshold) == ("bad", 20, 10)
    assert "20 times its rate over 12 s and 20 times over 3 s" in found.why


def test_a_variant_within_its_budget_is_good() -> None:
    state = ticks(started(), 200, attempts=100, bad=1)
    assert burning(state).kind == "good"
    assert burning(state).value == pytest.approx(1)


def test_what_is_over_does_not_fire_any_more() -> None:
    """The short window is what tells: the long one still remembers the burst."""
    state = ticks(started(), 20, bad=10)
    assert burning(state).kind == "bad"
    state = ticks(state, 13)
    assert burning(state).kind == "good"


def test_a_burst_that_is_small_beside_the_long_window_does_not_fire() -> None:
    state = ticks(started(), 44, attempts=100)
    assert burning(ticks(state, 2, attempts=100, bad=60)).kind == "good"


def test_few_bad_events_are_no_alarm_however_little_traffic_there_is() -> None:
    state = ticks(started(), 4, attempts=1, bad=1)
    assert burning(state).kind == "good"
    assert "5 are needed" in burning(state).why
    assert burning(ticks(state, 1, attempts=1, bad=1)).kind == "bad"


def test_no_traffic_is_no_data() -> None:
    assert burning(started()).kind == "no_data"
    assert burning(ticks(started(), 100, attempts=0)).kind == "no_data"


def test_old_events_are_let_go() -> None:
    state = ticks(ticks(started(), 20, bad=10), 1, attempts=0, seconds=13)
    assert burning(state).kind == "no_data"
    assert burning(ticks(state, 48)).value == 0


def test_any_of_several_rules_is_enough() -> None:
    slow = BurnRateRule(long_s=60, short_s=6, factor=2)
    leaking = ticks(started(RULE, slow), 200, attempts=20, bad=1)
    assert burning(leaking).kind == "bad"
    assert burning(leaking).threshold == 2
    assert burning(ticks(started(RULE), 200, attempts=20, bad=1)).kind == "good"


def test_what_stable_burns_as_well_is_not_the_canarys_doing() -> None:
    failing, well = ticks(started(), 40, bad=3), ticks(started(), 40)
    assert burning(failing, beside=well).kind == "bad"
    shared = burning(failing, beside=ticks(started(), 40, attempts=200, bad=50))
    assert shared.kind == "no_data"
    assert "stable's does so too" in shared.why
    assert burning(well, beside=failing).kind == "good"


@pytest.mark.parametrize("since", range(2, 10))
def test_a_canary_with_less_past_than_stable_is_not_blamed_for_an_outage_of_both(since: int) -> None:
    """Both fail a fifth of their attempts since the canary was given more weight; stable's past is long and good."""
    canary = ticks(ticks(started(), 40, attempts=4), since, attempts=40, bad=8)
    stable = ticks(ticks(started(), 40, attempts=900), since, attempts=800, bad=160)
    assert burning(canary, beside=stable).kind != "bad"
    assert burning(ticks(canary, 20, attempts=40, bad=8), beside=ticks(stable, 20, attempts=800, bad=160)).kind != "bad"
    alone = ticks(ticks(started(), 40, attempts=900), since, attempts=800)
    assert burning(ticks(canary, 20, attempts=40, bad=8), beside=ticks(alone, 20, attempts=800)).kind == "bad"


def test_a_few_bad_events_of_stable_excuse_nothing() -> None:
    failing, unlucky = ticks(started(), 40, bad=3), ticks(ticks(started(), 39), 1, attempts=4, bad=4)
    assert burning(failing, beside=unlucky).kind == "bad"


# --- with evidence


def beyond_chance(canary: BurnRate, stable: BurnRate, *, worse: bool = False, alone: BurnRate | None = None) -> Finding:
    return burning_beyond_chance(canary, beside=stable, worse=worse, alone=alone or started(), alpha=0.001)


def test_beside_stable_a_budget_that_burns_is_bad_when_the_comparison_says_so_and_not_before() -> None:
    failing, well = ticks(started(), 40, bad=3), ticks(started(), 40, attempts=200)
    assert beyond_chance(failing, well, worse=True) == burning(failing)
    found = beyond_chance(failing, well)
    assert (found.kind, found.value, found.threshold) == ("no_data", 30, 10)
    assert found.why.endswith("but chance explains it so far")
    assert beyond_chance(failing, ticks(started(), 40, attempts=200, bad=50), worse=True).kind == "no_data"
    assert beyond_chance(well, failing, worse=True).kind == "good"


def test_what_stable_burns_as_well_is_said() -> None:
    failing, stable = ticks(started(), 40, bad=3), ticks(started(), 40, attempts=200, bad=50)
    assert beyond_chance(failing, stable).why.endswith("stable's does so too: that is not the canary")


def test_where_nobody_is_beside_it_a_budget_that_burns_needs_more_than_chance() -> None:
    unlucky, failing = ticks(started(), 2, bad=3), ticks(started(), 40, bad=3)
    assert burning(unlucky).kind == "bad"
    assert beyond_chance(unlucky, started(), alone=unlucky).kind == "no_data"
    assert beyond_chance(failing, started(), alone=failing) == burning(failing)


def test_a_burst_that_is_over_speaks_against_nobody_whatever_the_evidence() -> None:
    over = ticks(ticks(started(), 40, bad=8), 20, bad=0)
    assert overspent(over, 0.001)
    assert beyond_chance(over, started(), alone=over).kind == "good"


def test_evidence_is_the_weighted_sum_of_all_that_begin_in_the_window_and_of_the_one_from_the_start() -> None:
    state = ticks(ticks(started(), 60), 4, bad=1)  # 16 s, numbered 0 to 16; the long window has 5 to 16
    limit, starts = 0.1, state.spans[-1].buckets
    products = {0: math.exp(log_share_e_value(4, 640, limit)) / 2}
    for place, bucket in enumerate(starts):
        bad, attempts = sum(one.bad for one in starts[place:]), sum(one.attempts for one in starts[place:])
        weight = 2 * (bucket.number + 1) * (bucket.number + 2)
        products[bucket.number] = math.exp(log_share_e_value(bad, attempts, limit)) / weight
    assert [bucket.number for bucket in starts] == list(range(5, 17))
    enough = sum(products.values())
    assert overspent(state, 1 / enough * 1.0001)
    assert not overspent(state, 1 / enough * 0.9999)


def test_a_healthy_day_is_no_shield() -> None:
    day = ticks(started(), 1440, seconds=60.0, attempts=6000)
    assert overspent(ticks(day, 10, seconds=1.0, attempts=100, bad=60), 0.001)


def test_a_version_that_burns_at_the_factor_is_seldom_overspent_however_often_it_is_looked_at() -> None:
    chance, alpha, runs = random.Random(3), 0.2, 100
    found = 0
    for _ in range(runs):
        state = started()
        for _ in range(60):  # half a minute, two and a half windows
            state = counted(state, VariantCounts(4, sum(chance.random() < 0.1 for _ in range(4))), 0.5)
            if overspent(state, alpha):
                found += 1
                break
    assert 0 < found <= alpha * runs


def test_several_rules_share_the_alpha() -> None:
    rules = (RULE, BurnRateRule(12, 3, 20))
    state = next(
        state
        for bad in range(1, 400)
        if overspent(state := counted(started(), VariantCounts(1000, 100 + bad), 1.0), 0.01)
    )
    both = counted(started(*rules), VariantCounts(state.attempts, state.bad), 1.0)
    assert not overspent(both, 0.01)
    assert overspent(both, 0.02)


def test_windows_of_a_second_work_with_observations_of_a_quarter() -> None:
    quick = BurnRateRule(long_s=2, short_s=0.5, factor=10)
    state = ticks(started(quick), 3, bad=2)
    assert burning(state).kind == "bad"
    assert burning(ticks(state, 3)).kind == "good"


def test_the_budget_that_is_left_is_that_of_all_traffic_so_far() -> None:
    assert budget_left(started()) is None
    assert budget_left(ticks(started(), 10, attempts=100)) == 1
    assert budget_left(ticks(started(), 10, attempts=200, bad=1)) == pytest.approx(0.5)
    assert budget_left(ticks(started(), 10, attempts=100, bad=3)) == pytest.approx(-2)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.floats(0, 30)), max_size=60))
def test_a_state_is_bounded_and_survives_json_to_the_last_bit(windows: list[tuple[int, int, float]]) -> None:
    state = started(RULE, BurnRateRule(40, 12, 3))
    for attempts, bad, seconds in windows:
        state = counted(state, VariantCounts(attempts + bad, bad), seconds)
    assert msgspec.json.decode(msgspec.json.encode(state), type=BurnRate) == state
    assert [span.seconds for span in state.spans] == [3, 12, 40]  # 12 s serve both rules
    assert all(len(span.buckets) <= BUCKETS for span in state.spans)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.sampled_from([0.25, 1.0, 5.0])), max_size=60))
def test_a_window_has_what_a_plain_sum_over_its_buckets_has(windows: list[tuple[int, int, float]]) -> None:
    state, now = started(), 0.0
    seen: list[tuple[float, int, int]] = []
    for attempts, bad, seconds in windows:
        now += seconds
        seen.append((now, attempts + bad, bad))
        state = counted(state, VariantCounts(attempts + bad, bad), seconds)
    for span in state.spans:
        step = span.seconds / BUCKETS
        since = (now // step - BUCKETS + 1) * step
        assert span.attempts == sum(attempts for at, attempts, _ in seen if at >= since)
        assert span.bad == sum(bad for at, _, bad in seen if at >= since)


def test_a_month_of_observations_keeps_the_state_small() -> None:
    state = begun(Budget(0.999), WORKBOOK_RULES)
    state = ticks(state, 2000, attempts=1000, bad=1, seconds=1296)
    assert len(msgspec.json.encode(state)) < 3000


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Budget(1.0),
        lambda: Budget(0.0),
        lambda: BurnRateRule(5, 5, 1),
        lambda: BurnRateRule(5, 0, 1),
        lambda: BurnRateRule(5, 1, 0),
        lambda: BurnRateRule(5, nan, 1),
        lambda: begun(Budget(0.99), ()),
        lambda: begun(Budget(0.99), (RULE,) * 9),
        lambda: begun(Budget(0.99), (RULE,), min_bad=0),
        lambda: ticks(started(), 1, seconds=-1),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match="must be"):
        wrong()
