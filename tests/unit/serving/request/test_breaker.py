"""The promises of the breaker, each in words. Whatever order things come in is tests of ``test_breaker_machine``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from math import inf

import pybreaker
import pytest

from serving.errors import CircuitOpen
from serving.model_settings import BreakerSettings
from serving.request.breaker import Breaker, BreakerLimits, BreakerStatus, Ticket, breaker_limits
from tests.fakes import FakeClock

LONGEST = 1.0
"""What ``random`` answers if intervals are to have their full length. (A real one stays just below.)"""


def limits(
    *,
    enabled: bool = True,
    min_calls: int = 10,
    slow_s: float = inf,
    open_max_s: float = 8.0,
    probes: int = 3,
) -> BreakerLimits:
    return BreakerLimits(
        enabled=enabled,
        window_s=10.0,
        min_calls=min_calls,
        failure_rate=0.5,
        slow_s=slow_s,
        slow_rate=0.8,
        open_s=1.0,
        open_max_s=open_max_s,
        probes=probes,
        probe_timeout_s=5.0,
    )


LIMITS = limits()


def breaker_of(
    clock: FakeClock,
    limits: BreakerLimits = LIMITS,
    *,
    random: Callable[[], float] = lambda: LONGEST,
    on_change: Callable[[BreakerStatus], None] | None = None,
) -> Breaker:
    return Breaker("m@v1", limits, clock=clock, random=random, on_change=on_change)


def good(breaker: Breaker, calls: int = 1, *, seconds: float = 0.01) -> None:
    for _ in range(calls):
        breaker.admit().succeeded(seconds)


def bad(breaker: Breaker, calls: int = 1) -> None:
    for _ in range(calls):
        breaker.admit().failed(0.01)


def opened(
    clock: FakeClock, limits: BreakerLimits = LIMITS, *, random: Callable[[], float] = lambda: LONGEST
) -> Breaker:
    breaker = breaker_of(clock, limits, random=random)
    bad(breaker, limits.min_calls)
    assert state(breaker) == "open"
    return breaker


def half_opened(clock: FakeClock) -> tuple[Breaker, Ticket]:
    """With the first of its three probes."""
    breaker = opened(clock)
    clock.advance(1.0)
    return breaker, breaker.admit()


def state(breaker: Breaker) -> str:
    """A call, so that mypy doesn't believe the state to last."""
    return breaker.state


def open_s(breaker: Breaker) -> float:
    """How long it stays open from now on."""
    with pytest.raises(CircuitOpen) as refused:
        breaker.admit()
    return refused.value.retry_after_s


