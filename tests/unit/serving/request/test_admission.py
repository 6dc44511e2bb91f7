from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import DeadlineExceeded, Overloaded
from serving.model_settings import AdmissionSettings, ModelSettings
from serving.request.admission import Admission, AdmissionLimits, Permit, admission_limits
from serving.request.deadline import SLOT_S, Deadlines
from serving.request.priority import HIGH, LOW, NORMAL, PRIORITIES
from tests.fakes import FakeClock, run
from tests.fakes import settled as everything_done


class Gate(Admission):
    """An ``Admission`` on a fake clock; ``come`` is a request that takes what it gets."""

    __slots__ = ("clock", "given", "order", "wheel")

    def __init__(self, clock: FakeClock, **limits: Any) -> None:
        self.clock = clock
        self.wheel = Deadlines(clock)
        self.order: list[str] = []
        self.given: list[Permit] = []
        super().__init__("m", AdmissionLimits(**limits), clock=clock, deadlines=self.wheel)

    def _let_in(self) -> Permit:
        permit = super()._let_in()
        self.given.append(permit)
        return permit

    def come(self, name: str = "", *, priority: int = NORMAL, within: float = 100.0) -> asyncio.Task[Permit]:
        async def admitted(deadline: float) -> Permit:
            permit = await self.admit(priority, deadline)
            self.order.append(name)
            return permit

        return asyncio.create_task(admitted(self.clock.now + within))

    def at_once(self, *, priority: int = NORMAL, within: float = 100.0) -> Permit:
        permit = self.try_admit(priority, self.clock.now + within)
        assert permit is not None
        return permit


async def full(clock: FakeClock, *, limit: int = 2, **limits: Any) -> tuple[Gate, list[Permit]]:
    gate = Gate(clock, limit_min=limit, limit_max=limit, **limits)
    return gate, [gate.at_once() for _ in range(limit)]


async def paced(
    clock: FakeClock, *, limit: int = 2, interval_s: float = 0.01, priority: int = LOW, **limits: Any
) -> tuple[Gate, list[Permit]]:
    """A full gate that knows its pace and at which nobody waits any more."""
    gate, held = await full(clock, limit=limit, **limits)
    waiters = [gate.come("pace", priority=priority) for _ in range(100)]
    await everything_done()
    for waiter in waiters:
        await asyncio.sleep(interval_s)
        held.pop(0).succeeded(took_s=interval_s, waited_s=0.0)
        held.append(await waiter)
    assert gate.status()["rate"] == pytest.approx(1 / interval_s, rel=0.05)
    return gate, held


