from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.request.window import Window

START = 1000.0

gaps = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 40))
calls = st.tuples(gaps, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.floats(0, 2))


@given(st.lists(calls, max_size=60), gaps)
def test_it_counts_all_of_nine_tenths_of_its_length_and_nothing_older_than_all_of_it(
    script: list[tuple[float, int, int, int, float]], after: float
) -> None:
    window = Window(10.0, now=START)
    now, happened = START, []
    for gap, number, failures, slow, seconds in script:
        now += gap
        window.add(now, calls=number, failures=failures, slow=slow)
        window.took(now, seconds)
        happened.append((now, number, failures, slow, seconds))
    now += after
    window.roll(now)
    surely = [event for event in happened if event[0] >= now - 9.0 + 1e-6]
    perhaps = [event for event in happened if event[0] >= now - 10.0 - 1e-6]
    for position, total in ((1, window.calls), (2, window.failures), (3, window.slow)):
        assert sum(event[position] for event in surely) <= total <= sum(event[position] for event in perhaps)
    assert len(surely) <= window.timed <= len(perhaps)
    assert sum(event[4] for event in surely) - 1e-9 <= window.seconds <= sum(event[4] for event in perhaps) + 1e-9
    assert max((event[4] for event in surely), default=0.0) <= window.slowest
    assert window.slowest <= max((event[4] for event in perhaps), default=0.0)


def test_what_is_added_is_there_at_once() -> None:
    window = Window(10.0, now=START)
    window.add(START)
    window.add(START + 1, failures=1)
    window.add(START + 2, slow=1)
    assert (window.calls, window.failures, window.slow) == (3, 1, 1)


def test_what_is_recent_is_the_last_tenth_or_two() -> None:
    window = Window(10.0, now=START)
    for second in range(10):
        window.add(START + second + 0.5, calls=second)
        window.took(START + second + 0.5, second)
    recent = window.recent()
    assert (recent.calls, recent.timed, recent.seconds, recent.slowest) == (9 + 8, 2, 9 + 8, 9)
    window.roll(START + 11.5)
    assert window.recent().calls == 0


def test_a_cleared_window_is_as_good_as_new() -> None:
    window = Window(10.0, now=START)
    window.add(START, failures=1, slow=1)
    window.took(START, 0.5)
    window.clear(START + 5)
    assert (window.calls, window.failures, window.slow, window.timed, window.seconds, window.slowest) == (0,) * 6
    window.add(START + 5)
    window.roll(START + 13.9)
    assert window.calls == 1


def test_sums_of_seconds_stay_exact_over_days() -> None:
    window = Window(1.0, now=START)
    now = START
    for _ in range(20_000):
        now += 0.03
        window.took(now, 0.1)
    assert window.seconds == pytest.approx(window.timed * 0.1, rel=1e-13)
