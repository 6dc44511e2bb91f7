from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.request.limits import Pace, Window, gradient_of, next_limit

PRIORITIES = (1, 2, 3)


def window(*, limit: float, waited: float = 0.1, worked: float = 0.1, dropped: int = 0, reached: bool = True) -> Window:
    """A window of 100 requests that succeeded, each with the same times."""
    return Window(100, dropped, 100 * (waited + worked), 100 * waited, peak=int(limit) if reached else int(limit) - 1)


def after(limit: float, seen: Window, *, lowest: int = 1, highest: int = 10_000) -> float:
    return next_limit(limit, seen, lowest=lowest, highest=highest)


def settled(limit: float, *, replicas: int, rows: int, dropped_share: float = 0.0) -> float:
    """Where it ends when the limit is always reached: each replica takes 1 s for a batch, full or not."""
    for _ in range(500):
        took = max(limit / (replicas * rows), 2.0)  # Little's law; whoever comes waits for the batch before its own
        good = round(1000 * (1 - dropped_share))
        limit = after(limit, Window(good, 1000 - good, good * took, good * (took - 1.0), int(limit)))
    return limit


class TestTheLimit:
    def test_it_grows_by_a_quarter_while_requests_wait_no_longer_than_they_are_worked_on(self) -> None:
        assert after(100, window(limit=100, waited=0.1, worked=0.1)) == pytest.approx(125)
        assert after(100, window(limit=100, waited=0.0, worked=0.1)) == pytest.approx(125)

    def test_it_grows_only_if_it_was_reached(self) -> None:
        assert after(100, window(limit=100, waited=0.0, reached=False)) == 100
        assert after(100.9, window(limit=100, waited=0.0)) > 100.9

    def test_it_shrinks_the_more_the_longer_requests_wait_but_never_by_more_than_a_quarter(self) -> None:
        little = after(100, window(limit=100, waited=0.2, reached=False))
        much = after(100, window(limit=100, waited=0.25, reached=False))
        far_too_much = after(100, window(limit=100, waited=50.0, reached=False))
        assert 100 > little > much > far_too_much == pytest.approx(75)

    def test_it_shrinks_when_requests_are_dropped_though_nobody_waits(self) -> None:
        assert after(100, window(limit=100, dropped=900)) < 85
        assert after(100, Window(0, 10, 0.0, 0.0, peak=100)) < 85

    def test_a_few_dropped_ones_stop_its_growth_but_dont_close_the_gate(self) -> None:
        """Somebody may always come with a deadline that nobody can keep."""
        assert settled(16, replicas=1, rows=64, dropped_share=0.05) > 100

    @pytest.mark.parametrize("start", [1, 16, 5000])
    @pytest.mark.parametrize(("replicas", "rows"), [(1, 64), (3, 64), (1, 1), (2, 8)])
    def test_it_settles_at_two_full_batches_for_each_replica_and_its_headroom(
        self, start: int, replicas: int, rows: int
    ) -> None:
        useful = 2 * replicas * rows
        assert useful <= settled(start, replicas=replicas, rows=rows) <= useful + 1.5 * math.sqrt(useful) + 1

    def test_requests_that_took_no_measurable_time_are_good_ones(self) -> None:
        assert after(100, Window(10, 0, 0.0, 0.0, peak=100)) == pytest.approx(125)

    def test_without_samples_it_stays(self) -> None:
        assert after(100, Window(0, 0, 0.0, 0.0, peak=50)) == 100


WINDOWS = st.builds(
    Window,
    succeeded=st.integers(0, 10_000),
    dropped=st.integers(0, 10_000),
    took_s=st.floats(0, 1e6),
    waited_s=st.floats(0, 1e6),
    peak=st.integers(0, 5000),
)


class TestWhateverAWindowSays:
    @given(st.floats(1, 5000), WINDOWS, st.integers(1, 100), st.integers(0, 4000))
    @settings(deadline=None)
    def test_the_limit_stays_between_its_bounds(self, limit: float, seen: Window, lowest: int, span: int) -> None:
        assert lowest <= next_limit(limit, seen, lowest=lowest, highest=lowest + span) <= lowest + span

    @given(st.floats(4, 5000), WINDOWS)
    @settings(deadline=None)
    def test_it_changes_by_a_quarter_at_most(self, limit: float, seen: Window) -> None:
        assert 0.7499 * limit <= after(limit, seen, highest=10**6) <= 1.2501 * limit

    @given(WINDOWS, st.floats(0, 1e6), st.integers(0, 1000))
    @settings(deadline=None)
    def test_more_waiting_and_more_dropped_never_raise_it(self, seen: Window, waited: float, dropped: int) -> None:
        worse = replace(seen, waited_s=seen.waited_s + waited, dropped=seen.dropped + dropped)
        assert gradient_of(worse) <= gradient_of(seen)


