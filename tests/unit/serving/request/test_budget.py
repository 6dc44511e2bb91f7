from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request.budget import RetryBudget


@given(st.floats(0, 10), st.integers(1, 200), st.lists(st.booleans(), max_size=300))
def test_no_more_is_spent_than_was_there_and_earned(ratio: float, maximum: int, script: list[bool]) -> None:
    budget = RetryBudget(ratio, maximum)
    successes = spent = 0
    for good in script:
        if good:
            budget.earned()
            successes += 1
        else:
            spent += budget.spend()
        assert spent <= min(10, maximum) + ratio * successes + 1e-6 * successes
        assert 0 <= budget.tokens <= maximum


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.3, 1.0, 2.0])
def test_ten_good_answers_pay_for_ten_times_the_ratio(ratio: float) -> None:
    budget = RetryBudget(ratio, 100)
    while budget.spend():
        pass
    for _ in range(10):
        budget.earned()
    paid = 0
    while budget.spend():
        paid += 1
    assert paid == round(10 * ratio)


def test_a_fresh_budget_pays_for_ten_attempts_or_all_it_may_hold() -> None:
    assert [RetryBudget(0.2, 100).tokens, RetryBudget(0.2, 3).tokens] == [10, 3]


def test_more_than_the_maximum_is_not_saved_up() -> None:
    budget = RetryBudget(1.0, 12)
    for _ in range(1000):
        budget.earned()
    assert [budget.spend() for _ in range(13)] == [True] * 12 + [False]


def test_nothing_is_earned_at_a_ratio_of_nothing() -> None:
    budget = RetryBudget(0.0, 1)
    assert budget.spend()
    budget.earned()
    assert not budget.spend()
