"""A request of a model with a canary: thrown once, answered in any case, and counted by its first attempt."""

from __future__ import annotations

import asyncio
import json
from math import inf

import numpy as np
import pytest

from fallbacks.chain import Chain
from models.inference import Tensor
from serving.channel.work import Answer
from serving.errors import (
    CircuitOpen,
    InvalidAnswer,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    PayloadTooLarge,
    QueueTimeout,
    ReplicaLost,
    RequestError,
)
from serving.model_settings import BreakerSettings
from serving.request.attempts import FALLBACK_SHARE, Attempts, RetryLimits
from serving.request.breaker import Breaker, breaker_limits
from serving.request.budget import RetryBudget
from serving.request.canary import Throws
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from serving.request.pipeline import OK, Canary, InferCall, Origin, Pipeline, Plan, Reply, ServedVersion
from serving.routing.outcomes import Counted, Ledger
from serving.routing.split import lot
from serving.routing.table import Split, Stickiness
from tests.fakes import DOUBLE, AnsweringReplica, FakeClock, FakeReplica, half, plan_of, settled
from tests.unit.serving.request.test_fall_back import Standby
from tests.unit.serving.request.test_pipeline import Records, call

TIMEOUT_S = 7.0
SLOT_S = 0.02
"""By so much a deadline may be noticed too late here."""


class Rig:
    """``m@v1`` is stable, ``m@v2`` the canary. With a ``chance`` below ``weight`` it gets requests without a key."""

    def __init__(
        self,
        clock: FakeClock,
        *strategies: Standby,
        retries: int = 1,
        attempt_timeout_s: float | None = None,
        stickiness: Stickiness = "key",
        weight: float = 0.5,
        objective_s: float | None = None,
        min_calls: int = 1_000_000,
    ) -> None:
        self.clock = clock
        self.chance = 0.0
        self.ledger = Ledger("r1", "v2", "v1")
        self.records = Records()
        self.pipeline = Pipeline(self, self.records, clock=clock)
        self._limits = RetryLimits(attempts=retries, attempt_timeout_s=attempt_timeout_s)
        self._breaker = breaker_limits(BreakerSettings(min_calls=min_calls), timeout_s=TIMEOUT_S)
        self.stable, self.canary = self._version("v1"), self._version("v2")
        self._split = Split(version="v2", weight=weight, epoch="r1", stickiness=stickiness, objective_s=objective_s)
        plan = plan_of(self.stable.lane, clock, timeout_s=TIMEOUT_S, chain=Chain(strategies))
        self.plan = plan._replace(served=self.stable, canary=self.throwing(1))

    def throwing(self, generation: int) -> Canary:
        throws = Throws(
            self._split,
            self.canary.attempts,
            self.ledger,
            generation=generation,
            clock=self.clock,
            random=lambda: self.chance,
        )
        return Canary(self.canary, throws, alone=self._split.weight == 1)

    def _version(self, version: str) -> ServedVersion:
        clock = self.clock
        name = f"m@{version}"
        lane = Lane(name, DOUBLE, finite=True, limits=LaneLimits(), clock=clock, deadlines=Deadlines(clock))
        attempts = Attempts(
            lane,
            Breaker(name, self._breaker, clock=clock, random=half),
            limits=self._limits,
            budget=RetryBudget(0.2, 100),
            clock=clock,
            random=half,
        )
        return ServedVersion("m", version, name, f"sha256:{version}", lane, attempts)

    def route(self, model: str, version: str | None) -> Plan:
        return self.plan if version is None else self.plan._replace(pinned=True, canary=None, chain=None)

    def answering(
        self, served: ServedVersion, outcome: RequestError | Answer | None = None, name: str = "r1"
    ) -> AnsweringReplica:
        replica = AnsweringReplica(replica_id=name, on_change=served.lane.pump)
        if outcome is not None:
            replica.model = lambda _: outcome
        served.lane.attach(replica)
        return replica

    def silent(self, served: ServedVersion) -> FakeReplica:
        replica = FakeReplica(on_change=served.lane.pump)
        served.lane.attach(replica)
        return replica

    async def ask(self, asked: InferCall | None = None) -> Reply:
        return await self.pipeline.infer(asked or call())

    async def answered_after(self, seconds: float, replica: FakeReplica, asked: InferCall | None = None) -> Reply:
        asking = asyncio.create_task(self.ask(asked))
        await settled()
        await asyncio.sleep(seconds)
        replica.calls[0].reply()
        return await asking

    @property
    def counted(self) -> tuple[Counted, Counted]:
        (at,) = self.ledger.counts()
        assert at.weight == self._split.weight
        return at.canary, at.stable

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(name, outcome) for name, outcome, _ in self.records.all]


