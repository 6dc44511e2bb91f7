"""One request from its bytes to the bytes of its answer: what each stage lets through, and one record for each."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest

from models.inference import InferenceRequest, Tensor
from models.quality import InputQuality
from serving.channel.work import Answer
from serving.clock import Clock, SystemClock
from serving.errors import (
    BadQuality,
    DeadlineExceeded,
    InvalidAnswer,
    InvalidRequest,
    ModelFailed,
    ModelNotFound,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
)
from serving.protocol.decode import RequestDecoder
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from serving.request.pipeline import (
    CANCELLED,
    OK,
    Ended,
    Hear,
    InferCall,
    Origin,
    Pipeline,
    Plan,
)
from serving.request.quality import QualityCounts, QualityGate
from serving.request.reading import READ_AT_ONCE_MAX_BYTES
from tests.fakes import DOUBLE, AnsweringReplica, FakeClock, FakeReplica, plan_of, settled


class Records:
    """A ``Recorder`` that keeps everything."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, float]] = []

    def record(self, key: tuple[str, str], outcome: str, *, seconds: float, origin: Origin | None = None) -> None:
        self.all.append(("@".join(filter(None, key)), outcome, seconds))


class Seen:
    """An ``Observer`` that keeps everything."""

    def __init__(self) -> None:
        self.all: list[Ended] = []

    def ended(self, ended: Ended) -> None:
        self.all.append(ended)

    def of_good(self, call: InferCall) -> Hear | None:
        return self.ended


class OneModel:
    """A ``Router`` that knows ``m@v1``."""

    def __init__(self, clock: Clock) -> None:
        self.lane = Lane("m@v1", DOUBLE, finite=True, limits=LaneLimits(), clock=clock, deadlines=Deadlines(clock))
        self.plan = plan_of(self.lane, clock)

    def route(self, model: str, version: str | None) -> Plan:
        if (model, version) not in (("m", None), ("m", "v1")):
            raise ModelNotFound(f"no {model}")
        return self.plan


class Rig:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.router = OneModel(clock)
        self.records = Records()
        self.seen = Seen()
        self.pipeline = Pipeline(self.router, self.records, clock=clock, observer=self.seen)

    def answering(self, outcome: Answer | RequestError | None = None) -> AnsweringReplica:
        replica = AnsweringReplica(on_change=self.router.lane.pump)
        if outcome is not None:
            replica.model = lambda _: outcome
        self.router.lane.attach(replica)
        return replica

    def silent(self) -> FakeReplica:
        replica = FakeReplica(on_change=self.router.lane.pump)
        self.router.lane.attach(replica)
        return replica

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(name, outcome) for name, outcome, _ in self.records.all]


def call(model: str = "m", data: Any = (1, 2), timeout: str | None = None, **top: Any) -> InferCall:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": data}
    return InferCall(model, None, json.dumps({"inputs": [tensor], **top}).encode(), timeout=timeout)


