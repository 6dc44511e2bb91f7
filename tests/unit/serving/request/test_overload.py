"""Admission in front of a simulated server that joins requests into batches, on a clock that jumps.

A batch of n rows costs ``BASE_S + n * ROW_S``; the more rows, the more requests a second, up to ``ROWS``.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest

from serving.errors import DeadlineExceeded, Overloaded
from serving.request.admission import Admission, AdmissionLimits, Permit
from serving.request.deadline import Deadlines
from serving.request.priority import HIGH, LOW, NORMAL, PRIORITIES
from tests.fakes import FakeClock, run

BASE_S = 0.02
ROW_S = 0.001
ROWS = 64
PEAK = ROWS / (BASE_S + ROWS * ROW_S)
"""Requests per second of one replica, at best."""


@dataclass(slots=True, eq=False)
class Job:
    came: float
    answer: asyncio.Future[None]
    sent: float = 0.0


class BatchingServer:
    """A lane and its replicas: each takes what waits, up to a full batch, as soon as it has nothing to do."""

    def __init__(self, clock: FakeClock, *, replicas: int, seed: int = 0) -> None:
        self.replicas = replicas
        self.slowness = 1.0
        self._clock = clock
        self._random = random.Random(seed)
        self._queue: deque[Job] = deque()
        self._busy = 0

    async def answer(self, deadline: float) -> tuple[float, float]:
        """How long it took, and how much of that it waited; ``TimeoutError`` at the deadline."""
        loop = asyncio.get_running_loop()
        job = Job(self._clock.now, loop.create_future())
        self._queue.append(job)
        self._pump()
        timer = loop.call_at(deadline, job.answer.cancel)
        try:
            await job.answer
        except asyncio.CancelledError:
            raise TimeoutError from None
        finally:
            timer.cancel()
        return self._clock.now - job.came, job.sent - job.came

    def _pump(self) -> None:
        while self._queue and self._busy < self.replicas:
            batch: list[Job] = []
            while self._queue and len(batch) < ROWS:
                job = self._queue.popleft()
                if not job.answer.done():
                    job.sent = self._clock.now
                    batch.append(job)
            if batch:
                self._busy += 1
                takes_s = (BASE_S + len(batch) * ROW_S) * self.slowness * self._random.uniform(0.95, 1.05)
                asyncio.get_running_loop().call_later(takes_s, self._returned, batch)

    def _returned(self, batch: list[Job]) -> None:
        self._busy -= 1
        for job in batch:
            if not job.answer.done():
                job.answer.set_result(None)
        self._pump()


@dataclass
class Seen:
    """What the clients saw, by priority."""

    asked: Counter[int] = field(default_factory=Counter)
    good: Counter[int] = field(default_factory=Counter)
    shed: Counter[int] = field(default_factory=Counter)
    late: Counter[int] = field(default_factory=Counter)
    shed_took_s: float = 0.0
    most_waiting: int = 0

    def __sub__(self, before: Seen) -> Seen:
        return Seen(
            self.asked - before.asked, self.good - before.good, self.shed - before.shed, self.late - before.late
        )

    def copy(self) -> Seen:
        return Seen(self.asked.copy(), self.good.copy(), self.shed.copy(), self.late.copy())


class Traffic:
    """Clients that don't wait for one another, and what they see."""

    def __init__(self, *, replicas: int = 1, deadline_s: float = 10.0, enabled: bool = True, seed: int = 0) -> None:
        self.clock = FakeClock()
        self.server = BatchingServer(self.clock, replicas=replicas, seed=seed)
        limits = AdmissionLimits(enabled=enabled, limit_start=ROWS)
        self.gate = Admission("m", limits, clock=self.clock, deadlines=Deadlines(self.clock))
        self.seen = Seen()
        self._deadline_s = deadline_s
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def offer(self, rate: float, *, seconds: float, mix: tuple[float, ...] = (0.0, 1.0, 0.0)) -> Seen:
        """So many requests a second, their priorities in this proportion. What was seen meanwhile."""
        before, end = self.seen.copy(), self.clock.now + seconds
        at = self.clock.now
        while (at := at + self._random.expovariate(rate)) < end:
            if at > self.clock.now:
                await asyncio.sleep(at - self.clock.now)
            (priority,) = self._random.choices(PRIORITIES, mix)
            task = asyncio.create_task(self._request(priority))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self.seen - before

    async def end(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        assert (self.gate.inflight, sum(self.gate.waiting.values())) == (0, 0)

    async def _request(self, priority: int) -> None:
        seen, came = self.seen, self.clock.now
        seen.asked[priority] += 1
        try:
            permit = await self.gate.admit(priority, came + self._deadline_s)
        except Overloaded:
            seen.shed[priority] += 1
            seen.shed_took_s = max(seen.shed_took_s, self.clock.now - came)
        except DeadlineExceeded:
            seen.late[priority] += 1
        else:
            seen.most_waiting = max(seen.most_waiting, sum(self.gate.waiting.values()))
            await self._served(priority, permit, came + self._deadline_s)

    async def _served(self, priority: int, permit: Permit, deadline: float) -> None:
        try:
            took_s, waited_s = await self.server.answer(deadline)
        except TimeoutError:
            self.seen.late[priority] += 1
            permit.dropped()
        else:
            self.seen.good[priority] += 1
            permit.succeeded(took_s=took_s, waited_s=waited_s)


@pytest.mark.parametrize(("replicas", "seconds"), [(1, 4.0), (3, 2.0)])
@pytest.mark.parametrize("load", [1.0, 3.0])
def test_at_and_beyond_its_capacity_it_gets_done_what_can_be_done(load: float, replicas: int, seconds: float) -> None:
    useful = 2 * ROWS * replicas

    async def live() -> None:
        await traffic.offer(load * replicas * PEAK, seconds=2.0)
        seen = await traffic.offer(load * replicas * PEAK, seconds=seconds)
        assert seen.good.total() >= 0.95 * seconds * replicas * PEAK
        assert 0.9 * useful <= traffic.gate.limit <= 1.6 * useful, "it drifted"
        await traffic.end()

    traffic = Traffic(replicas=replicas)
    run(live(), traffic.clock)


@pytest.mark.parametrize("replicas", [1, 3])
def test_below_its_capacity_nobody_is_shed(replicas: int) -> None:
    async def live() -> None:
        await traffic.offer(0.3 * replicas * PEAK, seconds=4.0)
        await traffic.end()
        assert traffic.seen.good == traffic.seen.asked

    traffic = Traffic(replicas=replicas)
    run(live(), traffic.clock)


def test_the_limit_follows_replicas_that_go_and_come_back() -> None:
    async def live() -> None:
        await traffic.offer(3 * PEAK, seconds=2.0)
        assert traffic.gate.limit > 1.8 * 2 * ROWS
        traffic.server.replicas = 1
        await traffic.offer(3 * PEAK, seconds=2.5)
        assert traffic.gate.limit < 1.2 * 2 * ROWS
        seen = await traffic.offer(3 * PEAK, seconds=1.0)
        assert seen.good.total() >= 0.95 * PEAK
        traffic.server.replicas = 2
        await traffic.offer(3 * PEAK, seconds=2.0)
        seen = await traffic.offer(3 * PEAK, seconds=1.0)
        assert seen.good.total() >= 0.95 * 2 * PEAK
        assert traffic.gate.limit > 1.8 * 2 * ROWS
        await traffic.end()

    traffic = Traffic(replicas=2)
    run(live(), traffic.clock)


def test_after_a_slowdown_all_is_as_before() -> None:
    async def live() -> None:
        await traffic.offer(PEAK, seconds=3.0)
        traffic.server.slowness = 10.0
        await traffic.offer(PEAK, seconds=10.0)
        assert traffic.gate.limit < 2.5 * 2 * ROWS
        traffic.server.slowness = 1.0
        await traffic.offer(PEAK, seconds=3.0)
        seen = await traffic.offer(3 * PEAK, seconds=3.0)
        assert seen.good.total() >= 0.95 * 3.0 * PEAK
        assert traffic.gate.limit < 1.4 * 2 * ROWS
        await traffic.end()

    traffic = Traffic()
    run(live(), traffic.clock)


MIX = (0.2, 0.4, 0.4)  # at three times the capacity, the high ones alone would take 60 % of it


class TestThreeTimesTheCapacityWithDeadlinesOfASecond:
    def test_goodput_stays_the_high_ones_are_served_and_the_others_know_at_once(self) -> None:
        async def live() -> None:
            await traffic.offer(3 * PEAK, seconds=8.0, mix=MIX)
            seen = traffic.seen.copy()
            await traffic.end()
            assert seen.good.total() >= 0.9 * 8.0 * PEAK
            assert traffic.seen.good[HIGH] >= 0.999 * traffic.seen.asked[HIGH]
            assert traffic.seen.good[NORMAL] > 10 * traffic.seen.good[LOW]
            assert traffic.seen.shed_took_s == 0.0
            assert traffic.seen.most_waiting <= 0.5 * PEAK
            assert traffic.seen.late.total() <= 0.02 * traffic.seen.shed.total()

        traffic = Traffic(deadline_s=1.0)
        run(live(), traffic.clock)

    def test_without_admission_it_collapses(self) -> None:
        """That the server is one which needs it."""

        async def live() -> None:
            await traffic.offer(3 * PEAK, seconds=4.0, mix=MIX)
            assert traffic.seen.good.total() < 0.5 * 4.0 * PEAK
            await traffic.end()

        traffic = Traffic(deadline_s=1.0, enabled=False)
        run(live(), traffic.clock)
