"""A shadow is asked what the model was asked, and whatever becomes of that, the model's callers don't notice."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from models.inference import Array, Tensor
from models.manifest import Manifest
from models.registry import Registry
from models.signature import Signature, TensorSpec
from serving.channel.work import Answer, Work
from serving.errors import ModelFailed, RequestError
from serving.request.deadline import Deadlines
from serving.request.lane import Lane, LaneLimits
from serving.request.pipeline import InferCall, Pipeline, Plan, ServedVersion
from serving.shadow.compare import Close, Within
from serving.shadow.counts import EXPECTED_MIN
from serving.shadow.mirror import LARGE_BYTES, OVERHEAD_BYTES, Mirror, MirrorLimits
from tests.fakes import (
    DOUBLE,
    AnsweringReplica,
    FakeClock,
    FakeReplica,
    attempts_of,
    doubled,
    plan_of,
    publish_version,
    request_of,
    settled,
)
from tests.unit.serving.request.test_pipeline import Records


class Found(NamedTuple):
    """A ``Target``."""

    served: ServedVersion
    manifest: Manifest


class Rig:
    """``m@v1`` answers calls; ``s@v1`` is its shadow, on a lane of its own without a replica at first."""

    def __init__(self, clock: FakeClock, folder: Path, *, chance: Sequence[float] = (), **limits: Any) -> None:
        self.clock = clock
        self.deadlines = Deadlines(clock)
        self.manifest = publish_version(Registry(folder), "s", "v1")
        self.lane = self._lane("s@v1")
        primary = self._lane("m@v1")
        self.model = AnsweringReplica(on_change=primary.pump)
        primary.attach(self.model)
        served = ServedVersion("s", "v1", "s@v1", "sha256:1", self.lane, attempts_of(self.lane, clock))
        self.target: Found | None = Found(served, self.manifest)
        dice = iter(chance)
        self.mirror = Mirror(
            "m",
            "s",
            limits=MirrorLimits(**limits),
            find=lambda: self.target,
            clock=clock,
            random=lambda: next(dice, 0.0),
        )
        self.mirror.use(share=1.0, rule=Within(1e-4, 1e-3), signature=DOUBLE)
        self.plan = plan_of(primary, clock)._replace(mirrors=(self.mirror,))
        self.records = Records()
        self.pipeline = Pipeline(self, self.records, clock=clock)

    def route(self, model: str, version: str | None) -> Plan:
        return self.plan

    def _lane(self, name: str) -> Lane:
        return Lane(name, DOUBLE, finite=True, limits=LaneLimits(), clock=self.clock, deadlines=self.deadlines)

    def shadow(self, replica: FakeReplica) -> FakeReplica:
        """Have this replica be the shadow's."""
        replica.on_change = self.lane.pump
        self.lane.attach(replica)
        return replica

    async def ask(self, *values: float) -> bytes:
        data = [value for value in values for _ in range(2)]
        tensor = {"name": "x", "shape": [len(values), 2], "datatype": "FP32", "data": data}
        reply = await self.pipeline.infer(InferCall("m", None, json.dumps({"inputs": [tensor]}).encode()))
        return bytes(reply.body.body)

    def offer(self, *values: float, outputs: Array | None = None) -> None:
        """As if ``m@v1`` had just answered this."""
        request = request_of(*values)
        answer = request.inputs[0].array * np.float32(2) if outputs is None else outputs
        assert self.plan.served is not None
        self.mirror.offer(self.plan.served, request, (Tensor("y", "FP32", answer),))


def answers(change: Callable[[Array], Array]) -> Callable[[Work], Answer]:
    return lambda work: Answer((Tensor("y", "FP32", change(work.inputs[0].array)),))