class TestLettingIn:
    async def test_up_to_its_limit_it_lets_in_at_once_and_then_says_wait(self, clock: FakeClock) -> None:
        gate, _ = await full(clock)
        assert gate.try_admit(NORMAL, clock.now + 1) is None
        assert (gate.inflight, gate.limit, gate.waiting) == (2, 2, {1: 0, 2: 0, 3: 0})

    @pytest.mark.parametrize("end", ["succeeded", "dropped", "ignored"])
    async def test_each_end_lets_the_next_one_in(self, clock: FakeClock, end: str) -> None:
        gate, (held, _) = await full(clock)
        first, second = gate.come(), gate.come()
        await everything_done()
        assert gate.waiting == {1: 0, 2: 2, 3: 0}
        END[end](held)
        await everything_done()
        assert (first.done(), second.done(), gate.inflight, gate.waiting[NORMAL]) == (True, False, 2, 1)
        second.cancel()

    @pytest.mark.parametrize("first", ["succeeded", "dropped", "ignored"])
    async def test_only_the_first_end_counts(self, clock: FakeClock, first: str) -> None:
        gate, (held, _) = await full(clock)
        END[first](held)
        for end in END.values():
            end(held)
            assert gate.inflight == 1

    async def test_the_highest_goes_first_and_among_equals_who_came_first(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock, limit=2)
        tasks = [
            gate.come(name, priority=priority)
            for name, priority in [("a3", LOW), ("b2", NORMAL), ("c1", HIGH), ("d3", LOW), ("e2", NORMAL), ("f1", HIGH)]
        ]
        await everything_done()
        for task in [tasks[2], tasks[5], tasks[1], tasks[4], tasks[0], tasks[3]]:
            held.ignored()
            held = await task
        assert gate.order == ["c1", "f1", "b2", "e2", "a3", "d3"]

    async def test_a_limit_that_grows_lets_in_who_waits(self, clock: FakeClock) -> None:
        gate = Gate(clock, limit_min=16, limit_max=100)
        held = [gate.at_once() for _ in range(16)]
        tasks = [gate.come() for _ in range(16)]
        await everything_done()
        clock.advance(0.2)
        for permit in held[:10]:
            permit.succeeded(took_s=0.1, waited_s=0.0)
        await everything_done()
        assert gate.limit == 20
        assert sum(task.done() for task in tasks) == 14
        for task in tasks:
            task.cancel()

    async def test_a_window_lasts_as_long_as_its_requests_took(self, clock: FakeClock) -> None:
        """Shorter ones would judge a limit by requests that were let in under the one before."""
        gate = Gate(clock, limit_min=1, limit_max=1000, limit_start=100)
        for elapsed, limit in ((0.2, 100), (0.4, 125), (0.4, 125), (0.2, 156)):
            held = [gate.at_once() for _ in range(gate.limit)]
            clock.advance(elapsed)
            for permit in held:
                permit.succeeded(took_s=0.5, waited_s=0.0)
            assert gate.limit == limit

    async def test_dropped_requests_lower_the_limit_and_ignored_ones_dont(self, clock: FakeClock) -> None:
        limits = []
        for end in ("ignored", "dropped"):
            gate = Gate(clock, limit_min=1, limit_max=1000, limit_start=100)
            held = [gate.at_once() for _ in range(20)]
            clock.advance(0.2)
            for permit in held:
                END[end](permit)
            limits.append(gate.limit)
        assert limits == [100, 75]

    async def test_a_limit_that_shrank_below_what_is_under_way_counts_as_reached(self, clock: FakeClock) -> None:
        gate = Gate(clock, limit_min=1, limit_max=1000, limit_start=100)
        held = [gate.at_once() for _ in range(100)]
        clock.advance(0.2)
        for permit in held[:10]:
            permit.dropped()
        assert (gate.inflight, gate.limit) == (90, 80)
        clock.advance(0.2)
        for permit in held[10:20]:
            permit.succeeded(took_s=0.01, waited_s=0.0)
        assert gate.limit == 100

    async def test_it_starts_where_it_is_told_to_within_its_bounds(self, clock: FakeClock) -> None:
        assert [Gate(clock, limit_min=8, limit_max=99, limit_start=start).limit for start in (0, 64, 200)] == [
            8,
            64,
            99,
        ]

    async def test_switched_off_it_lets_everything_in_and_counts_it(self, clock: FakeClock) -> None:
        gate = Gate(clock, enabled=False, limit_min=1, limit_max=1, max_waiting=1, max_wait_s=0.001)
        held = [gate.at_once() for _ in range(1000)]
        assert (gate.inflight, gate.limit, gate.status()["enabled"]) == (1000, 1, False)
        clock.advance(1)
        for permit in held:
            permit.succeeded(took_s=1.0, waited_s=0.99)
        for _ in range(1000):
            gate.at_once(within=0.001)
        assert (gate.inflight, sum(gate.shed.values())) == (1000, 0)


