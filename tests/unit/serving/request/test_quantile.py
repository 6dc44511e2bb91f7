from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request.quantile import GROWTH, LARGEST_S, REMEMBERED, SMALLEST_S, Quantiles

durations = st.floats(SMALLEST_S, LARGEST_S)


@given(st.lists(durations, min_size=50, max_size=400), st.sampled_from([0.1, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_the_estimate_is_at_most_a_bucket_above_the_truth(seen: list[float], share: float) -> None:
    quantiles = Quantiles()
    for seconds in seen:
        quantiles.observed(seconds)
    truth = sorted(seen)[max(0, ceil(share * len(seen) - 1e-6) - 1)]
    estimate = quantiles.quantile(share)
    assert estimate is not None
    assert truth * (1 - 1e-9) <= estimate <= truth * GROWTH * (1 + 1e-9)


def test_too_few_durations_give_no_estimate() -> None:
    quantiles = Quantiles()
    for _ in range(49):
        quantiles.observed(0.01)
    assert quantiles.quantile(0.95) is None
    quantiles.observed(0.01)
    assert quantiles.quantile(0.95) is not None


@pytest.mark.parametrize(("before", "after"), [(0.01, 1.0), (1.0, 0.01)])
def test_it_follows_a_version_that_becomes_slower_or_faster(before: float, after: float) -> None:
    quantiles = Quantiles()
    for _ in range(10 * REMEMBERED):
        quantiles.observed(before)
    for _ in range(5 * REMEMBERED):
        quantiles.observed(after)
    assert quantiles.quantile(0.95) == pytest.approx(after, rel=GROWTH - 1)


def test_an_estimate_is_kept_for_a_few_durations_and_then_made_anew() -> None:
    quantiles = Quantiles()
    for _ in range(64):
        quantiles.observed(0.01)
    first = quantiles.quantile(0.95)
    for _ in range(31):
        quantiles.observed(1.0)
    assert quantiles.quantile(0.95) == first == pytest.approx(0.01, rel=0.1)
    quantiles.observed(1.0)
    assert quantiles.quantile(0.95) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("seconds", "estimate"), [(0.0, SMALLEST_S), (1e-9, SMALLEST_S), (1e9, LARGEST_S)])
def test_what_is_out_of_range_counts_as_the_end_of_it(seconds: float, estimate: float) -> None:
    quantiles = Quantiles()
    for _ in range(50):
        quantiles.observed(seconds)
    assert quantiles.quantile(0.95) == pytest.approx(estimate, rel=0.1)