NAN = Answer((Tensor("y", "FP32", np.full((1, 2), np.nan, np.float32)),))


class TestWhoAnswers:
    @pytest.mark.parametrize(("chance", "version"), [(0.4, "v2"), (0.6, "v1")])
    async def test_the_lot_says_who_and_nobody_else_is_asked(
        self, clock: FakeClock, chance: float, version: str
    ) -> None:
        rig = Rig(clock)
        rig.chance = chance
        asked = {"v1": rig.answering(rig.stable), "v2": rig.answering(rig.canary)}
        reply = await rig.ask()
        assert (reply.given.version, reply.given.origin) == (version, None)
        assert [name for name, replica in asked.items() if replica.sent] == [version]
        assert rig.outcomes == [(f"m@{version}", OK)]

    @pytest.mark.parametrize("key", ["a", "b", "c", "d", "e"])
    async def test_a_key_decides_wherever_it_comes_from(self, clock: FakeClock, key: str) -> None:
        rig = Rig(clock)
        rig.answering(rig.stable)
        rig.answering(rig.canary)
        rig.chance = 1.0 if lot(key.encode(), "r1") < 0.5 else 0.0  # chance would say otherwise
        by_parameter = await rig.ask(call(parameters={"sticky_key": key}))
        by_header = await rig.ask(call()._replace(sticky_key=key.encode()))
        expected = "v2" if lot(key.encode(), "r1") < 0.5 else "v1"
        assert [by_parameter.given.version, by_header.given.version] == [expected] * 2

    async def test_a_wrong_key_is_the_callers_mistake_with_or_without_a_canary(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        for plan in (rig.plan, rig.plan._replace(canary=None)):
            rig.plan = plan
            with pytest.raises(InvalidRequest, match=r"parameters\.sticky_key"):
                await rig.ask(call(parameters={"sticky_key": 7}))

    @pytest.mark.parametrize(
        "outcome", [ModelFailed("broke"), ReplicaLost("died"), NAN, CircuitOpen("open", retry_after_s=1)]
    )
    async def test_if_the_canary_fails_stable_gives_an_ordinary_good_answer(
        self, clock: FakeClock, outcome: RequestError | Answer
    ) -> None:
        standby = Standby()
        rig = Rig(clock, standby)
        rig.answering(rig.stable)
        canary = rig.answering(rig.canary, outcome)
        reply = await rig.ask()
        body = json.loads(reply.body.body)
        assert (body["model_version"], body["outputs"][0]["data"], body.get("parameters", {})) == ("v1", [2, 4], {})
        assert (reply.given.origin, rig.outcomes) == (None, [("m@v1", OK)])
        assert (len(canary.sent), standby.asked) == (1, [])
        assert rig.stable.attempts.breaker.status().failures == 0

    async def test_a_canary_without_replicas_costs_nobody_an_answer(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        rig.answering(rig.stable)
        before = clock.now
        assert (await rig.ask()).given.version == "v1"
        assert clock.now == before

    @pytest.mark.parametrize("retries", [1, 3])
    async def test_a_canary_that_hangs_takes_half_of_the_time_and_leaves_stable_the_rest(
        self, clock: FakeClock, retries: int
    ) -> None:
        rig = Rig(clock, retries=retries)
        rig.silent(rig.canary)
        stable = rig.silent(rig.stable)
        started = clock.now
        asking = asyncio.create_task(rig.ask())
        await asyncio.sleep(TIMEOUT_S / 2 + SLOT_S)
        assert stable.sent[0].work.deadlines == pytest.approx((started + TIMEOUT_S,))
        await asyncio.sleep(TIMEOUT_S / 2 - 3 * SLOT_S)
        stable.calls[0].reply()
        assert (await asking).given.version == "v1"
        stats = rig.canary.attempts.stats
        assert (dict(stats.outcomes), stats.retries) == ({"attempt_timeout": 1}, 0)

    async def test_retries_at_the_canary_leave_stable_its_half_too(self, clock: FakeClock) -> None:
        rig = Rig(clock, retries=3)
        failing, hanging = rig.silent(rig.canary), FakeReplica("r2", on_change=rig.canary.lane.pump)
        stable = rig.silent(rig.stable)
        started = clock.now
        asking = asyncio.create_task(rig.ask())
        await asyncio.sleep(2)
        rig.canary.lane.attach(hanging)
        failing.calls[0].reply(ModelFailed("broke"))
        await settled()
        assert len(hanging.sent) == 1
        await asyncio.sleep(TIMEOUT_S / 2 - 2 + SLOT_S)
        assert len(stable.sent) == 1
        assert clock.now == pytest.approx(started + TIMEOUT_S / 2 + SLOT_S, abs=SLOT_S)
        stable.calls[0].reply()
        await asking

    async def test_before_a_chain_stable_leaves_it_some_time(self, clock: FakeClock) -> None:
        standby = Standby()
        rig = Rig(clock, standby)
        rig.answering(rig.canary, ModelFailed("broke"))
        stable = rig.silent(rig.stable)
        started = clock.now
        assert (await rig.ask()).given.origin == Origin("version", "attempt_timeout")
        assert stable.sent[0].work.deadlines == pytest.approx((started + (1.0 - FALLBACK_SHARE) * TIMEOUT_S,))
        assert standby.asked[0].deadline == pytest.approx(started + TIMEOUT_S)

    async def test_when_both_fail_the_chain_answers_for_stable(self, clock: FakeClock) -> None:
        rig = Rig(clock, Standby())
        rig.answering(rig.canary, ReplicaLost("died"))
        rig.answering(rig.stable, ModelFailed("broke"))
        assert (await rig.ask()).given.origin == Origin("version", "model_failed")
        assert rig.outcomes == [("m@v1", "degraded")]
        assert rig.stable.attempts.breaker.status().failures == 1

    async def test_the_callers_own_mistake_goes_nowhere_else(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        rig.answering(rig.canary, PayloadTooLarge("too large"))
        stable = rig.answering(rig.stable)
        with pytest.raises(PayloadTooLarge):
            await rig.ask()
        assert stable.sent == []
        assert rig.counted == (Counted(), Counted())

    async def test_a_request_that_names_its_version_is_not_thrown(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        rig.answering(rig.stable)
        canary = rig.answering(rig.canary)
        await rig.ask(call()._replace(version="v1"))
        assert (canary.sent, rig.counted) == ([], (Counted(), Counted()))

    async def test_who_waited_to_be_let_in_while_the_canary_was_taken_back_goes_to_stable(
        self, clock: FakeClock
    ) -> None:
        rig = Rig(clock)
        stable, canary = rig.answering(rig.stable), rig.answering(rig.canary)
        rig.ledger.taken_back_by = 2
        assert (await rig.ask()).given.version == "v1"
        assert (len(stable.sent), canary.sent, rig.counted) == (1, [], (Counted(), Counted()))
        rig.plan = rig.plan._replace(canary=rig.throwing(3))
        assert (await rig.ask()).given.version == "v2"

    async def test_a_slow_canary_does_not_make_the_limit_smaller_for_others(self, clock: FakeClock) -> None:
        for weight, told in ((0.5, 0.0), (1.0, 3.0)):
            rig = Rig(clock, weight=weight)
            await rig.answered_after(3.0, rig.silent(rig.canary))
            assert rig.plan.admission._took_s == pytest.approx(told, abs=SLOT_S)

    async def test_time_at_a_canary_that_hangs_is_not_held_against_stable(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        rig.silent(rig.canary)
        rig.answering(rig.stable)
        await rig.ask()
        assert rig.plan.admission._took_s == pytest.approx(0.0, abs=SLOT_S)
        assert rig.plan.admission.inflight == 0


class TestWhatIsCounted:
    @pytest.mark.parametrize(
        ("outcome", "counted"),
        [
            (None, Counted(1)),
            (ModelFailed("broke"), Counted(1, bad=1)),
            (ReplicaLost("died"), Counted(1, bad=1)),
            (QueueTimeout("others were served"), Counted(1, bad=1)),
            (InvalidAnswer("7"), Counted(1, bad=1, invalid=1)),
            (NAN, Counted(1, bad=1, invalid=1)),
            (Overloaded("no", retry_after_s=1), Counted()),
        ],
    )
    @pytest.mark.parametrize("on_canary", [True, False])
    async def test_each_way_to_end_counts_alike_for_both(
        self, clock: FakeClock, outcome: RequestError | Answer | None, counted: Counted, on_canary: bool
    ) -> None:
        rig = Rig(clock, Standby())
        rig.chance = 0.0 if on_canary else 1.0
        rig.answering(rig.canary if on_canary else rig.stable, outcome)
        await rig.ask()
        assert rig.counted == ((counted, Counted()) if on_canary else (Counted(), counted))

    async def test_a_refusal_of_the_canarys_own_breaker_is_bad(self, clock: FakeClock) -> None:
        rig = Rig(clock, min_calls=2)
        rig.answering(rig.stable)
        canary = rig.answering(rig.canary, ModelFailed("broke"))
        for _ in range(5):
            await rig.ask()
        assert len(canary.sent) == 2
        assert rig.counted == (Counted(5, bad=5), Counted())

    async def test_the_first_attempt_counts_whatever_retries_make_of_it(self, clock: FakeClock) -> None:
        rig = Rig(clock, retries=3)
        answers: list[RequestError | None] = [ModelFailed("broke")]
        canary = rig.answering(rig.canary)
        good = canary.model
        canary.model = lambda work: (answers.pop() if answers else None) or good(work)
        assert (await rig.ask()).given.version == "v2"
        assert len(canary.sent) == 2
        assert rig.counted == (Counted(1, bad=1), Counted())

    @pytest.mark.parametrize(("seconds", "slow"), [(0.9, 0), (1.1, 1)])
    @pytest.mark.parametrize("on_canary", [True, False])
    async def test_an_answer_over_the_objective_is_slow(
        self, clock: FakeClock, seconds: float, slow: int, on_canary: bool
    ) -> None:
        rig = Rig(clock, objective_s=1.0)
        rig.chance = 0.0 if on_canary else 1.0
        await rig.answered_after(seconds, rig.silent(rig.canary if on_canary else rig.stable))
        counted = Counted(1, bad=slow, slow=slow)
        assert rig.counted == ((counted, Counted()) if on_canary else (Counted(), counted))

    async def test_stable_is_judged_by_the_time_that_a_canary_would_have_had(self, clock: FakeClock) -> None:
        """Else a model that needs most of its time would look worse as a canary than as what it is."""
        rig = Rig(clock)
        rig.chance = 1.0
        reply = await rig.answered_after(TIMEOUT_S / 2 + 0.5, rig.silent(rig.stable))
        assert reply.given.version == "v1"
        assert rig.counted == (Counted(), Counted(1, bad=1))

    @pytest.mark.parametrize(("seconds", "counted"), [(1.0, Counted()), (TIMEOUT_S / 2 + 0.5, Counted(1, bad=1))])
    async def test_a_caller_who_leaves_counts_only_if_a_canary_had_failed_by_then(
        self, clock: FakeClock, seconds: float, counted: Counted
    ) -> None:
        for chance in (0.0, 1.0):
            rig = Rig(clock)
            rig.chance = chance
            rig.silent(rig.canary)
            rig.silent(rig.stable)
            asking = asyncio.create_task(rig.ask())
            await asyncio.sleep(seconds)
            asking.cancel()
            await asyncio.wait((asking,))
            assert rig.counted == ((counted, Counted()) if chance == 0.0 else (Counted(), counted))

    async def test_a_bad_key_counts_once_and_a_good_one_every_time(self, clock: FakeClock) -> None:
        rig = Rig(clock, weight=1.0)
        rig.answering(rig.stable)
        canary = rig.answering(rig.canary, ModelFailed("broke"))
        for _ in range(3):
            await rig.ask(call(parameters={"sticky_key": "ada"}))
        await rig.ask(call(parameters={"sticky_key": "grace"}))
        canary.model = AnsweringReplica().model
        await rig.ask(call(parameters={"sticky_key": "ada"}))
        assert rig.counted[0] == Counted(5, bad=2, repeated=2)

    async def test_if_keys_are_not_to_count_each_request_does(self, clock: FakeClock) -> None:
        rig = Rig(clock, stickiness="random")
        rig.answering(rig.stable)
        rig.answering(rig.canary, ModelFailed("broke"))
        for _ in range(3):
            await rig.ask(call(parameters={"sticky_key": "ada"}))
        assert rig.counted[0] == Counted(3, bad=3)


def test_without_an_objective_nothing_is_slow(clock: FakeClock) -> None:
    assert Rig(clock).throwing(1).throws._slow_s == inf