class TestTheEndOfWaiting:
    async def test_a_deadline_ends_it(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock)
        came = clock.now
        task = gate.come(within=0.5)
        with pytest.raises(
            DeadlineExceeded, match=r"the deadline of 0\.500 s passed while the request waited to be let"
        ):
            await task
        assert 0.5 <= clock.now - came <= 0.5 + 2 * SLOT_S
        assert (gate.inflight, gate.waiting[NORMAL]) == (2, 0)
        held.ignored()
        assert gate.inflight == 1

    async def test_a_request_whose_time_is_over_isnt_let_in(self, clock: FakeClock) -> None:
        gate = Gate(clock)
        with pytest.raises(DeadlineExceeded, match="before the request was let in"):
            gate.try_admit(HIGH, clock.now)
        assert (gate.inflight, gate.shed) == (0, {1: 0, 2: 0, 3: 0})

    async def test_who_goes_away_leaves_no_gap(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock)
        first, second = gate.come(), gate.come()
        await everything_done()
        first.cancel()
        await everything_done()
        assert gate.waiting[NORMAL] == 1
        held.ignored()
        await second
        assert gate.inflight == 2

    async def test_a_permit_that_comes_while_its_request_goes_away_is_given_on(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock)
        first, second = gate.come(), gate.come()
        await everything_done()
        held.ignored()  # first is given its permit, but hasn't run since
        first.cancel()
        await second
        assert first.cancelled()
        assert (gate.inflight, gate.waiting[NORMAL]) == (2, 0)

    async def test_a_request_that_goes_away_as_its_turn_comes_is_passed_over(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock)
        first, second = gate.come(), gate.come()
        await everything_done()
        first.cancel()
        held.ignored()
        await everything_done()
        assert (first.cancelled(), second.done(), gate.inflight) == (True, True, 2)

    async def test_nothing_is_left_on_the_wheel(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock)
        let_in, gone = gate.come(), gate.come()
        await everything_done()
        held.ignored()
        gone.cancel()
        await everything_done()
        assert let_in.done()
        assert gate.wheel._slots == {}


