"""The pure parts of the resilience run: arrivals, percentiles, recovery."""

from __future__ import annotations

import itertools
import math

import pytest

from loadtests.resilience.figures import Kind, Sample, figures, percentile, recovery
from loadtests.resilience.schedule import steady


def samples(*, slow: tuple[float, float] | None = None, **bad: tuple[float, float]) -> list[Sample]:
    """Ten a second for ten seconds; those due in a span are bad, as the span's name says, or slow."""
    found = []
    for tenth in range(100):
        due_s = tenth / 10
        kind = next((Kind(name) for name, (begin, end) in bad.items() if begin <= due_s < end), Kind.OK)
        took_s = 1.0 if slow is not None and slow[0] <= due_s < slow[1] else 0.01
        found.append(Sample(due_s, took_s, kind))
    return found


def test_requests_are_due_at_one_rate_and_inputs_and_priorities_take_turns() -> None:
    arrivals = list(steady(4, images=(5, 6, 7), at_most_s=2.0, priorities=(1, 2)))
    assert [arrival.due_s for arrival in arrivals] == [0.25 * index for index in range(8)]
    assert [arrival.image for arrival in arrivals] == [5, 6, 7, 5, 6, 7, 5, 6]
    assert [arrival.priority for arrival in itertools.islice(arrivals, 4)] == [1, 2, 1, 2]


def test_every_priority_gets_the_same_share_however_many_inputs_there_are() -> None:
    arrivals = list(steady(100, images=range(200), at_most_s=30.0, priorities=(1, 2, 3)))
    counts = [sum(arrival.priority == priority for arrival in arrivals) for priority in (1, 2, 3)]
    assert max(counts) - min(counts) <= len(arrivals) * 0.01
    assert len({(arrival.image, arrival.priority) for arrival in arrivals}) == 600  # no input has one for itself


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.76, 4.0), (0.99, 4.0), (1.0, 4.0)]
)
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile([4.0, 2.0, 1.0, 3.0], share) == value


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_a_fault_that_nobody_felt_is_overcome_at_once() -> None:
    assert recovery(samples(), 3.0, fast_s=0.1) == 0.0


@pytest.mark.parametrize("kind", ["failed", "degraded", "wrong", "unmarked", "lost"])
def test_recovery_takes_as_long_as_answers_come_that_are_not_good(kind: str) -> None:
    assert recovery(samples(slow=None, **{kind: (3.2, 5.0)}), 3.0, fast_s=0.1) == pytest.approx(1.91)


def test_a_request_under_way_feels_the_fault_though_it_was_due_before_it() -> None:
    under_way = [*samples(), Sample(2.9, 0.3, Kind.FAILED)]
    assert recovery(under_way, 3.0, fast_s=0.1) == pytest.approx(0.2)


def test_nothing_is_well_while_somebody_waits_in_vain() -> None:
    """The others were answered all the time; this one was told after three seconds that nothing comes."""
    stuck = [*samples(), Sample(3.1, 3.0, Kind.FAILED)]
    assert recovery(stuck, 3.0, fast_s=0.1) == pytest.approx(3.1)


def test_slow_answers_are_no_recovery() -> None:
    assert recovery(samples(slow=(3.0, 6.0)), 3.0, fast_s=0.1) == pytest.approx(3.9)
    assert recovery(samples(slow=(3.0, 6.0)), 3.0, fast_s=2.0) == 0.0


def test_a_slow_answer_now_and_then_is_no_relapse_but_several_are() -> None:
    def late(*dues_s: float) -> list[Sample]:
        return [*samples(), *(Sample(due_s, 0.5, Kind.OK) for due_s in dues_s)]

    assert recovery(late(3.55, 4.85, 6.15), 3.0, fast_s=0.1) == 0.0
    assert recovery(late(3.55, 4.15, 4.85), 3.0, fast_s=0.1) == pytest.approx(2.35)


def test_a_relapse_within_two_seconds_counts_as_not_recovered_before() -> None:
    relapse = samples(failed=(3.0, 4.0), degraded=(5.5, 6.0))
    assert recovery(relapse, 3.0, fast_s=0.1) == pytest.approx(2.91)


def test_without_two_good_seconds_there_is_no_recovery() -> None:
    assert recovery(samples(failed=(3.0, 8.5)), 3.0, fast_s=0.1) is None
    assert recovery([], 3.0, fast_s=0.1) is None


def test_recovery_does_not_look_before_the_fault_or_at_the_order_of_the_answers() -> None:
    assert recovery(samples(failed=(0.0, 3.0))[::-1], 3.0, fast_s=0.1) == 0.0


def test_calm_is_what_was_due_before_the_first_fault() -> None:
    found = figures(samples(slow=(5.0, 10.0), degraded=(6.0, 7.0)), hurt_from_s=5.0, faults_s=[5.0], fast_s=2.0)
    assert (found.requests, found.count(Kind.OK), found.count(Kind.DEGRADED)) == (100, 90, 10)
    assert (found.calm_p99_s, found.fault_p50_s) == (0.01, 1.0)
    assert found.recovery_s == pytest.approx(2.9)


def test_of_several_recoveries_the_longest_counts_and_one_that_failed_spoils_all() -> None:
    found = figures(samples(failed=(4.0, 5.0)), hurt_from_s=1.0, faults_s=[1.0, 4.0], fast_s=0.1)
    assert found.recoveries_s == [0.0, pytest.approx(0.91)]
    assert found.recovery_s == pytest.approx(0.91)
    assert figures(samples(), hurt_from_s=1.0, faults_s=[1.0, 9.5], fast_s=0.1).recovery_s is None


def test_what_was_not_good_is_counted_by_what_it_was() -> None:
    seen = [
        Sample(0, 0.1, Kind.DEGRADED, note="cache"),
        Sample(1, 0.1, Kind.FAILED, note="503"),
        Sample(2, 0.1, Kind.OK),
    ]
    assert figures(seen, hurt_from_s=0).notes == {"degraded cache": 1, "failed 503": 1}
