"""A crash loop is told from replicas that come and go for other reasons."""

from __future__ import annotations

import pytest

from serving.rollout.crashes import CRASHES, GONE_S, WITHIN_S, Crashes


def dying(*, every_s: float, times: int) -> tuple[Crashes, float]:
    """One replica that dies and is replaced so often; and when that was."""
    crashes, now = Crashes(), 100.0
    crashes.seen(["r0"], now)
    for number in range(1, times + 1):
        now += every_s / 2
        crashes.seen([], now)
        now += every_s / 2
        crashes.seen([f"r{number}"], now)
    return crashes, now


def test_replicas_that_die_again_and_again_are_a_crash_loop() -> None:
    crashes, now = dying(every_s=4.0, times=CRASHES)
    assert crashes.breakdown(now) == "crashes again and again: 3 replicas died within 8 s"


def test_a_few_deaths_are_none() -> None:
    crashes, now = dying(every_s=4.0, times=CRASHES - 1)
    assert crashes.breakdown(now) == ""


def test_deaths_far_apart_are_none() -> None:
    crashes, now = dying(every_s=WITHIN_S, times=3 * CRASHES)
    assert crashes.breakdown(now) == ""


def test_a_replica_that_is_replaced_before_its_loss_is_noticed_counts() -> None:
    crashes = Crashes()
    for number in range(CRASHES + 1):
        crashes.seen([f"r{number}"], 100.0 + number)
    assert crashes.breakdown(103.0) != ""


def test_scaling_down_and_up_is_no_crash() -> None:
    crashes = Crashes()
    crashes.seen(["a"], 0.0)
    crashes.seen(["a", "b", "c"], 1.0)
    crashes.seen(["a"], 2.0)
    crashes.seen(["a", "d"], 3.0)
    assert crashes.breakdown(3.0) == ""


def test_what_comes_long_after_others_have_ended_replaces_none_of_them() -> None:
    """Autoscaling has ended some in the night, and in the morning it brings up as many."""
    crashes = Crashes()
    crashes.seen(["a", "b", "c", "d"], 0.0)
    crashes.seen(["a"], 1.0)
    crashes.seen(["a", "e", "f", "g"], 2.0 + WITHIN_S)
    assert crashes.breakdown(2.0 + WITHIN_S) == ""


def test_growing_is_no_crash() -> None:
    crashes = Crashes()
    for count in range(1, 10):
        crashes.seen([f"r{number}" for number in range(count)], float(count))
    assert crashes.breakdown(10.0) == ""


@pytest.mark.parametrize(("gone_s", "down"), [(GONE_S - 1, False), (GONE_S, True)])
def test_a_version_without_any_replica_is_down_after_a_while(gone_s: float, down: bool) -> None:
    crashes = Crashes()
    crashes.seen(["a"], 0.0)
    crashes.seen([], 1.0)
    assert bool(crashes.breakdown(1.0 + gone_s)) is down


def test_before_the_first_replica_is_known_nothing_is_wrong() -> None:
    crashes = Crashes()
    crashes.seen([], 0.0)
    assert crashes.breakdown(1000.0) == ""