class TestShedding:
    async def test_who_would_wait_too_long_is_shed_when_it_comes(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.01, max_wait_s=0.5)
        tasks = [gate.come() for _ in range(60)]
        await everything_done()
        shed = [task for task in tasks if task.done()]
        assert 60 - len(shed) == pytest.approx(0.75 * 0.5 / 0.01, abs=2)
        assert gate.shed == {1: 0, 2: len(shed), 3: 0}
        with pytest.raises(Overloaded, match=r"m is overloaded: the request would wait 0\.3\d+ s for its turn"):
            await shed[0]
        await self.all_go(tasks)

    async def test_the_first_one_may_have_to_wait_too_long_already(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.6, max_wait_s=0.5)
        with pytest.raises(Overloaded, match=r"would wait 0\.6\d+ s"):
            gate.try_admit(HIGH, clock.now + 100)

    async def test_the_lower_a_priority_the_less_it_may_wait_so_the_higher_finds_room(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.01, max_wait_s=0.5)
        tasks = []
        for priority in (LOW, NORMAL, HIGH):
            tasks += [gate.come(priority=priority) for _ in range(60)]
            await everything_done()
        low, normal, high = (gate.waiting[priority] for priority in (LOW, NORMAL, HIGH))
        assert (low, normal, high) == pytest.approx((25, 37, 50), abs=2)
        await self.all_go(tasks)

    async def test_a_low_one_is_shed_where_high_ones_keep_coming_though_none_waits_now(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.01, priority=HIGH)
        assert gate.try_admit(HIGH, clock.now + 100) is None
        with pytest.raises(Overloaded, match=r"would wait 1\.000 s"):
            gate.try_admit(LOW, clock.now + 100)

    async def test_that_nobody_came_for_long_isnt_taken_for_a_standstill(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.01)
        await asyncio.sleep(10)
        assert gate.try_admit(LOW, clock.now + 100) is None

    async def test_who_would_be_answered_after_its_deadline_is_shed_when_it_comes(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, limit=10, interval_s=0.01)
        assert gate.try_admit(NORMAL, clock.now + 0.2) is None
        with pytest.raises(Overloaded):
            gate.try_admit(NORMAL, clock.now + 0.1)

    async def test_the_deadline_counts_below_the_limit_too(self, clock: FakeClock) -> None:
        gate, held = await paced(clock, limit=10, interval_s=0.01)
        held.pop().ignored()
        with pytest.raises(Overloaded, match=r"an answer may take 0\.11\d s, 0\.100 s are left"):
            gate.try_admit(HIGH, clock.now + 0.1)
        gate.at_once(within=0.12)

    async def test_a_lone_request_is_let_in_however_little_time_it_has(self, clock: FakeClock) -> None:
        """What is known of the pace may be old: somebody has to find out."""
        gate, held = await paced(clock, limit=10, interval_s=0.01)
        for permit in held:
            permit.ignored()
        gate.at_once(within=0.001)

    async def test_before_the_pace_is_known_nobody_is_shed_for_it(self, clock: FakeClock) -> None:
        gate, _ = await full(clock)
        tasks = [gate.come(priority=LOW) for _ in range(1000)]
        await everything_done()
        assert gate.waiting[LOW] == 1000
        await self.all_go(tasks)

    async def test_when_nothing_gets_done_any_more_the_next_ones_are_shed(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.01)
        tasks = [gate.come()]
        await asyncio.sleep(2)
        with pytest.raises(Overloaded, match=r"would wait 2\.0"):
            gate.try_admit(NORMAL, clock.now + 10)
        await self.all_go(tasks)

    async def test_not_more_wait_than_there_is_room_for_and_some_is_left_for_higher_ones(
        self, clock: FakeClock
    ) -> None:
        gate, _ = await full(clock, max_waiting=20)
        tasks = []
        for priority in (LOW, NORMAL, HIGH):
            tasks += [gate.come(priority=priority) for _ in range(30)]
            await everything_done()
        assert gate.waiting == {HIGH: 5, NORMAL: 5, LOW: 10}
        with pytest.raises(Overloaded, match="m is overloaded: 20 requests wait already") as caught:
            gate.try_admit(HIGH, clock.now + 10)
        assert caught.value.retry_after_s == 1.0
        await self.all_go(tasks)

    async def test_it_says_when_to_come_again(self, clock: FakeClock) -> None:
        gate, _ = await paced(clock, interval_s=0.1, max_wait_s=5.0)
        tasks = [gate.come() for _ in range(40)]
        await everything_done()
        with pytest.raises(Overloaded) as caught:
            gate.try_admit(NORMAL, clock.now + 100)
        assert 3.5 < caught.value.retry_after_s < 4.0
        await asyncio.sleep(99)
        with pytest.raises(Overloaded) as caught:
            gate.try_admit(NORMAL, clock.now + 100)
        assert caught.value.retry_after_s == 30.0
        await self.all_go(tasks)

    async def test_who_waits_is_never_shed_to_make_room(self, clock: FakeClock) -> None:
        gate, (held, _) = await full(clock, max_waiting=20)
        low = [gate.come(priority=LOW) for _ in range(10)]
        high = [gate.come(priority=HIGH) for _ in range(10)]
        await everything_done()
        for task in [*high, *low]:
            held.ignored()
            held = await task
        assert sum(gate.shed.values()) == 0

    @staticmethod
    async def all_go(tasks: list[asyncio.Task[Permit]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_its_status_says_what_there_is_to_see(clock: FakeClock) -> None:
    gate, _ = await paced(clock, limit=3, interval_s=0.01)
    task = gate.come(priority=LOW)
    await everything_done()
    rate = gate.status().pop("rate")
    assert gate.status() == {
        "enabled": True,
        "limit": 3,
        "inflight": 3,
        "waiting": {"1": 0, "2": 0, "3": 1},
        "shed": {"1": 0, "2": 0, "3": 0},
        "rate": rate,
    }
    task.cancel()


def test_its_limits_are_the_models_settings() -> None:
    model = ModelSettings(
        name="m",
        versions=("v1",),
        max_batch_rows=48,
        max_waiting=77,
        admission=AdmissionSettings(enabled=False, limit_min=3, limit_max=99, max_wait_ms=250),
    )
    assert admission_limits(model) == AdmissionLimits(
        enabled=False, limit_min=3, limit_max=99, limit_start=48, max_wait_s=0.25, max_waiting=77
    )


# Whatever comes, ends, goes away and in whichever order.

END: dict[str, Callable[[Permit], None]] = {
    "succeeded": lambda permit: permit.succeeded(took_s=0.01, waited_s=0.0),
    "slow": lambda permit: permit.succeeded(took_s=0.01, waited_s=0.009),
    "dropped": Permit.dropped,
    "ignored": Permit.ignored,
}
STEPS = st.one_of(
    st.tuples(st.just("come"), st.sampled_from(PRIORITIES), st.sampled_from([0.0, 0.003, 0.1, 1.0, 50.0])),
    st.tuples(st.just("end"), st.integers(0, 30), st.sampled_from(sorted(END))),
    st.tuples(st.just("cancel"), st.integers(0, 30), st.none()),
    st.tuples(st.just("pass"), st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.3]), st.none()),
    st.tuples(st.just("burst"), st.integers(1, 12), st.sampled_from(sorted(END))),
)