async def test_agreement_is_counted_row_by_row(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    rig.shadow(AnsweringReplica(answers(lambda x: np.where(x > 2, x * 3, x * 2).astype(np.float32))))
    await rig.ask(1, 2, 3)
    await rig.ask(1)
    await settled()
    counts = rig.mirror.counts()
    assert (counts.answered, counts.mirrored, counts.compared_requests, counts.agreed_requests) == (2, 2, 2, 1)
    assert (counts.compared_rows, counts.agreed_rows, counts.disagreed) == (4, 3, {"tolerance": 1})
    assert rig.mirror.tally.last_disagreement == "row 2: 'y' is out of tolerance"
    assert (rig.mirror.held_bytes, rig.mirror.waiting, rig.mirror.under_way) == (0, 0, 0)
    assert msgspec.json.decode(msgspec.json.encode(counts), type=type(counts)) == counts


async def test_the_shadow_is_asked_the_same_and_only_after_the_answer_has_left(
    clock: FakeClock, tmp_path: Path
) -> None:
    rig = Rig(clock, tmp_path)
    replica = rig.shadow(FakeReplica())
    await rig.ask(4, 5)
    assert replica.sent == []  # `infer` has returned, in the same turn of the loop
    await settled()
    assert [call.values for call in replica.sent] == [[4, 5]]
    replica.calls[0].reply()
    await settled()


async def test_of_all_requests_the_share_is_mirrored(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, chance=(0.3, 0.29, 0.0, 0.9))
    rig.mirror.use(share=0.3, rule=Within(0, 0), signature=DOUBLE)
    replica = rig.shadow(AnsweringReplica())
    for value in (1, 2, 3, 4):
        await rig.ask(value)
        await settled()
    assert [call.values for call in replica.sent] == [[2], [3]]
    assert rig.mirror.counts().answered == 4


class Seen(NamedTuple):
    """All that callers and what protects them see of some requests."""

    answers: list[bytes]
    records: list[tuple[str, str, float]]
    admitted: tuple[int, int]
    attempts: dict[str, int]
    breaker: Any
    budget: float


async def seen(rig: Rig) -> Seen:
    bodies: list[bytes] = []
    for value in range(40):
        bodies.append(await rig.ask(value))
        await asyncio.sleep(0.1)
    served = rig.plan.served
    assert served is not None
    admission = rig.plan.admission
    attempts = served.attempts
    return Seen(
        bodies,
        rig.records.all,
        (admission.inflight, admission.limit),
        dict(attempts.stats.outcomes),
        attempts.breaker.status(),
        attempts.budget.tokens,
    )


def slow() -> FakeReplica:
    """Answers everything, 0.9 s after it was asked."""

    class Slow(FakeReplica):
        def submit(self, work: Work) -> asyncio.Future[Answer]:
            answer = super().submit(work)
            call = self.calls[-1]
            asyncio.get_running_loop().call_later(0.9, call.reply)
            return answer

    return Slow()


SHADOWS: dict[str, Callable[[], FakeReplica | None]] = {
    "well": AnsweringReplica,
    "hung": FakeReplica,
    "slow": slow,
    "gone": lambda: None,
    "failing": lambda: AnsweringReplica(lambda work: ModelFailed("no")),
    "invalid": lambda: AnsweringReplica(answers(lambda x: x[:, :1])),
    "not a number": lambda: AnsweringReplica(answers(lambda x: x * np.float32(math.nan))),
}


@pytest.mark.parametrize("kind", SHADOWS)
async def test_whatever_the_shadow_does_callers_and_their_protection_see_no_difference(
    clock: FakeClock, tmp_path: Path, kind: str
) -> None:
    began = clock.now
    alone = Rig(clock, tmp_path / "alone")
    alone.plan = alone.plan._replace(mirrors=())
    without = await seen(alone)
    clock.now = began
    rig = Rig(clock, tmp_path / "mirrored")
    if (replica := SHADOWS[kind]()) is not None:
        rig.shadow(replica)
    with_shadow = await seen(rig)
    assert with_shadow == without
    assert {seconds for _, _, seconds in with_shadow.records} == {0.0}
    counts = rig.mirror.counts()
    assert counts.answered == 40
    assert counts.mirrored + sum(counts.dropped.values()) + rig.mirror.waiting == 40
    assert rig.target is not None
    attempts = rig.target.served.attempts
    assert (attempts.stats.outcomes, attempts.breaker.status().state) == ({}, "closed")
    rig.mirror.stop()


@pytest.mark.parametrize(
    ("kind", "failed", "disagreed"),
    [
        ("gone", {"replica_unavailable": 1}, {}),
        ("failing", {"model_failed": 1}, {}),
        ("invalid", {}, {"invalid_answer": 1}),
        ("not a number", {}, {"invalid_answer": 1}),
    ],
)
async def test_no_answer_is_a_failure_and_an_invalid_one_agrees_in_no_row(
    clock: FakeClock, tmp_path: Path, kind: str, failed: dict[str, int], disagreed: dict[str, int]
) -> None:
    rig = Rig(clock, tmp_path)
    if (replica := SHADOWS[kind]()) is not None:
        rig.shadow(replica)
    await rig.ask(1, 2)
    await settled()
    counts = rig.mirror.counts()
    assert (counts.failed, counts.disagreed, counts.agreed_rows) == (failed, disagreed, 0)
    assert counts.compared_rows == 2 * sum(disagreed.values())
    assert rig.mirror.held_bytes == 0


async def test_a_shadow_that_hangs_is_given_up_by_its_own_deadline(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, timeout_s=0.5, concurrency=1)
    replica = rig.shadow(FakeReplica())
    await rig.ask(1)
    await rig.ask(2)
    await settled()
    assert [call.values for call in replica.sent] == [[1]]
    await asyncio.sleep(0.52)
    assert (rig.mirror.counts().failed, rig.mirror.under_way) == ({"deadline_exceeded": 1}, 1)
    await asyncio.sleep(0.52)
    assert (rig.mirror.counts().failed, rig.mirror.held_bytes) == ({"deadline_exceeded": 2}, 0)


async def test_at_most_so_many_are_under_way_and_so_many_wait(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, concurrency=3, queue_max=20)
    rig.shadow(FakeReplica())
    for value in range(200):
        rig.offer(value)
        assert rig.mirror.waiting <= 20
        if value % 7 == 0:
            await settled(3)
    counts = rig.mirror.counts()
    assert (rig.mirror.under_way, rig.mirror.waiting) == (3, 20)
    assert (counts.answered, counts.dropped) == (200, {"queue_full": 177})
    rig.mirror.stop()


async def test_the_memory_that_it_holds_is_bounded(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, queue_max=10_000, queue_max_bytes=1 << 20, timeout_s=5.0)
    rig.shadow(FakeReplica())
    for _ in range(50):
        rig.offer(*range(10_000))  # two times 80 KB
        await settled(2)
        assert rig.mirror.held_bytes <= 1 << 20
    assert rig.mirror.counts().dropped == {"queue_full": 44}
    assert 6 * 160_000 < rig.mirror.held_bytes < 6 * (160_000 + 2 * OVERHEAD_BYTES)
    await asyncio.sleep(6)
    assert rig.mirror.held_bytes == 0


class Buffer(np.ndarray[Any, Any]):
    """An array that can be watched as it goes."""


async def test_a_small_part_of_a_batch_does_not_keep_the_whole(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    rig.shadow(FakeReplica())
    whole = np.zeros((100_000, 2), np.float32).view(Buffer)
    gone = weakref.ref(whole)
    rig.offer(0.0, outputs=whole[5:6])
    del whole
    assert gone() is not None
    await settled()
    assert gone() is None
    assert rig.mirror.held_bytes < 2 * OVERHEAD_BYTES
    rig.mirror.stop()


async def test_what_a_large_part_of_a_batch_keeps_is_counted_whole(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    rig.shadow(FakeReplica())
    whole = np.zeros((200_000, 2), np.float32)
    rig.offer(*[0.0] * 10_000, outputs=whole[:10_000])
    await settled()
    assert rig.mirror.held_bytes >= whole.nbytes
    rig.mirror.stop()


async def test_large_answers_are_compared_beside_the_loop(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(clock, tmp_path)
    rig.shadow(AnsweringReplica())
    loop = asyncio.get_running_loop()
    in_thread: list[Any] = []
    run = loop.run_in_executor

    def noted(*args: Any) -> asyncio.Future[Any]:
        in_thread.append(args)
        return run(*args)

    monkeypatch.setattr(loop, "run_in_executor", noted)
    rig.offer(1.0)
    await settled()
    assert in_thread == []
    rig.offer(*[1.0] * (LARGE_BYTES // 8))
    await settled()
    assert len(in_thread) == 1
    assert rig.mirror.counts().agreed_rows == 1 + LARGE_BYTES // 8
    assert rig.mirror.held_bytes == 0


async def test_a_shadow_whose_own_callers_wait_is_left_alone(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    replica = rig.shadow(FakeReplica())
    own = [rig.lane.submit(request_of(value), clock.now + 9) for value in (7, 8)]  # one is sent, one waits
    await rig.ask(1)
    await settled()
    assert rig.mirror.counts().dropped == {"busy": 1}
    replica.calls[0].reply()
    await settled()
    replica.calls[0].reply()
    await asyncio.gather(*(pending.answer for pending in own))
    rig.lane.waiting_elsewhere = lambda: 1  # in front of its admission
    await rig.ask(2)
    await settled()
    assert rig.mirror.counts().dropped == {"busy": 2}
    assert len(replica.sent) == 2


async def test_its_own_requests_that_wait_are_not_taken_for_others(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, concurrency=4)
    replica = rig.shadow(FakeReplica())
    for value in range(4):
        await rig.ask(value)
        await settled()
    assert (rig.mirror.under_way, rig.lane.waiting, rig.mirror.counts().dropped) == (4, 3, {})
    replica.calls[0].reply()
    await settled()
    assert [call.values for call in replica.sent] == [[0], [1, 2, 3]]
    replica.calls[0].reply()
    await settled()
    assert rig.mirror.counts().agreed_rows == 4


async def test_a_version_is_not_its_own_shadow(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    rig.mirror.shadow = "m@v1"
    await rig.ask(1)
    await settled()
    assert (rig.mirror.counts().answered, rig.mirror.waiting) == (0, 0)


async def test_a_request_that_failed_is_not_mirrored(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    rig.model.model = lambda work: ModelFailed("no")
    with pytest.raises(RequestError):
        await rig.ask(1)
    assert rig.mirror.counts().answered == 0


async def test_what_is_not_served_or_takes_other_inputs_is_not_asked(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    replica = rig.shadow(AnsweringReplica())
    found, rig.target = rig.target, None
    await rig.ask(1)
    await settled()
    assert found is not None
    narrow = Signature((TensorSpec("x", "FP32", (-1, 3)),), DOUBLE.outputs, batched=True)
    rig.target = Found(found.served, msgspec.structs.replace(rig.manifest, signature=narrow))
    await rig.ask(1)
    await settled()
    assert rig.mirror.counts().dropped == {"not_served": 1, "not_comparable": 1}
    rig.target = found
    await rig.ask(1)
    await settled()
    assert (len(replica.sent), rig.mirror.held_bytes) == (1, 0)


async def test_stopping_takes_back_what_was_asked_and_leaves_nothing(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, concurrency=2)
    replica = rig.shadow(FakeReplica())
    for value in range(5):
        rig.offer(value)
    await settled()
    rig.offer(5)
    rig.mirror.stop()
    assert (rig.mirror.held_bytes, rig.mirror.waiting, rig.mirror.under_way) == (0, 0, 0)
    counts = rig.mirror.counts()
    assert (counts.cancelled, counts.dropped, counts.mirrored) == (2, {"stopped": 4}, 2)
    await settled()
    assert replica.sent[0].answer.cancelled()
    assert rig.lane.waiting == 0
    rig.offer(6)
    await settled()
    assert (rig.mirror.share, rig.mirror.waiting, rig.mirror.counts().mirrored) == (0.0, 0, 2)


async def test_a_lane_that_closes_under_it_is_a_failure_like_another(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path)
    rig.shadow(FakeReplica())
    rig.offer(1)
    await settled()
    await rig.lane.close()
    await settled()
    assert (rig.mirror.counts().failed, rig.mirror.held_bytes) == ({"replica_lost": 1}, 0)


async def test_a_defect_in_comparing_is_counted_and_harms_nobody(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(clock, tmp_path)
    broken: Any = Close(0.1, "astrology")  # type: ignore[arg-type]
    rig.mirror.use(share=1.0, rule=broken._replace(at_most=None), signature=DOUBLE)
    rig.shadow(AnsweringReplica(doubled))
    await rig.ask(0.25)
    await settled()
    assert (rig.mirror.counts().failed, rig.mirror.under_way, rig.mirror.held_bytes) == ({"internal": 1}, 0, 0)
    assert "can't be compared" in caplog.text


# The alarm


async def requests(rig: Rig, count: int) -> None:
    for value in range(count):
        await rig.ask(value)
        await settled()


def silent(rig: Rig, *, after_s: float = 0.0) -> bool:
    """Whether there is an alarm, looked at after this time."""
    rig.clock.advance(after_s)
    rig.mirror.look()
    return rig.mirror.silent


async def test_a_mirror_that_sees_nothing_though_it_should_is_an_alarm_until_it_does(
    clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(clock, tmp_path, silent_after_s=10.0)
    caplog.set_level(logging.WARNING, "holdfast.shadow")
    await requests(rig, EXPECTED_MIN)
    assert not silent(rig)  # the window isn't over
    assert silent(rig, after_s=10)
    assert silent(rig)
    assert caplog.text.count("the shadow s of m answers nothing") == 1
    assert "replica_unavailable" in caplog.text
    rig.shadow(AnsweringReplica())
    await requests(rig, EXPECTED_MIN)
    assert not silent(rig, after_s=10)
    assert caplog.text.count("answers again") == 1


async def test_nothing_mirrored_at_all_is_an_alarm_too_until_the_mirror_is_stopped(
    clock: FakeClock, tmp_path: Path
) -> None:
    rig = Rig(clock, tmp_path, silent_after_s=10.0)
    rig.target = None
    await requests(rig, EXPECTED_MIN)
    assert silent(rig, after_s=10)
    assert rig.mirror.counts().mirrored == 0
    rig.mirror.stop()
    assert not silent(rig, after_s=100)


async def test_a_model_that_is_hardly_asked_raises_no_alarm(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, silent_after_s=10.0, chance=[1.0] * 1000)
    rig.mirror.use(share=0.1, rule=Within(0, 0), signature=DOUBLE)
    await requests(rig, EXPECTED_MIN * 9)
    assert not silent(rig, after_s=1000)  # nine should have been mirrored; chance may have it that none was
    await requests(rig, EXPECTED_MIN)
    assert silent(rig)


async def test_answers_that_disagree_are_no_silence(clock: FakeClock, tmp_path: Path) -> None:
    rig = Rig(clock, tmp_path, silent_after_s=10.0)
    rig.shadow(AnsweringReplica(answers(lambda x: x * np.float32(math.nan))))
    await requests(rig, EXPECTED_MIN)
    assert not silent(rig, after_s=10)
