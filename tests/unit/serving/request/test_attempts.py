"""Further attempts at one version: when there are any, where they go, and what they may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from models.inference import Tensor, Tensors
from serving.channel.work import Answer, Work
from serving.errors import (
    AttemptTimeout,
    CircuitOpen,
    DeadlineExceeded,
    InvalidAnswer,
    ModelFailed,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
)
from serving.model_settings import BreakerSettings
from serving.request.attempts import Attempts, Exchange, RetryLimits
from serving.request.breaker import Breaker, breaker_limits
from serving.request.budget import RetryBudget
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from tests.fakes import DOUBLE, AnsweringReplica, FakeClock, FakeReplica, doubled, half, request_of, settled, values_of


class Rig:
    """One version with replicas that a test scripts."""

    def __init__(self, clock: FakeClock, *, budget: int = 10, min_calls: int = 1000, **limits: object) -> None:
        self.clock = clock
        self.lane = Lane("m@v1", DOUBLE, finite=True, limits=LaneLimits(), clock=clock, deadlines=Deadlines(clock))
        self.breaker = Breaker(
            "m@v1", breaker_limits(BreakerSettings(min_calls=min_calls), timeout_s=10), clock=clock, random=half
        )
        self.budget = RetryBudget(0.0, budget)
        self.attempts = Attempts(
            self.lane,
            self.breaker,
            limits=RetryLimits(**limits),  # type: ignore[arg-type]  # a test's own words
            budget=self.budget,
            clock=clock,
            random=half,
        )

    def replica(self, name: str, *script: RequestError | Answer | None) -> AnsweringReplica:
        """One that answers by the script, and rightly after its end; None in it is a right answer, too."""
        left = list(script)

        def model(work: Work) -> Answer | RequestError:
            outcome = left.pop(0) if left else None
            return doubled(work) if outcome is None else outcome

        replica = AnsweringReplica(model, name, on_change=self.lane.pump)
        self.lane.attach(replica)
        return replica

    def silent(self, name: str) -> FakeReplica:
        replica = FakeReplica(name, on_change=self.lane.pump)
        self.lane.attach(replica)
        return replica

    async def ask(self, *, seconds: float = 10.0, has_fallback: bool = False) -> Tensors:
        return await self.attempts.answer(self.exchange(seconds=seconds, has_fallback=has_fallback))

    def exchange(self, *, seconds: float = 10.0, has_fallback: bool = False) -> Exchange:
        return Exchange(request_of(1), self.clock.now + seconds, has_fallback=has_fallback)


def nan() -> Answer:
    return Answer((Tensor("y", "FP32", np.full((1, 2), np.nan, np.float32)),))


LOST = ReplicaLost("it died")


async def test_a_good_first_attempt_is_the_only_one(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.replica("r1")
    assert values_of(await rig.ask()) == [2.0]
    assert (len(replica.sent), rig.attempts.stats.retries) == (1, 0)


@pytest.mark.parametrize("failure", [LOST, ModelFailed("broke"), ReplicaUnavailable("full"), nan()])
async def test_what_may_pass_is_tried_on_the_other_replica_at_once(
    failure: RequestError | Answer, clock: FakeClock
) -> None:
    rig = Rig(clock)
    bad, good = rig.replica("bad", failure, failure, failure), rig.replica("good")
    before = clock.now
    assert values_of(await rig.ask()) == [2.0]
    assert (len(bad.sent), len(good.sent)) == (1, 1)
    assert clock.now == before


async def test_without_another_replica_the_same_one_is_tried_again_after_a_pause(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.replica("r1", LOST, LOST)
    before = clock.now
    assert values_of(await rig.ask()) == [2.0]
    assert len(replica.sent) == 3
    assert 0.02 < clock.now - before < 0.5


async def test_a_version_whose_replicas_are_all_gone_may_be_back_in_a_moment(clock: FakeClock) -> None:
    rig = Rig(clock)
    task = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    rig.replica("r1")
    assert values_of(await task) == [2.0]


async def test_there_are_only_so_many_attempts_and_the_last_failure_is_told(clock: FakeClock) -> None:
    rig = Rig(clock, attempts=3)
    failures = [ReplicaLost("one"), ReplicaLost("two"), ReplicaLost("three")]
    replica = rig.replica("r1", *failures)
    with pytest.raises(ReplicaLost, match="three"):
        await rig.ask()
    assert len(replica.sent) == 3


async def test_with_a_single_attempt_there_is_no_retry(clock: FakeClock) -> None:
    rig = Rig(clock, attempts=1)
    replica = rig.replica("r1", LOST)
    with pytest.raises(ReplicaLost):
        await rig.ask()
    assert (len(replica.sent), rig.attempts.stats.retries) == (1, 0)


async def test_retries_cost_a_token_each_and_stop_when_there_is_none(clock: FakeClock) -> None:
    rig = Rig(clock, budget=3)
    rig.replica("r1", *[LOST] * 20)
    for _ in range(4):
        with pytest.raises(ReplicaLost):
            await rig.ask()
    assert rig.attempts.stats.retries == 3
    assert rig.attempts.stats.budget_exhausted == 3


async def test_retries_stop_when_the_breaker_opens(clock: FakeClock) -> None:
    rig = Rig(clock, min_calls=1)
    replica = rig.replica("r1", *[LOST] * 3)
    task = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    rig.breaker.admit().failed(0.0)  # another request's
    with pytest.raises(CircuitOpen):
        await task
    assert len(replica.sent) == 1


async def test_where_one_replica_of_two_is_bad_the_version_is_not(clock: FakeClock) -> None:
    rig = Rig(clock, min_calls=5)
    rig.attempts.budget = RetryBudget(10.0, 100)
    rig.replica("bad", *[ModelFailed("broke")] * 50)
    rig.replica("good")
    for _ in range(30):
        assert values_of(await rig.ask()) == [2.0]
    status = rig.breaker.status()
    assert (status.state, status.failures, status.calls) == ("closed", 0, 30)


async def test_an_open_breaker_sends_nothing_and_is_not_retried(clock: FakeClock) -> None:
    rig = Rig(clock, min_calls=1, attempts=1)
    replica = rig.replica("r1", LOST)
    with pytest.raises(ReplicaLost):
        await rig.ask()
    before = clock.now
    with pytest.raises(CircuitOpen):
        await rig.ask()
    assert (len(replica.sent), clock.now) == (1, before)


async def test_a_request_counts_once_against_the_breaker_however_often_it_was_tried(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.replica("r1", *[ModelFailed("no model likes it")] * 3)
    with pytest.raises(ModelFailed):
        await rig.ask()
    status = rig.breaker.status()
    assert (status.calls, status.failures) == (1, 1)


@pytest.mark.parametrize("failure", [ModelFailed("no model likes it"), nan()])
async def test_who_fails_like_another_version_before_is_not_blamed_for_it(
    failure: RequestError | Answer, clock: FakeClock
) -> None:
    first, second = Rig(clock), Rig(clock)
    first.replica("r1", *[failure] * 3)
    second.replica("r1", *[failure] * 3)
    exchange = first.exchange()
    for rig in (first, second):
        with pytest.raises((ModelFailed, InvalidAnswer)):
            await rig.attempts.answer(exchange)
    assert [rig.breaker.status().failures for rig in (first, second)] == [1, 0]


@pytest.mark.parametrize("before", [LOST, ReplicaUnavailable("full")])
async def test_what_another_version_had_no_chance_at_is_no_excuse(before: RequestError, clock: FakeClock) -> None:
    first, second = Rig(clock), Rig(clock)
    first.replica("r1", *[before] * 3)
    second.replica("r1", *[ModelFailed("broke")] * 3)
    exchange = first.exchange()
    for rig in (first, second):
        with pytest.raises((ReplicaLost, ReplicaUnavailable, ModelFailed)):
            await rig.attempts.answer(exchange)
    assert second.breaker.status().failures == 1


@pytest.mark.parametrize("script", [[LOST] * 3, [LOST, ModelFailed("broke"), ModelFailed("broke")]])
async def test_a_replica_that_dies_counts_whatever_the_request_met_before(
    script: list[RequestError], clock: FakeClock
) -> None:
    rig = Rig(clock)
    rig.replica("r1", *script)
    exchange = rig.exchange()
    exchange.suspect = True
    with pytest.raises((ReplicaLost, ModelFailed)):
        await rig.attempts.answer(exchange)
    assert rig.breaker.status().failures == 1


async def test_one_that_hangs_counts_too(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.silent("r1")
    exchange = rig.exchange()
    exchange.suspect = True
    with pytest.raises(DeadlineExceeded):
        await rig.attempts.answer(exchange)
    assert rig.breaker.status().failures == 1


async def test_a_suspect_probe_decides_nothing_and_gives_its_place_back(clock: FakeClock) -> None:
    rig = Rig(clock, min_calls=1, attempts=1)
    rig.replica("r1", *[ModelFailed("broke")] * 11)
    with pytest.raises(ModelFailed):
        await rig.ask()
    clock.now += 60
    for _ in range(10):
        exchange = rig.exchange()
        exchange.suspect = True
        with pytest.raises(ModelFailed):
            await rig.attempts.answer(exchange)
    assert rig.breaker.status().state == "half_open"
    for _ in range(3):
        await rig.ask()
    assert rig.breaker.status().state == "closed"


async def test_no_attempt_outlives_the_deadline(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.silent("r1")
    before = clock.now
    with pytest.raises((DeadlineExceeded, AttemptTimeout)):
        await rig.ask(seconds=1.0)
    assert 0.9 < clock.now - before < 1.02


async def test_an_attempt_takes_half_the_time_if_there_may_be_another(clock: FakeClock) -> None:
    rig = Rig(clock)
    hung, good = rig.silent("hung"), rig.replica("good")
    before = clock.now
    assert values_of(await rig.ask(seconds=1.0)) == [2.0]
    assert (len(hung.sent), len(good.sent)) == (1, 1)
    assert 0.49 < clock.now - before < 0.52


async def test_the_time_of_an_attempt_can_be_set(clock: FakeClock) -> None:
    rig = Rig(clock, attempt_timeout_s=0.1)
    rig.silent("hung")
    rig.replica("good")
    before = clock.now
    await rig.ask(seconds=10.0)
    assert 0.09 < clock.now - before < 0.12


async def test_the_last_attempt_leaves_time_for_a_fallback(clock: FakeClock) -> None:
    rig = Rig(clock, attempts=1)
    rig.silent("hung")
    before = clock.now
    with pytest.raises(AttemptTimeout):
        await rig.ask(seconds=1.0, has_fallback=True)
    assert 0.79 < clock.now - before < 0.82


async def test_all_attempts_together_leave_time_for_a_fallback(clock: FakeClock) -> None:
    rig = Rig(clock)
    for name in ("one", "two", "three"):
        rig.silent(name)
    before = clock.now
    with pytest.raises(AttemptTimeout):
        await rig.ask(seconds=10.0, has_fallback=True)
    assert 7.9 < clock.now - before < 8.1


async def test_a_pause_leaves_time_for_a_fallback_too_and_costs_nothing_if_it_can_not(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.replica("r1", *[LOST] * 3)
    before = clock.now
    with pytest.raises(ReplicaLost):
        await rig.ask(seconds=0.012, has_fallback=True)
    assert clock.now - before < 0.012 * 0.8
    assert rig.budget.tokens == 10


async def test_without_another_replica_an_attempt_has_all_the_time(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.silent("r1")
    task = asyncio.get_running_loop().create_task(rig.ask(seconds=1.0))
    await asyncio.wait((task,), timeout=0.9)
    replica.calls[0].reply()
    assert values_of(await task) == [2.0]
    assert len(replica.sent) == 1


async def test_waiting_for_a_turn_takes_nothing_of_an_attempts_share(clock: FakeClock) -> None:
    rig = Rig(clock)
    replicas = [rig.silent("r1"), rig.silent("r2")]
    first = [asyncio.get_running_loop().create_task(rig.ask()) for _ in replicas]
    await settled()
    last = asyncio.get_running_loop().create_task(rig.ask(seconds=1.0))
    await asyncio.wait((last,), timeout=0.7)  # more than half of its time
    for replica in replicas:
        replica.calls[0].reply()
    await settled()
    next(replica for replica in replicas if replica.calls).calls[0].reply()
    assert values_of(await last) == [2.0]
    await asyncio.gather(*first)


async def test_a_caller_in_a_hurry_says_nothing_about_the_version(clock: FakeClock) -> None:
    rig = await taught(clock, 0.1)
    replica = rig.silent("r1")
    with pytest.raises(DeadlineExceeded):
        await rig.ask(seconds=0.05)
    figures = [entry for entry in rig.lane.outliers.status() if entry.replica_id == "r1"]
    assert (rig.breaker.status().failures, figures[0].bad, len(replica.sent)) == (0, 0, 1)


async def test_one_that_waits_longer_than_usual_does(clock: FakeClock) -> None:
    rig = await taught(clock, 0.1)
    rig.silent("r1")
    exchange = rig.exchange(seconds=0.5)
    with pytest.raises(DeadlineExceeded):
        await rig.attempts.answer(exchange)
    assert (rig.breaker.status().failures, exchange.overdue) == (1, True)


async def test_a_retry_that_avoids_a_replica_does_not_wait_for_one_that_hangs(clock: FakeClock) -> None:
    rig = await taught(clock, 0.01)
    hung = rig.silent("hung")
    stuck = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    well = rig.replica("well", ReplicaUnavailable("just a moment"))
    before = clock.now
    assert values_of(await rig.ask()) == [2.0]
    assert (len(well.sent), len(hung.sent)) == (2, 1)
    assert clock.now - before < 0.2
    stuck.cancel()
    await asyncio.wait((stuck,))


async def test_the_avoided_replica_is_avoided_whoevers_turn_it_is(clock: FakeClock) -> None:
    rig = Rig(clock)
    bad, other = rig.replica("bad", *[LOST] * 9), rig.silent("other")
    busy = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    assert len(bad.sent) + len(other.sent) >= 1
    task = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    for _ in range(4):
        for call in tuple(other.calls):
            call.reply()
        await settled()
    assert values_of(await task) == [2.0]
    assert values_of(await busy) == [2.0]
    assert len(bad.sent) <= 2


async def test_a_probe_that_could_not_be_sent_gives_its_place_back(clock: FakeClock) -> None:
    rig = Rig(clock, min_calls=1, attempts=1)
    rig.replica("r1", LOST)
    with pytest.raises(ReplicaLost):
        await rig.ask()
    clock.advance(5.0)
    rig.lane.detach(rig.lane.replicas[0])
    for _ in range(10):  # more than there are probes
        with pytest.raises(ReplicaUnavailable):
            await rig.ask()
    rig.replica("r2")
    for _ in range(3):
        await rig.ask()
    assert rig.breaker.state == "closed"


async def test_good_answers_pay_for_further_attempts(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.budget = rig.attempts.budget = RetryBudget(0.5, 100)
    rig.replica("r1")
    before = rig.budget.tokens
    for _ in range(4):
        await rig.ask()
    assert rig.budget.tokens == before + 2


async def test_a_slow_answer_counts_as_slow(clock: FakeClock) -> None:
    rig = Rig(clock)
    slow = breaker_limits(BreakerSettings(min_calls=100, slow_call_ms=100), timeout_s=10)
    rig.attempts.breaker = Breaker("m@v1", slow, clock=clock, random=half)
    replica = rig.silent("r1")
    task = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    clock.advance(0.2)
    replica.calls[0].reply()
    await task
    assert rig.attempts.breaker.status().slow == 1


async def test_a_request_in_a_pause_is_under_way(clock: FakeClock) -> None:
    rig = Rig(clock)
    task = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    assert rig.attempts.stats.under_way == 1
    task.cancel()
    await asyncio.wait((task,))
    assert rig.attempts.stats.under_way == 0


async def test_a_cancelled_request_is_taken_back_and_counts_for_nothing(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.silent("r1")
    task = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert replica.sent[0].answer.cancelled()
    assert rig.breaker.status().calls == 0
    assert rig.attempts.stats.outcomes == {"cancelled": 1}


async def test_time_spent_waiting_for_a_turn_is_told_apart(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.silent("r1")
    first = asyncio.get_running_loop().create_task(rig.ask())
    await settled()
    exchange = rig.exchange()
    second = asyncio.get_running_loop().create_task(rig.attempts.answer(exchange))
    await settled()
    clock.advance(0.25)
    replica.calls[0].reply()
    await settled()
    clock.advance(1.0)
    replica.calls[0].reply()
    await asyncio.gather(first, second)
    assert exchange.waited_s == pytest.approx(0.25)


async def taught(clock: FakeClock, seconds: float, **limits: object) -> Rig:
    """A rig that knows how long answers usually take, and has no replica left."""
    rig = Rig(clock, **limits)  # type: ignore[arg-type]  # a test's own words
    teacher = rig.silent("teacher")
    for _ in range(100):
        task = asyncio.get_running_loop().create_task(rig.ask())
        await settled()
        clock.advance(seconds)
        teacher.calls[0].reply()
        await task
    rig.lane.detach(teacher)
    rig.lane.forget("teacher")
    return rig


# Hedging


async def hedging(clock: FakeClock, *scripts: Callable[[Rig], FakeReplica], budget: int = 10) -> Rig:
    """A rig that knows that answers usually take 10 ms, and these replicas."""
    rig = await taught(clock, 0.01, hedge=True, budget=budget)
    for script in scripts:
        script(rig)
    return rig


async def test_an_unusually_slow_attempt_gets_company_and_the_first_good_answer_counts(clock: FakeClock) -> None:
    rig = await hedging(clock, lambda rig: rig.silent("slow"), lambda rig: rig.replica("quick"))
    before = clock.now
    assert values_of(await rig.ask()) == [2.0]
    assert 0.005 < clock.now - before < 0.05
    assert rig.attempts.stats.hedges == 1
    await settled()
    slow = rig.lane.replicas[0]
    assert isinstance(slow, FakeReplica)
    assert slow.sent[0].answer.cancelled()


async def test_a_hedge_costs_a_token_too(clock: FakeClock) -> None:
    rig = await hedging(clock, lambda rig: rig.silent("slow"), lambda rig: rig.replica("quick"), budget=1)
    await rig.ask()
    assert (rig.attempts.stats.hedges, rig.budget.tokens) == (1, 0)


async def test_without_a_token_there_is_no_hedge(clock: FakeClock) -> None:
    rig = await hedging(clock, lambda rig: rig.silent("slow"), lambda rig: rig.replica("quick"), budget=1)
    assert rig.budget.spend()
    task = asyncio.get_running_loop().create_task(rig.ask(seconds=1.0))
    await asyncio.wait((task,), timeout=0.4)
    assert (rig.attempts.stats.hedges, task.done()) == (0, False)
    task.cancel()
    await asyncio.wait((task,))


async def test_what_waits_for_its_turn_is_not_hedged(clock: FakeClock) -> None:
    rig = await hedging(clock, lambda rig: rig.silent("one"), lambda rig: rig.silent("two"))
    busy = [asyncio.get_running_loop().create_task(rig.ask()) for _ in range(2)]
    await settled()
    waiting = asyncio.get_running_loop().create_task(rig.ask())
    await asyncio.wait((waiting,), timeout=0.5)
    assert (rig.lane.waiting, rig.attempts.stats.hedges) == (1, 0)
    for task in (*busy, waiting):
        task.cancel()
    await asyncio.wait((*busy, waiting))


async def test_if_the_hedge_fails_the_first_attempt_still_counts(clock: FakeClock) -> None:
    rig = await hedging(clock, lambda rig: rig.silent("slow"), lambda rig: rig.replica("bad", LOST))
    task = asyncio.get_running_loop().create_task(rig.ask())
    await asyncio.wait((task,), timeout=0.1)
    slow = rig.lane.replicas[0]
    assert isinstance(slow, FakeReplica)
    slow.calls[0].reply()
    assert values_of(await task) == [2.0]


def wrong(values: Sequence[float]) -> Answer:
    return Answer((Tensor("y", "FP32", np.array([values], np.float32)),))


async def test_an_answer_that_breaks_the_signature_is_a_failure_of_the_replica(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.replica("bad", wrong([1.0]), wrong([1.0]), wrong([1.0]))
    with pytest.raises(InvalidAnswer):
        await rig.ask()
    assert rig.breaker.status().failures == 1