@dataclass
class History:
    """What a gate was asked and what it did; every step checks what must hold always."""

    gate: Gate
    held: list[Permit] = field(default_factory=list)
    asked: dict[int, list[asyncio.Task[Permit]]] = field(default_factory=lambda: {p: [] for p in PRIORITIES})
    whose: dict[Permit, tuple[int, int]] = field(default_factory=dict)

    def come(self, priority: int, within: float) -> None:
        number = len(self.asked[priority])

        async def request(deadline: float) -> Permit:
            permit = await self.gate.admit(priority, deadline)
            self.whose[permit] = (priority, number)
            self.held.append(permit)
            return permit

        self.asked[priority].append(asyncio.create_task(request(self.gate.clock.now + within)))

    def step(self, what: str, number: Any, how: Any) -> None:
        match what:
            case "come":
                self.come(number, how)
            case "end" if self.held:
                END[how](self.held.pop(number % len(self.held)))
            case "cancel" if waiting := [task for task in self.tasks if not task.done()]:
                waiting[number % len(waiting)].cancel()
            case "burst":
                for _ in range(min(number, len(self.held))):
                    END[how](self.held.pop(0))

    @property
    def tasks(self) -> list[asyncio.Task[Permit]]:
        return [task for tasks in self.asked.values() for task in tasks]

    def check(self) -> None:
        gate = self.gate
        assert gate.inflight == len(self.held), "a permit was lost, or given twice"
        assert sum(gate.waiting.values()) == sum(not task.done() for task in self.tasks)
        assert not sum(gate.waiting.values()) or gate.inflight >= gate.limit, "someone waits though there is room"
        given = [self.whose[permit] for permit in gate.given if permit in self.whose]
        for priority in PRIORITIES:
            numbers = [number for other, number in given if other == priority]
            assert numbers == sorted(numbers), "not in the order in which they came"


class TestWhateverComes:
    @given(st.lists(STEPS, max_size=60), st.integers(1, 4), st.integers(0, 12))
    @settings(deadline=None, max_examples=300)
    def test_no_permit_is_lost_and_everybody_gets_one_end(
        self, steps: list[tuple[str, Any, Any]], lowest: int, more: int
    ) -> None:
        async def live() -> None:
            gate = Gate(clock, limit_min=lowest, limit_max=lowest + more, max_waiting=20)
            history = History(gate)
            for what, number, how in steps:
                before = gate.inflight
                history.step(what, number, how)
                if what == "pass":
                    await asyncio.sleep(number)
                    await everything_done(4)
                    history.check()
                assert gate.inflight <= max(gate.limit, before), "let in beyond the limit"
            await self.ends_well(history)

        clock = FakeClock()
        run(live(), clock)

    @staticmethod
    async def ends_well(history: History) -> None:
        gate = history.gate
        for _ in range(2 + len(history.tasks)):
            await everything_done(4)
            history.check()
            while history.held:
                history.held.pop().succeeded(took_s=0.01, waited_s=0.0)
        outcomes = await asyncio.gather(*history.tasks, return_exceptions=True)
        expected = Permit | Overloaded | DeadlineExceeded | asyncio.CancelledError
        assert all(isinstance(outcome, expected) for outcome in outcomes)
        assert sum(isinstance(outcome, Overloaded) for outcome in outcomes) == sum(gate.shed.values())
        assert (gate.inflight, sum(gate.waiting.values()), gate.wheel._slots) == (0, 0, {})

    @given(st.lists(st.sampled_from(PRIORITIES), min_size=1, max_size=30))
    @settings(deadline=None)
    def test_nobody_is_let_in_while_a_higher_one_waits(self, priorities: list[int]) -> None:
        async def live() -> None:
            gate, (held, _) = await full(clock, max_waiting=100)
            tasks = [gate.come(str(priority), priority=priority) for priority in priorities]
            await everything_done()
            for _ in tasks:
                held.ignored()
                await everything_done(3)
                held = next(task for task in tasks if task.done()).result()
                tasks = [task for task in tasks if not task.done()]
            assert gate.order == sorted(map(str, priorities))

        clock = FakeClock()
        run(live(), clock)