async def test_a_good_request_is_answered_by_the_version_that_served_it(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.answering()
    reply = await rig.pipeline.infer(call(id="7"))
    body = json.loads(reply.body.body)
    assert (body["model_name"], body["model_version"], body["id"]) == ("m", "v1", "7")
    assert body["outputs"][0]["data"] == [2, 4]
    assert (reply.given.model, reply.given.version, reply.given.origin) == ("m", "v1", None)
    assert rig.outcomes == [("m@v1", OK)]


async def test_a_large_body_is_decoded_beside_the_loop() -> None:
    """Without a fake clock, whose loop has no threads. Others' requests wait while the loop decodes."""
    threads: dict[str, str] = {}

    class Noting(RequestDecoder):
        def decode(self, body: bytes | memoryview, **how: Any) -> InferenceRequest:
            request = super().decode(body, **how)
            threads[request.id or ""] = threading.current_thread().name
            return request

    clock = SystemClock()
    router, records = OneModel(clock), Records()
    router.plan = router.plan._replace(decoder=Noting("m", DOUBLE))
    router.lane.attach(AnsweringReplica(on_change=router.lane.pump))
    pipeline = Pipeline(router, records, clock=clock)
    for large in (False, True):
        reply = await pipeline.infer(call(id=str(large), parameters={"x": "x" * READ_AT_ONCE_MAX_BYTES * large}))
        assert json.loads(reply.body.body)["outputs"][0]["data"] == [2, 4]
    rows = READ_AT_ONCE_MAX_BYTES // 4
    numbers = np.ones((rows, 2), "<f4").tobytes()
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(numbers)}}
    raw = json.dumps({"id": "raw", "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    await pipeline.infer(InferCall("m", None, raw + numbers, str(len(raw))))
    assert threads.pop("raw") == threading.current_thread().name, (
        "numbers that follow raw are only looked at as a whole"
    )
    with pytest.raises(InvalidRequest, match="isn't valid JSON"):
        await pipeline.infer(InferCall("m", None, b"{" * (READ_AT_ONCE_MAX_BYTES + 1)))
    assert threads == {"False": threading.current_thread().name, "True": "decode_0"}
    assert [outcome for _, outcome, _ in records.all] == [OK, OK, OK, InvalidRequest.code]


async def test_a_record_says_how_long_the_request_took(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.silent()
    asking = asyncio.create_task(rig.pipeline.infer(call()))
    await settled()
    clock.advance(0.25)
    replica.calls[0].reply()
    await asking
    assert rig.records.all[0][2] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "bad",
    [
        InferCall("m", None, b"{"),
        InferCall("m", None, b""),
        InferCall("m", None, b"{}", json_length="99"),
        call(data=[1]),
        call(data=["a", "b"]),
        call(timeout="soon"),
        call(parameters={"timeout": 0}),
    ],
)
async def test_a_bad_request_never_reaches_the_lane(clock: FakeClock, bad: InferCall) -> None:
    rig = Rig(clock)
    replica = rig.answering()
    with pytest.raises(InvalidRequest):
        await rig.pipeline.infer(bad)
    assert replica.sent == []
    assert rig.outcomes == [("m@v1", InvalidRequest.code)]


async def test_an_unknown_model_is_recorded_without_a_version(clock: FakeClock) -> None:
    rig = Rig(clock)
    with pytest.raises(ModelNotFound):
        await rig.pipeline.infer(call("other"))
    assert rig.outcomes == [("", ModelNotFound.code)]


@pytest.mark.parametrize("error", [ModelFailed, ReplicaLost, ReplicaUnavailable])
async def test_a_failed_attempt_is_recorded_as_what_it_was(clock: FakeClock, error: type[RequestError]) -> None:
    rig = Rig(clock)
    rig.answering(error("so"))
    with pytest.raises(error):
        await rig.pipeline.infer(call())
    assert rig.outcomes == [("m@v1", error.code)]


async def test_an_answer_of_nan_reaches_nobody(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.answering(Answer((Tensor("y", "FP32", np.full((1, 2), np.nan, np.float32)),)))
    with pytest.raises(InvalidAnswer):
        await rig.pipeline.infer(call())
    assert rig.outcomes == [("m@v1", InvalidAnswer.code)]


async def test_without_a_replica_it_ends_at_once(clock: FakeClock) -> None:
    rig = Rig(clock)
    with pytest.raises(ReplicaUnavailable):
        await rig.pipeline.infer(call())
    assert rig.outcomes == [("m@v1", ReplicaUnavailable.code)]


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (call(), 7.0),
        (call(parameters={"timeout": 2_000_000}), 2.0),
        (call(timeout="3000000"), 3.0),
        (call(parameters={"timeout": 2_000_000}, timeout="500000"), 0.5),
    ],
    ids=["default", "parameter", "header", "the smaller of both"],
)
async def test_a_request_ends_at_its_deadline(clock: FakeClock, asked: InferCall, seconds: float) -> None:
    rig = Rig(clock)
    replica = rig.silent()
    started = clock.now
    with pytest.raises(DeadlineExceeded):
        await rig.pipeline.infer(asked)
    assert clock.now - started == pytest.approx(seconds, abs=0.02)
    assert replica.sent[0].work.deadlines == pytest.approx((started + seconds,))
    assert rig.outcomes == [("m@v1", DeadlineExceeded.code)]


async def test_when_the_caller_goes_away_so_does_the_work(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.silent()
    asking = [asyncio.create_task(rig.pipeline.infer(call())) for _ in range(2)]
    await settled()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert all(task.cancelled() for task in asking)
    assert replica.sent[0].answer.cancelled()
    assert (len(replica.sent), rig.router.lane.waiting) == (1, 0)
    assert rig.outcomes == [("m@v1", CANCELLED)] * 2


async def test_a_defect_of_ours_is_recorded_too(clock: FakeClock) -> None:
    rig = Rig(clock)

    class Broken(OneModel):
        def route(self, model: str, version: str | None) -> Plan:
            raise ZeroDivisionError

    pipeline = Pipeline(Broken(clock), rig.records, clock=clock)
    with pytest.raises(ZeroDivisionError):
        await pipeline.infer(call())
    assert rig.outcomes == [("", "internal")]


@pytest.mark.parametrize(("rejects", "outcome"), [(False, OK), (True, BadQuality.code)])
async def test_a_value_that_the_version_was_not_made_for_is_answered_or_refused(
    clock: FakeClock, rejects: bool, outcome: str
) -> None:
    rig = Rig(clock)
    replica = rig.answering()
    counts = QualityCounts()
    gate = QualityGate((InputQuality(input="x", max=1),), DOUBLE, counts=counts, rejects=rejects)
    rig.router.plan = rig.router.plan._replace(quality=gate)
    with pytest.raises(BadQuality, match="is 2, over max 1") if rejects else nullcontext():
        await rig.pipeline.infer(call())
    await rig.pipeline.infer(call(data=(0, 1)))
    assert rig.outcomes == [("m@v1", outcome), ("m@v1", OK)]
    assert len(replica.sent) == 2 - rejects
    assert [bool(seen.doubts) for seen in rig.seen.all] == [True, False]
    assert counts.requests == 1


async def test_an_exchange_remembers_every_attempt_that_failed(clock: FakeClock) -> None:
    rig = Rig(clock)
    nan = Tensor("y", "FP32", np.full((1, 2), np.nan, np.float32))
    replica = rig.answering(Answer((nan,)))
    with pytest.raises(InvalidAnswer):
        await rig.pipeline.infer(call())
    exchange = rig.seen.all[0].exchange
    assert exchange is not None
    (failed,) = exchange.failed
    assert (failed.version, failed.replica, failed.code) == ("m@v1", replica.replica_id, InvalidAnswer.code)
    assert "aren't finite" in failed.message
    assert np.isnan(failed.outputs[0].array).all()


async def test_an_observer_hears_all_of_a_good_answer(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.answering()
    asked = call(id="7")
    reply = await rig.pipeline.infer(asked)
    (seen,) = rig.seen.all
    assert (seen.call, seen.key, seen.outcome, seen.request_id) == (asked, ("m", "v1"), OK, "7")
    assert seen.given is reply.given
    assert seen.seconds == rig.records.all[0][2]
    assert seen.request is not None
    assert seen.request.inputs[0].array.tolist() == [[1.0, 2.0]]
    assert seen.exchange is not None
    assert (seen.exchange.attempts, seen.error, seen.origin) == (1, None, None)


async def test_an_observer_may_choose_among_good_answers_and_hears_of_all_others(clock: FakeClock) -> None:
    class Choosy(Seen):
        def of_good(self, call: InferCall) -> Hear | None:
            return self.ended if b"chosen" in call.body else None

    rig, choosy = Rig(clock), Choosy()
    pipeline = Pipeline(rig.router, rig.records, clock=clock, observer=choosy)
    rig.answering()
    for name in ("chosen", "not", "chosen"):
        await pipeline.infer(call(id=name.replace("not", "other")))
    with pytest.raises(InvalidRequest):
        await pipeline.infer(InferCall("m", None, b"{"))
    assert [(seen.outcome, seen.request_id) for seen in choosy.all] == [
        (OK, "chosen"),
        (OK, "chosen"),
        (InvalidRequest.code, ""),
    ]
    assert len(rig.records.all) == 4


async def test_an_observer_hears_the_error_that_the_caller_gets(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.answering(ModelFailed("so"))
    with pytest.raises(ModelFailed) as raised:
        await rig.pipeline.infer(call(id="7"))
    (seen,) = rig.seen.all
    assert seen.error is raised.value
    assert (seen.outcome, seen.given, seen.request_id) == (ModelFailed.code, None, "7")
    assert seen.exchange is not None
    assert seen.exchange.attempts >= 1


async def test_of_what_is_no_request_an_observer_hears_only_the_call(clock: FakeClock) -> None:
    rig = Rig(clock)
    asked = InferCall("m", None, b"{")
    with pytest.raises(InvalidRequest):
        await rig.pipeline.infer(asked)
    (seen,) = rig.seen.all
    assert (seen.call, seen.key, seen.outcome, seen.request_id) == (asked, ("m", "v1"), InvalidRequest.code, "")
    assert (seen.request, seen.exchange, seen.given) == (None, None, None)


async def test_an_observer_hears_of_a_caller_who_went_away_and_of_a_defect_without_an_error(clock: FakeClock) -> None:
    rig = Rig(clock)
    rig.silent()
    asking = asyncio.create_task(rig.pipeline.infer(call()))
    await settled()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    class Broken(OneModel):
        def route(self, model: str, version: str | None) -> Plan:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Pipeline(Broken(clock), rig.records, clock=clock, observer=rig.seen).infer(call())
    assert [(seen.outcome, seen.error) for seen in rig.seen.all] == [(CANCELLED, None), ("internal", None)]


async def test_an_error_that_was_observed_leaves_no_cycle_to_the_garbage_collector(clock: FakeClock) -> None:
    """Each would keep its request's tensors until the collector runs, and make it run more often."""
    pipeline = Pipeline(OneModel(clock), Records(), clock=clock, observer=Forgetting())
    gc.collect()
    gc.disable()
    try:
        with suppress(InvalidRequest):
            await pipeline.infer(InferCall("m", None, b"{"))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [item for item in gc.garbage if isinstance(item, InvalidRequest)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


class Forgetting:
    def ended(self, ended: Ended) -> None: ...

    def of_good(self, call: InferCall) -> Hear:
        return self.ended
