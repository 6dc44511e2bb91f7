"""The spans of a request: a tree of what happened to it, in the order of time, whatever became of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from fallbacks.chain import Degraded, Question
from models.quality import InputQuality
from serving.channel.work import Answer
from serving.errors import ModelFailed, ReplicaLost
from serving.plans import ask_version
from serving.request.admission import Admission, AdmissionLimits
from serving.request.deadline import Deadlines
from serving.request.pipeline import InferCall, ServedVersion
from serving.request.quality import QualityCounts, QualityGate
from serving.tracing.spans import Span
from tests.fakes import DOUBLE, FakeClock, doubled, settled
from tests.traced import PARENT_ID, ROOT_ID, Traced, tree
from tests.unit.serving.request.test_fall_back import Standby
from tests.unit.serving.request.test_pipeline import call

ROOT = "POST /v2/models/{model}/infer"


class OtherVersion:
    """A strategy that asks a version, as those of the settings do."""

    kind = name = "version"

    def __init__(self, served: ServedVersion) -> None:
        self._served = served

    async def answer(self, question: Question) -> Degraded:
        outputs = await ask_version(self._served, question, None)
        return Degraded(outputs, "m", self._served.version, self.kind)


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def in_order(spans: list[Span]) -> bool:
    """Whether every span lies in its parent, and those of one parent follow each other."""
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        above = by_id.get(span.parent_id or 0)
        if span.began > span.ended or (above and not above.began <= span.began <= span.ended <= above.ended):
            return False
        children = [child for child in spans if child.parent_id == span.span_id]
        if any(later.began < earlier.ended - 1e-6 for earlier, later in pairwise(children)):
            return False
    return True


async def test_a_good_request(clock: FakeClock) -> None:
    traced = Traced(clock)
    replica = traced.rig.silent(traced.rig.stable)
    asking = asyncio.create_task(traced.ask(call(id="a kelp")))
    await settled()
    clock.advance(0.25)
    replica.calls[0].reply(Answer(doubled(replica.calls[0].work).outputs, compute_s=0.2))
    await asking
    spans = traced.spans()
    assert tree(spans) == [ROOT, "  decode", "  admit", "  attempt v1 ok", "    model run", "  encode"]
    assert in_order(spans)
    root, run = spans[0], named(spans, "model run")[0]
    assert (root.span_id, root.parent_id, root.kind, root.error) == (ROOT_ID, PARENT_ID, "server", None)
    assert root.began == pytest.approx(clock.wall() - 0.25)
    assert root.ended - root.began == pytest.approx(0.25)
    assert run.ended - run.began == pytest.approx(0.2)
    assert run.ended == pytest.approx(clock.wall())
    assert dict(run.attributes) == {
        "holdfast.version": "v1",
        "holdfast.replica": "r1",
        "holdfast.batch.requests": 1,
        "holdfast.batch.rows": 1,
        "holdfast.compute_s": 0.2,
    }
    assert dict(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "holdfast.request_id": "a kelp",
        "holdfast.model": "m",
        "holdfast.version": "v1",
        "holdfast.rollout": "m-1",
        "holdfast.outcome": "ok",
        "holdfast.answered_by": "m@v1",
        "holdfast.rows": 1,
    }


async def test_a_request_that_waited_for_its_batch(clock: FakeClock) -> None:
    traced = Traced(clock)
    replica = traced.rig.silent(traced.rig.stable)
    others = [asyncio.create_task(traced.rig.ask()) for _ in range(2)]
    await settled()
    asking = asyncio.create_task(traced.ask())
    await settled()
    clock.advance(0.1)
    replica.calls[0].reply()
    await settled()
    clock.advance(0.1)
    replica.calls[0].reply()
    await asyncio.gather(asking, *others)
    spans = traced.spans()
    attempt, run = named(spans, "attempt")[0], named(spans, "model run")[0]
    assert attempt.attributes["holdfast.waited_s"] == pytest.approx(0.1)
    assert attempt.ended - attempt.began == pytest.approx(0.2)
    assert run.attributes["holdfast.batch.requests"] == 2
    assert in_order(spans)


async def test_a_further_attempt(clock: FakeClock) -> None:
    traced = Traced(clock, retries=3)
    bad = traced.rig.answering(traced.rig.stable, ReplicaLost("it died"), "bad")
    traced.rig.answering(traced.rig.stable, name="good")
    await traced.ask()
    spans = traced.spans()
    assert len(bad.sent) == 1
    assert tree(spans) == [
        ROOT,
        "  decode",
        "  admit",
        "  attempt v1 replica_lost",
        "  attempt v1 ok",
        "    model run",
        "  encode",
    ]
    assert [(span.attributes["holdfast.replica"], span.error) for span in named(spans, "attempt")] == [
        ("bad", "replica_lost"),
        ("good", None),
    ]
    assert spans[0].error is None
    assert in_order(spans)


async def test_a_canary_that_fails_and_the_stable_version_in_its_place(clock: FakeClock) -> None:
    traced = Traced(clock, canary=True)
    traced.rig.answering(traced.rig.canary, ModelFailed("broke"))
    traced.rig.answering(traced.rig.stable)
    await traced.ask()
    spans = traced.spans()
    assert tree(spans) == [
        ROOT,
        "  decode",
        "  admit",
        "  attempt v2 model_failed",
        "  attempt v1 ok",
        "    model run",
        "  encode",
    ]
    assert (spans[0].attributes["holdfast.answered_by"], spans[0].attributes["holdfast.outcome"]) == ("m@v1", "ok")
    assert in_order(spans)


async def test_a_fallback_with_the_attempts_that_it_made(clock: FakeClock) -> None:
    traced = Traced(clock)
    rig = traced.rig
    traced.fall_back_to(Standby("cache", refusal="nothing kept"), OtherVersion(rig.canary))
    rig.answering(rig.stable, ModelFailed("broke"))
    rig.answering(rig.canary)
    await traced.ask()
    spans = traced.spans()
    assert tree(spans) == [
        ROOT,
        "  decode",
        "  admit",
        "  attempt v1 model_failed",
        "  fallback",
        "    attempt v2 ok",
        "      model run",
        "  encode",
    ]
    (fallback,) = named(spans, "fallback")
    assert dict(fallback.attributes) == {
        "holdfast.answered": True,
        "holdfast.fallback.kind": "version",
        "holdfast.degraded_reason": "model_failed",
    }
    root = spans[0].attributes
    assert (root["holdfast.degraded"], root["holdfast.degraded_reason"]) == ("version", "model_failed")
    assert (root["holdfast.answered_by"], root["holdfast.outcome"]) == ("m@v2", "degraded")
    assert (root["http.response.status_code"], spans[0].error) == (200, None)
    assert in_order(spans)


async def test_a_fallback_that_has_nothing(clock: FakeClock) -> None:
    traced = Traced(clock, Standby(refusal="nothing kept"))
    traced.rig.answering(traced.rig.stable, ModelFailed("broke"))
    await traced.ask()
    spans = traced.spans()
    assert tree(spans) == [ROOT, "  decode", "  admit", "  attempt v1 model_failed", "  fallback"]
    assert named(spans, "fallback")[0].error == "nothing could stand in"
    assert spans[0].error == "broke; version: nothing kept"
    assert spans[0].attributes["http.response.status_code"] == 503
    assert in_order(spans)


async def test_a_request_that_is_shed_never_came_to_an_attempt(clock: FakeClock) -> None:
    traced = Traced(clock)
    limits = AdmissionLimits(limit_min=1, limit_max=1, max_waiting=0)
    traced.rig.plan = traced.rig.plan._replace(
        admission=Admission("m", limits, clock=clock, deadlines=Deadlines(clock))
    )
    replica = traced.rig.silent(traced.rig.stable)
    first = asyncio.create_task(traced.rig.ask())
    await settled()
    await traced.ask()
    spans = traced.spans()
    assert tree(spans) == [ROOT, "  decode", "  admit"]
    assert named(spans, "admit")[0].attributes["holdfast.admitted"] is False
    assert (spans[0].attributes["error.type"], spans[0].attributes["http.response.status_code"]) == ("overloaded", 429)
    replica.calls[0].reply()
    await first


async def test_a_caller_who_goes_away(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.rig.silent(traced.rig.stable)
    asking = asyncio.create_task(traced.ask())
    await settled()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    spans = traced.spans()
    assert tree(spans) == [ROOT, "  decode", "  admit", "  attempt v1 cancelled"]
    assert [span.error for span in spans] == [None] * 4
    assert "http.response.status_code" not in spans[0].attributes
    assert in_order(spans)


@pytest.mark.parametrize(
    ("bad", "stages"), [(InferCall("m", None, b"{"), ["  decode"]), (call(timeout="soon"), ["  decode"])]
)
async def test_a_request_that_is_wrong_itself_is_no_error_of_ours(
    clock: FakeClock, bad: InferCall, stages: list[str]
) -> None:
    traced = Traced(clock)
    await traced.ask(bad)
    spans = traced.spans()
    assert tree(spans) == [ROOT, *stages]
    assert spans[0].error is None
    assert (spans[0].attributes["error.type"], spans[0].attributes["http.response.status_code"]) == (
        "invalid_request",
        400,
    )


async def test_a_value_that_is_refused_is_refused_before_it_is_admitted(clock: FakeClock) -> None:
    traced = Traced(clock)
    gate = QualityGate((InputQuality(input="x", max=1),), DOUBLE, counts=QualityCounts(), rejects=True)
    traced.rig.plan = traced.rig.plan._replace(quality=gate)
    await traced.ask()
    assert tree(traced.spans()) == [ROOT, "  decode"]


async def test_a_version_without_a_replica(clock: FakeClock) -> None:
    traced = Traced(clock)
    await traced.ask()
    assert tree(traced.spans()) == [ROOT, "  decode", "  admit", "  attempt v1 replica_unavailable"]


async def test_a_call_that_names_its_version_has_a_route_of_its_own(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.rig.answering(traced.rig.stable)
    await traced.ask(call()._replace(version="v1"))
    assert traced.spans()[0].name == "POST /v2/models/{model}/versions/{version}/infer"


async def test_nothing_of_what_a_private_model_is_asked_is_in_its_spans(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.quotable = False
    traced.rig.answering(traced.rig.stable, ModelFailed("patient Smith isn't a number"))
    await traced.ask()
    spans = traced.spans()
    assert "Smith" not in repr(spans)
    assert (spans[0].error, named(spans, "attempt")[0].error) == ("model_failed", "model_failed")


async def test_a_request_that_is_not_sampled_leaves_no_marks(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.rig.answering(traced.rig.stable)
    await traced.ask(headers={})
    (ended,) = traced.seen.all
    assert ended.call.context is not None
    assert ended.call.context.trace is None
    assert ended.exchange is not None
    assert ended.exchange.trace is None
