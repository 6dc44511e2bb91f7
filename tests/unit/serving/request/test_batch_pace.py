"""A lane finds out how large its version's batches may be, whatever it has seen before."""

from __future__ import annotations

import random

import pytest

from serving.request.batch_pace import BATCH_SHARE, OVERDUE_FACTOR, OVERDUE_MIN_S, BatchPace

MOST = 64


def taught(
    base_s: float, slope_s: float, *, batches: int, given_s: float, waiting: int = MOST
) -> tuple[BatchPace, int]:
    """A pace after so many batches, each as large as it said, and the size of the next one."""
    pace = BatchPace()
    pace.computed(1, base_s + slope_s)
    for _ in range(batches):
        rows = pace.rows_for(given_s, most=MOST)
        pace.computed(rows, base_s + rows * slope_s)
    return pace, pace.rows_for(given_s, most=MOST)


def test_before_anything_is_known_a_batch_may_be_as_large_as_allowed() -> None:
    assert BatchPace().rows_for(0.001, most=MOST) == MOST


@pytest.mark.parametrize(
    ("base_s", "slope_s", "given_s"),
    [(0.2, 0.0005, 5.0), (0.04, 0.001, 1.0), (0.1, 0.0, 1.0), (0.5, 0.001, 10.0)],
    ids=["slow", "in a hurry", "all fixed", "over its share alone"],
)
def test_after_lone_requests_the_batches_of_a_model_with_fixed_costs_grow(
    base_s: float, slope_s: float, given_s: float
) -> None:
    pace = BatchPace()
    for _ in range(50):
        pace.computed(1, base_s + slope_s)
    sizes = []
    for _ in range(40):
        sizes.append(pace.rows_for(given_s, most=MOST))
        pace.computed(sizes[-1], base_s + sizes[-1] * slope_s)
    wanted = MOST if not slope_s else min(MOST, int(max(given_s * BATCH_SHARE - base_s, base_s) / slope_s))
    assert max(sizes[:8]) >= min(wanted, 32) // 2
    assert min(sizes[20:]) >= 0.75 * wanted


@pytest.mark.parametrize("row_s", [0.001, 0.01, 0.05])
def test_where_all_of_the_time_is_the_rows_a_batch_keeps_to_its_share(row_s: float) -> None:
    given_s = 1.0
    fits = given_s * BATCH_SHARE / row_s
    pace, _ = taught(0.0, row_s, batches=100, given_s=given_s)
    sizes = []
    for _ in range(100):
        sizes.append(pace.rows_for(given_s, most=MOST))
        pace.computed(sizes[-1], sizes[-1] * row_s)
    assert max(sizes) <= 2 * max(1, fits)  # once in a while a larger one is tried
    assert sum(sizes) / len(sizes) <= 1.25 * max(1, fits)
    assert min(sizes) >= int(fits) or min(sizes) == 1


def test_a_batch_that_mostly_waits_for_its_fixed_costs_is_filled_up_to_twice_their_time() -> None:
    _, rows = taught(0.1, 0.01, batches=60, given_s=0.5)
    assert rows in (9, 10, 11)


def test_a_slow_minute_is_forgotten() -> None:
    pace, before = taught(0.02, 0.001, batches=50, given_s=1.0)
    for _ in range(30):
        pace.computed(min(8, pace.rows_for(1.0, most=MOST)), 0.5)
    for _ in range(60):
        rows = pace.rows_for(1.0, most=MOST)
        pace.computed(rows, 0.02 + 0.001 * rows)
    assert pace.rows_for(1.0, most=MOST) >= 0.75 * before


def test_noise_does_not_make_batches_small_or_endless() -> None:
    seeded = random.Random(5)
    pace = BatchPace()
    sizes = []
    for _ in range(400):
        rows = min(seeded.randint(1, 40), pace.rows_for(1.0, most=MOST))
        sizes.append(rows)
        pace.computed(rows, (0.01 + 0.002 * rows) * seeded.uniform(0.7, 1.6))
    late = sizes[100:]
    assert 8 <= sum(late) / len(late) <= 30  # 26 rows are a sixteenth of a second; half of the time fewer were waiting


def test_failing_quickly_is_no_reason_to_think_that_others_hang() -> None:
    pace = BatchPace()
    pace.returned(0.2, good=True)
    for _ in range(100):
        pace.returned(0.0003, good=False)
        pace.returned(0.2, good=True)
    assert not pace.overdue(0.5)
    assert pace.overdue(OVERDUE_FACTOR * 0.2 + 0.01)


def test_as_long_as_nothing_is_answered_failures_are_all_there_is_to_go_by() -> None:
    pace = BatchPace()
    for _ in range(100):
        pace.returned(1.0, good=False)
    assert not pace.overdue(2.0)
    pace.returned(0.02, good=True)
    assert pace.overdue(OVERDUE_FACTOR * 0.02)
    assert pace.patience_s == pytest.approx(OVERDUE_FACTOR * 0.02)
    assert BatchPace().patience_s == OVERDUE_MIN_S