def pace_after(*windows: tuple[float, int], waiting: bool = True) -> Pace:
    """The pace after windows of (seconds, requests done); someone waits from the start, or never."""
    now, done = 0.0, 0
    pace = Pace(now, PRIORITIES)
    for seconds, count in windows:
        now, done = now + seconds, done + count
        pace.window_ended(now, done, waiting=waiting)
    return pace


class TestThePace:
    def test_it_isnt_known_until_others_wait(self) -> None:
        pace = pace_after((1.0, 50), (1.0, 50), waiting=False)
        assert (pace.rate, pace.request_s) == (None, 0.0)

    def test_it_is_what_gets_done_while_others_wait(self) -> None:
        pace = pace_after((1.0, 50), (0.5, 25))
        assert pace.rate == 50
        assert pace.request_s == 0.02

    def test_a_change_counts_half_at_once(self) -> None:
        assert pace_after((1.0, 50), (1.0, 150)).rate == 100
        assert pace_after((1.0, 50), (1.0, 10)).rate == 30

    def test_little_to_do_isnt_a_slow_pace_but_much_that_is_done_is_a_quick_one(self) -> None:
        pace = pace_after((1.0, 50))
        pace.window_ended(2.0, 51, waiting=False)
        assert pace.rate == 50
        pace.window_ended(3.0, 151, waiting=False)
        assert pace.rate == 75

    def test_a_window_in_which_the_waiting_only_began_says_nothing_yet(self) -> None:
        """Batches end at once: what is done between the first who waits and the next batch is chance."""
        pace = Pace(0.0, PRIORITIES)
        pace.filled(0.9, 9)
        pace.window_ended(1.0, 10, waiting=True)
        assert pace.rate is None
        pace.window_ended(2.0, 110, waiting=True)
        assert pace.rate == 100

    def test_a_window_in_which_nothing_is_done_doesnt_make_it_endless(self) -> None:
        assert pace_after((1.0, 50), (1.0, 0)).rate == 50


def wait(
    pace: Pace, priority: int = 1, ahead: int = 9, *, now: float = 2.0, done: int = 100, inflight: int = 4
) -> float:
    return pace.wait_s(priority, ahead, now=now, done=done, inflight=inflight)


class TestTheWait:
    def test_it_is_the_time_for_all_that_are_ahead_and_the_place_itself(self) -> None:
        assert wait(pace_after((1.0, 50), (1.0, 50))) == pytest.approx(0.2)

    def test_it_gets_longer_while_nothing_is_done_though_no_window_ends(self) -> None:
        stuck = pace_after((1.0, 50), (1.0, 50))
        assert wait(stuck, now=2.01) == pytest.approx(0.2)
        assert wait(stuck, now=6.0) == pytest.approx(10 * 4.0 / 4)

    def test_before_the_pace_is_known_it_is_what_it_must_be_at_least(self) -> None:
        pace = Pace(0.0, PRIORITIES)
        assert wait(pace, now=0.0, done=0) == 0.0
        assert wait(pace, now=0.2, done=0) == pytest.approx(10 * 0.2 / 4)
        assert wait(pace, now=0.2, done=4) == pytest.approx(10 * 0.2 / 8)
        assert wait(pace, now=0.2, done=0, inflight=0) == pytest.approx(2.0)

    def test_those_of_higher_priority_that_come_later_are_expected(self) -> None:
        pace = Pace(0.0, PRIORITIES)
        for done in range(100, 2000, 100):
            for priority, count in ((1, 50), (2, 25), (3, 25)):
                for _ in range(count):
                    pace.granted(priority)
            pace.window_ended(done / 100, done, waiting=True)
        high, normal, low = (wait(pace, priority, now=19.0, done=1900) for priority in PRIORITIES)
        assert (high, normal, low) == pytest.approx((0.1, 0.2, 0.4), rel=1e-3)

    def test_they_are_forgotten_when_they_come_no_more(self) -> None:
        pace = Pace(0.0, PRIORITIES)
        for done in range(100, 2000, 100):
            if done < 1000:
                pace.granted(1)
            pace.window_ended(done / 100, done, waiting=True)
        assert wait(pace, 3, now=19.0, done=1900) == pytest.approx(0.1, rel=1e-2)

    def test_it_is_finite_when_only_high_ones_come(self) -> None:
        pace = Pace(0.0, PRIORITIES)
        for done in range(1, 100):
            pace.granted(1)
            pace.window_ended(float(done), done, waiting=True)
        assert wait(pace, 3, now=99.0, done=99) == pytest.approx(10 / 0.01)