class TestWhatPybreakerDoesOtherwise:
    """Each is something that was seen of pybreaker 1.4.1 and must not be seen of ours."""

    async def test_a_call_that_is_awaited_and_fails_counts(self, clock: FakeClock) -> None:
        """Pybreaker's ``call`` is done when it has the coroutine."""
        breaker = breaker_of(clock)

        async def call() -> None:
            ticket = breaker.admit()
            await asyncio.sleep(0.5)
            ticket.failed(0.5)

        await asyncio.gather(*(call() for _ in range(10)))
        assert state(breaker) == "open"

    def test_no_lock_is_held_while_a_call_is_under_way(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        breaker.admit()
        free: list[bool] = []
        other = threading.Thread(target=lambda: free.append(breaker._circuit._lock.acquire(blocking=False)))
        other.start()
        other.join()
        assert free == [True]

    def test_of_fifty_calls_half_open_only_the_probes_are_let_through(self, clock: FakeClock) -> None:
        breaker, _ = half_opened(clock)
        refused = 0
        for _ in range(49):
            try:
                breaker.admit()
            except CircuitOpen:
                refused += 1
        assert refused == 47

    def test_a_cancelled_call_is_no_failure(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        for _ in range(100):
            breaker.admit().ignored()
        assert (breaker.state, breaker.status().calls) == ("closed", 0)

    def test_a_cancelled_probe_is_no_success_and_gives_its_place_back(self, clock: FakeClock) -> None:
        breaker, first = half_opened(clock)
        first.ignored()
        for _ in range(50):
            breaker.admit().ignored()
        assert state(breaker) == "half_open"
        good(breaker, 3)
        assert state(breaker) == "closed"

    def test_a_late_success_of_a_call_from_before_the_trip_does_not_close_it(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        early = breaker.admit()
        bad(breaker, 10)
        early.succeeded(0.01)
        assert state(breaker) == "open"

    def test_a_late_outcome_decides_no_round_of_probes(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        early = [breaker.admit() for _ in range(4)]
        bad(breaker, 10)
        clock.advance(1.0)
        probe = breaker.admit()
        for ticket in early[:3]:
            ticket.succeeded(0.01)
        early[3].failed(0.01)
        assert state(breaker) == "half_open"
        probe.succeeded(0.01)
        good(breaker, 2)
        assert state(breaker) == "closed"

    def test_whoever_reports_the_failure_that_trips_it_keeps_its_own_error(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        bad(breaker, 9)
        breaker.admit().failed(0.01)  # raises nothing of its own
        assert state(breaker) == "open"
        clock.advance(1.0)
        breaker.admit().failed(0.01)
        assert state(breaker) == "open"

    def test_who_is_told_of_a_change_finds_it_done(self, clock: FakeClock) -> None:
        seen: list[tuple[str, str]] = []

        def told(status: BreakerStatus) -> None:
            seen.append((status.state, breaker.state))

        breaker = breaker_of(clock, on_change=told)
        bad(breaker, 10)
        clock.advance(1.0)
        good(breaker, 3)
        assert seen == [("open", "open"), ("half_open", "half_open"), ("closed", "closed")]

    def test_a_good_call_between_bad_ones_does_not_undo_them(self, clock: FakeClock) -> None:
        """Pybreaker counts failures in a row."""
        breaker = breaker_of(clock)
        for _ in range(5):
            good(breaker)
            bad(breaker)
        assert state(breaker) == "open"
        assert breaker.status().why == "5 of 10 calls failed within 10 s"

    def test_a_wall_clock_that_jumps_changes_nothing(self) -> None:
        class Jumping(FakeClock):
            offset = 0.0

            def wall(self) -> float:
                return super().wall() + self.offset

        clock = Jumping()
        breaker = opened(clock)
        clock.offset = 86_400.0
        with pytest.raises(CircuitOpen):
            breaker.admit()
        clock.offset = -86_400.0
        clock.advance(1.0)
        breaker.admit()


def test_the_state_machine_is_pybreakers_and_its_listeners_hear_of_everything(clock: FakeClock) -> None:
    heard: list[str] = []

    class Listener(pybreaker.CircuitBreakerListener):
        def failure(self, cb: pybreaker.CircuitBreaker, exc: BaseException) -> None:
            heard.append("failure")

        def success(self, cb: pybreaker.CircuitBreaker) -> None:
            heard.append("success")

        def state_change(
            self,
            cb: pybreaker.CircuitBreaker,
            old_state: pybreaker.CircuitBreakerState | None,
            new_state: pybreaker.CircuitBreakerState,
        ) -> None:
            heard.append(new_state.name)

    breaker = breaker_of(clock, limits(min_calls=1, probes=1))
    breaker._circuit.add_listener(Listener())
    bad(breaker)
    clock.advance(1.0)
    good(breaker)
    assert heard == ["failure", "open", "half-open", "closed", "success"]
    assert isinstance(breaker._circuit.state, pybreaker.CircuitClosedState)


class TestTripping:
    def test_too_few_calls_are_no_verdict(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        bad(breaker, 9)
        assert state(breaker) == "closed"
        bad(breaker)
        assert state(breaker) == "open"

    def test_failures_below_the_rate_are_borne_for_ever(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        for _ in range(300):
            good(breaker, 2)
            bad(breaker)
            clock.advance(0.1)
        assert state(breaker) == "closed"

    def test_a_version_that_has_stopped_answering_is_not_judged_by_how_well_it_did(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        good(breaker, 500)
        bad(breaker, 5)
        good(breaker)
        bad(breaker, 9)
        assert breaker.state == "closed"
        bad(breaker)
        assert (breaker.state, breaker.status().why) == ("open", "the last 10 calls failed")

    def test_failures_are_forgotten_with_time(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        bad(breaker, 9)
        clock.advance(10.0)
        bad(breaker, 9)
        assert (breaker.state, breaker.status().failures) == ("closed", 9)

    def test_good_calls_that_are_slow_trip_it_too(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock, limits(slow_s=0.2))
        good(breaker, 2, seconds=0.2)
        good(breaker, 7, seconds=0.21)
        assert state(breaker) == "closed"
        good(breaker, seconds=0.21)
        assert state(breaker) == "open"
        assert breaker.status().why == "8 of 10 calls within 10 s took over 0.2 s"

    def test_without_a_bound_no_call_is_slow(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        good(breaker, 100, seconds=1e6)
        assert (breaker.state, breaker.status().slow) == ("closed", 0)

    def test_only_the_first_outcome_of_a_ticket_counts(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock)
        ticket = breaker.admit()
        ticket.succeeded(0.01)
        for _ in range(50):
            ticket.failed(0.01)
            ticket.ignored()
        assert (breaker.state, breaker.status().calls) == ("closed", 1)

    def test_switched_off_it_lets_everything_through(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock, limits(enabled=False, slow_s=0.1))
        bad(breaker, 100)
        good(breaker, 1000, seconds=1.0)
        assert state(breaker) == "closed"
        breaker.admit()


class TestOpen:
    def test_it_says_why_and_when_to_come_back(self, clock: FakeClock) -> None:
        breaker = opened(clock)
        clock.advance(0.25)
        with pytest.raises(CircuitOpen, match="m@v1 is open: 10 of 10 calls failed within 10 s") as refused:
            breaker.admit()
        assert refused.value.retry_after_s == pytest.approx(0.75)

    def test_intervals_double_up_to_the_cap_while_probes_fail(self, clock: FakeClock) -> None:
        breaker = opened(clock)
        intervals = []
        for _ in range(6):
            intervals.append(open_s(breaker))
            clock.advance(intervals[-1])
            bad(breaker)
        assert intervals == [1, 2, 4, 8, 8, 8]

    @pytest.mark.parametrize(("chance", "interval"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
    def test_chance_makes_an_interval_shorter_by_at_most_half(
        self, clock: FakeClock, chance: float, interval: float
    ) -> None:
        assert open_s(opened(clock, random=lambda: chance)) == interval

    def test_an_interval_starts_small_again_after_a_window_without_a_trip(self, clock: FakeClock) -> None:
        breaker = opened(clock)
        clock.advance(1.0)
        good(breaker, 3)
        clock.advance(9.9)
        bad(breaker, 10)
        assert open_s(breaker) == 2
        clock.advance(2.0)
        good(breaker, 3)
        clock.advance(10.0)
        bad(breaker, 10)
        assert open_s(breaker) == 1

    def test_after_a_long_interval_it_takes_as_long_a_good_time(self, clock: FakeClock) -> None:
        breaker = opened(clock, limits(open_max_s=64.0))
        for interval in (1, 2, 4, 8, 16):
            clock.advance(interval)
            bad(breaker)
        clock.advance(32.0)
        good(breaker, 3)
        clock.advance(31.0)
        bad(breaker, 10)
        assert open_s(breaker) == 64

    def test_asking_how_it_stands_takes_no_probe(self, clock: FakeClock) -> None:
        breaker = opened(clock)
        clock.advance(1.0)
        assert {breaker.status().state for _ in range(50)} == {"open"}
        assert [breaker.admit() for _ in range(3)]


class TestHalfOpen:
    def test_all_probes_good_close_it_with_an_empty_window(self, clock: FakeClock) -> None:
        breaker, probe = half_opened(clock)
        probe.succeeded(0.01)
        good(breaker)
        assert state(breaker) == "half_open"
        good(breaker)
        status = breaker.status()
        assert (status.state, status.calls, status.why) == ("closed", 0, "3 probes went well")

    def test_a_round_has_no_more_probes_than_it_takes_to_decide(self, clock: FakeClock) -> None:
        breaker, first = half_opened(clock)
        good(breaker, 2)
        with pytest.raises(CircuitOpen, match="is half-open and its 3 probes aren't back") as refused:
            breaker.admit()
        assert 0 < refused.value.retry_after_s <= 1.0
        first.succeeded(0.01)
        assert state(breaker) == "closed"

    def test_one_bad_probe_opens_it_for_longer(self, clock: FakeClock) -> None:
        breaker, probe = half_opened(clock)
        good(breaker, 2)
        probe.failed(0.01)
        assert open_s(breaker) == 2
        assert breaker.status().why == "a probe failed"

    def test_probes_that_are_mostly_slow_open_it_again(self, clock: FakeClock) -> None:
        breaker = opened(clock, limits(slow_s=0.2))
        clock.advance(1.0)
        good(breaker, 3, seconds=0.3)
        assert state(breaker) == "open"
        assert breaker.status().why == "3 of 3 probes took over 0.2 s"
        clock.advance(2.0)
        good(breaker, 2, seconds=0.3)
        good(breaker)
        assert state(breaker) == "closed"

    def test_a_lost_probe_has_failed_when_its_time_is_over(self, clock: FakeClock) -> None:
        breaker, _ = half_opened(clock)
        clock.advance(4.9)
        assert state(breaker) == "half_open"
        clock.advance(0.1)
        assert state(breaker) == "open"
        assert breaker.status().why == "a probe didn't come back within 5 s"
        assert open_s(breaker) == pytest.approx(2.0)

    def test_its_late_outcome_counts_no_more(self, clock: FakeClock) -> None:
        breaker, first = half_opened(clock)
        good(breaker, 2)
        clock.advance(5.0)
        first.succeeded(5.0)
        assert state(breaker) == "open"

    def test_lost_probes_that_nobody_noticed_do_not_delay_the_next_round(self, clock: FakeClock) -> None:
        """The circuit counts as open since the first one's time was over, not since somebody looked."""
        breaker, _ = half_opened(clock)
        lost = [breaker.admit(), breaker.admit()]
        clock.advance(7.0)
        good(breaker, 3)
        assert state(breaker) == "closed"
        for ticket in lost:
            ticket.failed(0.01)
        assert state(breaker) == "closed"
        assert breaker.status().opened == 2


class TestForPeople:
    def test_it_shows_what_it_counts(self, clock: FakeClock) -> None:
        breaker = breaker_of(clock, limits(slow_s=0.2))
        good(breaker, 4)
        bad(breaker, 2)
        good(breaker, seconds=0.3)
        made = clock.wall()
        clock.advance(1.0)
        assert breaker.status() == BreakerStatus("closed", made, "it hasn't opened since it was made", 7, 2, 1, 0, 0.0)

    def test_it_shows_why_it_is_open_and_since_when(self, clock: FakeClock) -> None:
        breaker = opened(clock)
        since = clock.wall()
        clock.advance(0.25)
        assert breaker.status() == BreakerStatus("open", since, "10 of 10 calls failed within 10 s", 10, 10, 0, 1, 0.75)

    def test_a_person_closes_it_and_it_starts_anew(self, clock: FakeClock) -> None:
        seen: list[BreakerStatus] = []
        breaker = breaker_of(clock, on_change=seen.append)
        early = breaker.admit()
        bad(breaker, 10)
        clock.advance(1.0)
        bad(breaker)
        breaker.reset()
        assert (breaker.state, breaker.status().why) == ("closed", "closed by hand")
        assert seen[-1].why == "closed by hand"
        early.failed(0.01)
        assert breaker.status().calls == 0
        bad(breaker, 10)
        assert open_s(breaker) == 1, "the first interval again"


def test_the_settings_say_seconds() -> None:
    settings = BreakerSettings(slow_call_ms=250, probes=7)
    made = breaker_limits(settings, timeout_s=2.5)
    assert (made.slow_s, made.probe_timeout_s, made.probes, made.open_s) == (0.25, 2.5, 7, settings.open_s)
    assert breaker_limits(BreakerSettings(), timeout_s=1.0).slow_s == inf
