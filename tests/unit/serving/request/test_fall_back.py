"""When a request falls back, to what, and how the answer says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from fallbacks.chain import Chain, Degraded, Question, Unusable
from serving.errors import (
    Internal,
    InvalidRequest,
    ModelFailed,
    NoAnswer,
    Overloaded,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
)
from serving.ingress.routes import origin_headers
from serving.plans import ask_version
from serving.request.admission import Admission, AdmissionLimits
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from serving.request.pipeline import DEGRADED, OK, InferCall, Origin, Pipeline, Plan, Reply
from tests.fakes import DOUBLE, AnsweringReplica, FakeClock, doubled, plan_of, request_of, settled, work_of
from tests.unit.serving.request.test_pipeline import Records, call


class Standby:
    """A strategy that answers with what it is told, or not at all."""

    def __init__(self, kind: str = "version", refusal: str | None = None, age_s: float | None = None) -> None:
        self.kind = self.name = kind
        self.asked: list[Question] = []
        self._refusal = refusal
        self._age_s = age_s

    async def answer(self, question: Question) -> Degraded:
        self.asked.append(question)
        if self._refusal is not None:
            raise Unusable(self._refusal)
        outputs = doubled(work_of([21], deadline=0)).outputs
        return Degraded(outputs, "m", "v0", self.kind, self._age_s, None if self._age_s is None else "node")


class Rig:
    """A pipeline over one lane and a chain; also its own router."""

    def __init__(self, clock: FakeClock, *strategies: Standby) -> None:
        self.clock = clock
        self.lane = Lane("m@v1", DOUBLE, finite=True, limits=LaneLimits(), clock=clock, deadlines=Deadlines(clock))
        self.plan = plan_of(self.lane, clock, chain=Chain(strategies))
        self.records = Records()
        self.pipeline = Pipeline(self, self.records, clock=clock)

    def route(self, model: str, version: str | None) -> Plan:
        return self.plan

    def failing(self, error: RequestError) -> AnsweringReplica:
        replica = AnsweringReplica(lambda _: error, on_change=self.lane.pump)
        self.lane.attach(replica)
        return replica

    async def ask(self, asked: InferCall | None = None) -> Reply:
        return await self.pipeline.infer(asked or call())

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, outcome, _ in self.records.all]


def parameters(reply: Reply) -> dict[str, object]:
    found: dict[str, object] = json.loads(reply.body.body).get("parameters", {})
    return found


async def test_a_version_that_fails_is_stood_in_for_and_the_answer_says_by_whom_and_why(clock: FakeClock) -> None:
    rig = Rig(clock, Standby())
    rig.failing(ModelFailed("broke"))
    reply = await rig.ask()
    body = json.loads(reply.body.body)
    assert (body["model_name"], body["model_version"], body["outputs"][0]["data"]) == ("m", "v0", [42, 42])
    assert body["parameters"] == {"degraded": "version", "degraded_reason": "model_failed"}
    assert reply.given.origin == Origin("version", "model_failed")
    assert rig.outcomes == [DEGRADED]


async def test_without_any_replica_it_falls_back_at_once(clock: FakeClock) -> None:
    rig = Rig(clock, Standby())
    before = clock.now
    assert (await rig.ask()).given.origin == Origin("version", "replica_unavailable")
    assert clock.now == before


async def test_without_any_version_it_falls_back_too(clock: FakeClock) -> None:
    rig = Rig(clock, Standby())
    rig.plan = rig.plan._replace(served=None)
    assert (await rig.ask()).given.origin == Origin("version", "replica_unavailable")


async def test_a_cached_answer_tells_its_age(clock: FakeClock) -> None:
    rig = Rig(clock, Standby("cache", age_s=12.3456))
    reply = await rig.ask()
    assert parameters(reply) == {
        "degraded": "cache",
        "degraded_reason": "replica_unavailable",
        "cached": True,
        "age_s": 12.346,
    }
    assert reply.given.origin is not None
    assert origin_headers(reply.given.origin) == [
        (b"holdfast-degraded", b"cache"),
        (b"holdfast-degraded-reason", b"replica_unavailable"),
        (b"age", b"12"),
        (b"cache-status", b"holdfast; hit; detail=node"),
    ]


def test_a_fresh_cached_answer_is_not_degraded() -> None:
    names = [name for name, _ in origin_headers(Origin("cache", None, 0.5, "redis"))]
    assert names == [b"age", b"cache-status"]


async def test_when_nobody_stands_in_all_reasons_are_told(clock: FakeClock) -> None:
    rig = Rig(clock, Standby("version", "it is asleep"), Standby("cache", "it forgot"))
    rig.failing(ReplicaLost("it died"))
    with pytest.raises(NoAnswer, match="it died; version: it is asleep; cache: it forgot"):
        await rig.ask()
    assert rig.outcomes == ["no_answer"]


async def test_a_defect_of_ours_is_among_the_reasons_without_its_details(clock: FakeClock) -> None:
    rig = Rig(clock, Standby("cache", "it forgot"))
    rig.failing(Internal("KeyError: '/srv/secret'"))
    with pytest.raises(NoAnswer, match=r"^internal error; cache: it forgot$"):
        await rig.ask()
    assert rig.plan.served is not None
    with pytest.raises(Unusable, match=r"^internal error$"):  # nor if it was to stand in for another
        await ask_version(rig.plan.served, Question(request_of(1), deadline=clock.now + 1), None)


async def test_without_a_chain_the_failure_itself_is_told(clock: FakeClock) -> None:
    rig = Rig(clock)
    with pytest.raises(ReplicaUnavailable):
        await rig.ask()


async def test_a_wrong_request_never_falls_back(clock: FakeClock) -> None:
    standby = Standby()
    rig = Rig(clock, standby)
    replica = rig.failing(ModelFailed("broke"))
    for wrong in (call(data=[1, 2, 3]), call(parameters={"priority": 9}), call(parameters={"timeout": 0})):
        with pytest.raises(InvalidRequest):
            await rig.ask(wrong)
    assert (standby.asked, replica.sent) == ([], [])
    assert rig.plan.served is not None
    assert rig.plan.served.attempts.breaker.status().calls == 0
    assert rig.plan.admission.inflight == 0


async def full(rig: Rig, clock: FakeClock) -> Callable[[], Awaitable[None]]:
    """Let nobody else in; what is returned ends that."""
    one = AdmissionLimits(limit_min=1, limit_max=1, max_waiting=1)
    gate = Admission("m", one, clock=clock, deadlines=Deadlines(clock))
    rig.plan = rig.plan._replace(admission=gate)
    first, second = gate.try_admit(2, clock.now + 9), asyncio.ensure_future(gate.admit(1, clock.now + 9))
    await settled()
    assert first is not None

    async def leave() -> None:
        first.ignored()
        (await second).ignored()

    return leave


async def test_a_shed_request_may_have_what_has_time_to_spare(clock: FakeClock) -> None:
    standby = Standby("cache", age_s=1.0)
    rig = Rig(clock, standby)
    leave = await full(rig, clock)
    assert (await rig.ask()).given.origin == Origin("cache", "overloaded", 1.0, "node")
    assert [question.shed for question in standby.asked] == [True]
    await leave()


async def test_if_nothing_has_it_hears_when_to_come_back(clock: FakeClock) -> None:
    rig = Rig(clock, Standby("version", "it has enough to do"))
    leave = await full(rig, clock)
    with pytest.raises(Overloaded) as caught:
        await rig.ask()
    assert caught.value.retry_after_s >= 1
    assert rig.outcomes == ["overloaded"]
    await leave()


async def test_whatever_happens_the_permit_comes_back(clock: FakeClock) -> None:
    rig = Rig(clock, Standby("version", "it is asleep"))
    rig.failing(ModelFailed("broke"))
    with pytest.raises(NoAnswer):
        await rig.ask()
    task = asyncio.ensure_future(rig.ask())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert rig.plan.admission.inflight == 0


async def test_a_good_answer_needs_no_mark(clock: FakeClock) -> None:
    rig = Rig(clock, Standby())
    rig.lane.attach(AnsweringReplica(on_change=rig.lane.pump))
    reply = await rig.ask()
    assert (reply.given.origin, parameters(reply), rig.outcomes) == (None, {}, [OK])
