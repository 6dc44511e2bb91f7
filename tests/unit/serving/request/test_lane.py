"""A lane keeps its requests apart though they travel together: who waits, who leaves with whom, and who gets what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.inference import InferenceRequest, Tensor
from models.signature import Signature, TensorSpec
from serving.channel.work import Answer, Work
from serving.errors import (
    DeadlineExceeded,
    Internal,
    InvalidAnswer,
    ModelFailed,
    QueueTimeout,
    ReplicaLost,
    ReplicaUnavailable,
    RequestError,
)
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.lane import Lane, LaneLimits, Pending
from serving.request.outlier import EjectionLimits
from tests.fakes import (
    DOUBLE,
    WALL,
    AnsweringReplica,
    FakeClock,
    FakeReplica,
    doubled,
    request_of,
    run,
    settled,
    values_of,
)

SHAPELESS = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),), batched=True)
SINGLE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))


class Rig:
    """A lane and how to use it."""

    def __init__(
        self, clock: FakeClock, *, signature: Signature = DOUBLE, finite: bool = True, limits: LaneLimits | None = None
    ) -> None:
        self.clock = clock
        self.lane = Lane(
            "m@v1",
            signature,
            finite=finite,
            limits=limits or LaneLimits(),
            clock=clock,
            deadlines=Deadlines(clock),
        )

    def replica(self, name: str = "r1") -> FakeReplica:
        replica = FakeReplica(name, on_change=self.lane.pump)
        self.lane.attach(replica)
        return replica

    def answering(self, model: Callable[[Work], Answer | RequestError] = doubled, name: str = "r1") -> AnsweringReplica:
        replica = AnsweringReplica(model, name, on_change=self.lane.pump)
        self.lane.attach(replica)
        return replica

    def ask(self, *values: float, within: float = 10.0, width: int = 2) -> Pending:
        return self.lane.submit(request_of(*values, width=width), self.clock.now + within)


async def outcome(pending: Pending) -> list[float] | type[RequestError]:
    """The first column of the answer, or the class of the error."""
    try:
        return values_of(await pending.answer)
    except RequestError as error:
        return type(error)


def sent(replica: FakeReplica) -> list[list[float]]:
    return [call.values for call in replica.sent]


class TestBatching:
    async def test_a_lone_request_leaves_at_once(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        pending = rig.ask(1, 2)
        assert sent(replica) == [[1, 2]]
        replica.calls[0].reply()
        assert await outcome(pending) == [2, 4]

    async def test_requests_queue_while_a_batch_is_in_flight_and_leave_together(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        asked = [rig.ask(n, n + 0.5) for n in range(4)]
        assert (sent(replica), rig.lane.waiting, rig.lane.inflight_batches) == ([[0, 0.5]], 3, 1)
        replica.calls[0].reply()
        await settled()
        assert sent(replica)[1:] == [[1, 1.5, 2, 2.5, 3, 3.5]]
        assert replica.sent[1].work.rows == (2, 2, 2)
        replica.calls[0].reply()
        assert [await outcome(pending) for pending in asked] == [[2 * n, 2 * n + 1] for n in range(4)]
        assert (rig.lane.waiting, rig.lane.inflight_batches) == (0, 0)

    async def test_as_many_batches_are_in_flight_as_allowed(self, clock: FakeClock) -> None:
        rig = Rig(clock, limits=LaneLimits(inflight_batches=3))
        replica = rig.replica()
        for n in range(5):
            rig.ask(n)
        assert sent(replica) == [[0], [1], [2]]

    async def test_a_batch_has_no_more_rows_than_allowed(self, clock: FakeClock) -> None:
        rig = Rig(clock, limits=LaneLimits(max_batch_rows=4))
        replica = rig.answering()
        asked = [rig.ask(*([float(n)] * rows)) for n, rows in enumerate([1, 2, 2, 1, 9, 1])]
        for pending in asked:
            assert await outcome(pending) != []
        assert sent(replica) == [[0], [1, 1, 2, 2], [3], [4] * 9, [5]]

    async def test_a_batch_has_no_more_bytes_than_allowed(self, clock: FakeClock) -> None:
        rig = Rig(clock, limits=LaneLimits(max_batch_bytes=24))
        replica = rig.answering()
        for pending in [rig.ask(n) for n in range(6)]:
            await pending.answer
        assert sent(replica) == [[0], [1, 2, 3], [4, 5]]

    async def test_the_bytes_of_strings_count_too(self, clock: FakeClock) -> None:
        signature = Signature((TensorSpec("x", "BYTES", (-1,)),), DOUBLE.outputs, batched=True)
        rig = Rig(clock, signature=signature, limits=LaneLimits(max_batch_bytes=2000))

        def model(work: Work) -> Answer:
            return Answer((Tensor("y", "FP32", np.zeros((sum(work.rows), 2), np.float32)),))

        replica = rig.answering(model)
        words = np.array([b"a" * 900], dtype=object)
        request = InferenceRequest("m", (Tensor("x", "BYTES", words),))
        for pending in [rig.lane.submit(request, clock.now + 1) for _ in range(5)]:
            await pending.answer
        assert [call.work.rows for call in replica.sent] == [(1,), (1, 1), (1, 1)]

    async def test_what_does_not_fit_together_waits_and_keeps_its_order(self, clock: FakeClock) -> None:
        rig = Rig(clock, signature=SHAPELESS)
        replica = rig.answering()
        widths = [2, 3, 2, 4, 3, 4, 2]
        asked = [rig.ask(float(n), width=width) for n, width in enumerate(widths)]
        for n, pending in enumerate(asked):
            assert await outcome(pending) == [2 * n]
            assert pending.answer.result()[0].shape == (1, widths[n])
        assert sent(replica) == [[0], [1, 4], [2, 6], [3, 5]]

    async def test_a_model_without_a_batch_dimension_gets_one_request_at_a_time(self, clock: FakeClock) -> None:
        rig = Rig(clock, signature=SINGLE)
        replica = rig.answering()
        for n, pending in enumerate([rig.ask(n) for n in range(3)]):
            assert await outcome(pending) == [2 * n]
        assert sent(replica) == [[0], [1], [2]]


class TestReplicas:
    async def test_the_replica_with_the_fewest_batches_is_taken(self, clock: FakeClock) -> None:
        rig = Rig(clock, limits=LaneLimits(inflight_batches=2))
        first, second = rig.replica("r1"), rig.replica("r2")
        for n in range(4):
            rig.ask(n)
        assert (len(first.sent), len(second.sent)) == (2, 2)
        second.calls[0].reply()
        rig.ask(4)
        assert (len(first.sent), len(second.sent)) == (2, 3)

    async def test_a_replica_that_comes_takes_what_waits(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        rig.replica("r1")
        rig.ask(1)
        rig.ask(2)
        assert sent(rig.replica("r2")) == [[2]]

    async def test_a_replica_that_is_not_live_gets_nothing(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        leaving, staying = rig.replica("r1"), rig.replica("r2")
        leaving.live = False
        rig.ask(1)
        rig.ask(2)
        assert (sent(leaving), sent(staying), rig.lane.live_channels) == ([], [[1]], 1)

    async def test_without_a_replica_a_request_is_refused_at_once(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        assert not rig.lane.ready
        with pytest.raises(ReplicaUnavailable, match="no replica of m@v1"):
            rig.ask(1)

    async def test_when_the_last_replica_goes_what_waits_fails_at_once(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        inflight, waiting = rig.ask(1), rig.ask(2)
        started = clock.now
        replica.lose()
        rig.lane.detach(replica)
        assert await outcome(waiting) is ReplicaUnavailable
        assert await outcome(inflight) is ReplicaLost
        assert clock.now == started
        assert not rig.lane.ready

    async def test_a_lost_batch_fails_but_what_waits_goes_to_another_replica(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        lost, other = rig.replica("r1"), rig.replica("r2")
        asked = [rig.ask(n) for n in range(3)]
        lost.lose()
        other.calls[0].reply()
        await settled()
        assert sent(other) == [[1], [2]]
        other.calls[0].reply()
        assert [await outcome(pending) for pending in asked] == [ReplicaLost, [2], [4]]

    async def test_a_late_detach_does_not_remove_the_replicas_new_connection(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        old, new = rig.replica("r1"), rig.replica("r1")
        rig.lane.detach(old)
        rig.ask(1)
        assert sent(new) == [[1]]

    async def test_the_safety_net_is_for_when_no_channel_is_live(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        net = FakeReplica("handle", on_change=rig.lane.pump)
        rig.lane.set_safety_net(net)
        assert (rig.lane.ready, rig.lane.live_channels) == (True, 0)
        rig.ask(1)
        rig.ask(2)
        assert sent(net) == [[1]]
        channel = rig.replica()
        rig.ask(3)
        assert (sent(net), sent(channel)) == ([[1]], [[2]])
        net.calls[0].reply()
        await settled()
        assert sent(net) == [[1]], "a busy channel is no reason to use the net"
        channel.lose()
        rig.ask(4)
        await settled()
        assert sent(net) == [[1], [3]]

    async def test_a_net_without_replicas_behind_it_is_none(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        net = FakeReplica("handle")
        net.live = False
        rig.lane.set_safety_net(net)
        with pytest.raises(ReplicaUnavailable):
            rig.ask(1)

    async def test_a_full_queue_refuses(self, clock: FakeClock) -> None:
        rig = Rig(clock, limits=LaneLimits(max_waiting=2))
        rig.replica()
        for n in range(3):
            rig.ask(n)
        with pytest.raises(ReplicaUnavailable, match="2 requests wait for m@v1 already"):
            rig.ask(3)

    async def test_closing_fails_everything_and_closes_every_client(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        net = FakeReplica("handle")
        rig.lane.set_safety_net(net)
        inflight, waiting = rig.ask(1), rig.ask(2)
        await rig.lane.close()
        assert await outcome(inflight) is ReplicaLost
        assert await outcome(waiting) is ReplicaUnavailable
        assert (replica.closed, net.closed, rig.lane.waiting, rig.lane.inflight_batches) == (True, True, 0, 0)
        with pytest.raises(ReplicaUnavailable):
            rig.ask(3)


class TestTime:
    async def test_what_expires_in_the_queue_is_never_sent_and_counts_no_more(self, clock: FakeClock) -> None:
        rig = Rig(clock, limits=LaneLimits(max_waiting=1))
        replica = rig.replica()
        rig.ask(1)
        late = rig.ask(2, within=1)
        with pytest.raises(DeadlineExceeded, match=r"1\.000 s that the request had .* no replica of m@v1 answered"):
            await late.answer
        assert rig.lane.waiting == 0
        rig.ask(3)
        replica.calls[0].reply()
        await settled()
        assert sent(replica) == [[1], [3]]

    async def test_of_what_expires_in_flight_the_replica_is_told(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(0)
        hasty, patient = rig.ask(1, within=1), rig.ask(2)
        replica.calls[0].reply()
        with pytest.raises(DeadlineExceeded, match="waiting for m@v1"):
            await hasty.answer
        (call,) = replica.calls
        assert (call.forgotten, call.answer.cancelled()) == ([0], False)
        call.reply()
        assert await outcome(patient) == [4]

    async def test_when_nobody_waits_for_a_batch_any_more_it_is_cancelled(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(0)
        two = [rig.ask(1, within=1), rig.ask(2, within=2)]
        replica.calls[0].reply()
        assert [await outcome(pending) for pending in two] == [DeadlineExceeded, DeadlineExceeded]
        (call,) = replica.calls
        assert call.answer.cancelled()
        await settled()
        assert rig.lane.inflight_batches == 0
        rig.ask(3)
        assert len(replica.sent) == 2, "the replica still computes: it gets no more"
        call.reply()
        assert sent(replica)[2:] == [[3]]

    async def test_an_abandoned_request_is_not_sent_or_taken_back(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(0)
        asked = [rig.ask(n) for n in (1, 2, 3)]
        asked[0].answer.cancel()
        rig.lane.abandon(asked[0])
        assert rig.lane.waiting == 2
        replica.calls[0].reply()
        await settled()
        assert sent(replica)[1:] == [[2, 3]]
        asked[2].answer.cancel()
        rig.lane.abandon(asked[2])
        assert replica.calls[0].forgotten == [1]
        replica.calls[0].reply()
        assert await outcome(asked[1]) == [4]

    async def test_a_queue_of_abandoned_requests_only_sends_nothing(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(0)
        cancelled = rig.ask(1)
        cancelled.answer.cancel()  # its task has not run yet to say so
        replica.calls[0].reply()
        await settled()
        assert sent(replica) == [[0]]
        rig.lane.abandon(cancelled)
        assert rig.lane.waiting == 0

    async def test_what_the_replica_dropped_had_no_time_left(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(0)
        asked = [rig.ask(n) for n in (1, 2, 3)]
        replica.calls[0].reply()
        await settled()
        rest = np.array([[2, 2], [6, 6]], np.float32)
        replica.calls[0].reply(Answer((Tensor("y", "FP32", rest),), dropped=(1,)))
        assert [await outcome(pending) for pending in asked] == [[2], DeadlineExceeded, [6]]

    async def test_a_replica_may_drop_all_of_a_batch(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        pending = rig.ask(1)
        replica.calls[0].reply(Answer((), dropped=(0,)))
        assert await outcome(pending) is DeadlineExceeded


class TestBadAnswers:
    @given(
        rows=st.lists(st.integers(1, 3), min_size=1, max_size=12),
        guilty=st.sets(st.integers(0, 11)),
        unfinite=st.sets(st.integers(0, 11)),
        replicas=st.integers(1, 3),
        max_rows=st.integers(1, 40),
    )
    @settings(deadline=None)
    def test_exactly_the_guilty_fail_and_their_neighbours_get_their_own_answers(
        self, rows: list[int], guilty: set[int], unfinite: set[int], replicas: int, max_rows: int
    ) -> None:
        def model(work: Work) -> Answer | RequestError:
            return ModelFailed("poison") if (work.inputs[0].array < 0).any() else doubled(work)

        def values(index: int) -> list[float]:
            some = [float(index * 10 + row) for row in range(rows[index])]
            if index in guilty:
                some[-1] = -1.0
            elif index in unfinite:
                some[0] = float("nan")
            return some

        async def scenario() -> None:
            rig = Rig(clock, limits=LaneLimits(max_batch_rows=max_rows))
            for n in range(replicas):
                rig.answering(model, f"r{n}")
            asked = [rig.ask(*values(index)) for index in range(len(rows))]
            for index, pending in enumerate(asked):
                expected: object = [2 * value for value in values(index)]
                if index in guilty:
                    expected = ModelFailed
                elif index in unfinite:
                    expected = InvalidAnswer
                assert await outcome(pending) == expected
            assert (rig.lane.waiting, rig.lane.inflight_batches) == (0, 0)

        clock = FakeClock()
        run(scenario(), clock)

    async def test_one_guilty_request_among_many_costs_few_more_runs(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.answering(lambda work: ModelFailed("no") if -1 in values_of(work.inputs) else doubled(work))
        rig.ask(0)
        asked = [rig.ask(-1 if n == 37 else n) for n in range(64)]
        failed = [n for n, pending in enumerate(asked) if await outcome(pending) is ModelFailed]
        assert failed == [37]
        assert len(replica.sent) <= 2 + 2 * 6

    async def test_a_nan_fails_only_its_own_request_and_no_run_is_repeated(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.answering()
        rig.ask(0)
        asked = [rig.ask(1, 2), rig.ask(3, float("nan")), rig.ask(4)]
        assert [await outcome(pending) for pending in asked] == [[2, 4], InvalidAnswer, [8]]
        assert len(replica.sent) == 2

    async def test_a_model_may_answer_nan_if_its_manifest_says_so(self, clock: FakeClock) -> None:
        rig = Rig(clock, finite=False)
        rig.answering()
        assert np.isnan(await outcome(rig.ask(float("nan")))).all()  # type: ignore[arg-type]

    async def test_an_answer_of_the_wrong_form_fails_whoever_caused_it(self, clock: FakeClock) -> None:
        def model(work: Work) -> Answer:
            wrong = -1 in values_of(work.inputs)
            return Answer((Tensor("z" if wrong else "y", "FP32", work.inputs[0].array),))

        rig = Rig(clock)
        rig.answering(model)
        asked = [rig.ask(n) for n in (0, 1, -1, 2)]
        assert [await outcome(pending) for pending in asked] == [[0], [1], InvalidAnswer, [2]]

    async def test_too_few_rows_never_become_the_answer_of_a_neighbour(self, clock: FakeClock) -> None:
        def model(work: Work) -> Answer:
            array = work.inputs[0].array
            return Answer((Tensor("y", "FP32", array[array[:, 0] >= 0] * np.float32(2)),))

        rig = Rig(clock)
        rig.answering(model)
        asked = [rig.ask(n) for n in (0, 1, -1, 2)]
        assert [await outcome(pending) for pending in asked] == [[0], [2], InvalidAnswer, [4]]

    @pytest.mark.parametrize("dropped", [(1,), (-1,), (7, 0)])
    async def test_a_replica_that_drops_what_it_was_not_sent_gave_an_invalid_answer(
        self, clock: FakeClock, dropped: tuple[int, ...]
    ) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        pending = rig.ask(1)
        replica.calls[0].reply(Answer((), dropped=dropped))
        assert await outcome(pending) is InvalidAnswer
        assert await outcome_of_next(rig, replica) == [6]

    @pytest.mark.parametrize("error", [ReplicaLost, ReplicaUnavailable, Internal])
    async def test_other_failures_are_nobodys_fault_and_not_taken_apart(
        self, clock: FakeClock, error: type[RequestError]
    ) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(0)
        asked = [rig.ask(1), rig.ask(2)]
        replica.calls[0].reply()
        await settled()
        replica.calls[0].reply(error("so"))
        assert [await outcome(pending) for pending in asked] == [error, error]
        assert len(replica.sent) == 2

    async def test_a_defect_of_a_client_is_an_internal_error(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        pending = rig.ask(1)
        replica.calls.pop().answer.set_exception(ValueError("oh"))
        assert await outcome(pending) is Internal


async def outcome_of_next(rig: Rig, replica: FakeReplica) -> object:
    pending = rig.ask(3)
    replica.calls[0].reply()
    return await outcome(pending)


async def test_the_statistics_say_what_happened(clock: FakeClock) -> None:
    rig = Rig(clock)
    replica = rig.replica()
    good, late = rig.ask(1, 2), rig.ask(3, within=1)
    clock.advance(0.25)
    replica.calls[0].reply(Answer(doubled(replica.calls[0].work).outputs, compute_s=0.125))
    await good.answer
    assert await outcome(late) is DeadlineExceeded
    stats = rig.lane.stats
    assert (stats.requests, stats.rows, stats.batches, stats.failed) == (1, 2, 1, 1)
    assert (stats.success_s, stats.compute_s) == (0.25, 0.125)
    assert stats.fail_s == pytest.approx(1, abs=0.01)
    assert WALL + 1000 < stats.last_wall < WALL + 1001


ERRORS = {"failed": ModelFailed("so"), "lost": ReplicaLost("so"), "internal": Internal("so")}

actions = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 3), st.sampled_from([0.02, 1.0, 10.0])),
    st.tuples(st.just("reply"), st.integers(0, 9), st.sampled_from(["good", *ERRORS])),
    st.tuples(st.just("lose"), st.integers(0, 9), st.none()),
    st.tuples(st.just("join"), st.none(), st.none()),
    st.tuples(st.just("abandon"), st.integers(0, 30), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.03, 2.0]), st.none()),
)


class Weather:
    """Everything that can happen to a lane, and what must hold whatever happens."""

    def __init__(self, clock: FakeClock, inflight: int) -> None:
        self.clock = clock
        self.inflight = inflight
        self.rig = Rig(clock, limits=LaneLimits(max_batch_rows=5, inflight_batches=inflight, max_waiting=8))
        self.replicas = [self.rig.replica("r0")]
        self.asked: list[tuple[Pending, list[float]]] = []

    async def ask(self, rows: int, within: float) -> None:
        if self.rig.lane.ready and self.rig.lane.waiting < 8:
            values = [float(len(self.asked) * 10 + row) for row in range(rows)]
            self.asked.append((self.rig.ask(*values, within=within), values))

    async def reply(self, index: int, outcome: str) -> None:
        if calls := [call for replica in self.replicas for call in replica.calls]:
            calls[index % len(calls)].reply(ERRORS.get(outcome))

    async def lose(self, index: int, _: None) -> None:
        gone = self.replicas[index % len(self.replicas)]
        gone.lose()
        self.rig.lane.detach(gone)

    async def join(self, _: None, __: None) -> None:
        self.replicas.append(self.rig.replica(f"r{len(self.replicas)}"))

    async def abandon(self, index: int, _: None) -> None:
        if self.asked:
            pending = self.asked[index % len(self.asked)][0]
            pending.answer.cancel()
            self.rig.lane.abandon(pending)

    async def wait(self, seconds: float, _: None) -> None:
        await asyncio.sleep(seconds)

    def check(self) -> None:
        for replica in self.replicas:
            assert replica.outstanding <= self.inflight
            assert all(sum(call.work.rows) <= 5 for call in replica.sent)
        for pending, _ in self.asked:
            assert pending.answer.done() or self.clock.now < pending.deadline + 0.01

    def check_end(self) -> None:
        for pending, values in self.asked:
            assert pending.answer.done()
            if not pending.answer.cancelled() and pending.answer.exception() is None:
                assert values_of(pending.answer.result()) == [2 * value for value in values]
        assert (self.rig.lane.waiting, self.rig.lane.inflight_batches) == (0, 0)


@given(st.lists(actions, max_size=40), st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_whatever_happens_every_request_ends_in_time_and_only_with_its_own_answer(
    script: list[tuple[str, Any, Any]], inflight: int
) -> None:
    async def play() -> None:
        weather = Weather(clock, inflight)
        for action, argument, detail in script:
            await getattr(weather, action)(argument, detail)
            await settled(3)
            weather.check()
        await asyncio.sleep(11)
        weather.check_end()

    clock = FakeClock()
    run(play(), clock)


async def test_a_replica_is_told_its_share_of_all_requests_that_are_here(clock: FakeClock) -> None:
    rig = Rig(clock)
    replicas = [rig.replica("r1"), rig.replica("r2")]
    pending = [rig.ask(float(number)) for number in range(7)]
    assert [rig.lane.report(replica).demand for replica in replicas] == [3.5, 3.5]  # two are in flight, five wait
    while any(replica.calls for replica in replicas):
        for replica in replicas:
            for call in tuple(replica.calls):
                call.reply()
        await settled()
    assert all(one.answer.done() for one in pending)
    assert rig.lane.report(replicas[0]) == (0.0, 0.0)


class TestAgain:
    async def test_what_was_sent_before_goes_first_and_to_another_replica(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        first, second = rig.replica("r1"), rig.replica("r2")
        rig.ask(1), rig.ask(2)
        waiting = rig.ask(3)
        again = rig.lane.submit(request_of(4), clock.now + 10, avoid="r1")
        first.calls[0].reply()
        await settled()
        assert sent(first)[1:] == [[3]]  # r1 is free, but the one that avoids it waits for r2
        second.calls[0].reply()
        await settled()
        assert sent(second)[1:] == [[4]]
        first.calls[0].reply()
        second.calls[0].reply()
        assert [await outcome(pending) for pending in (waiting, again)] == [[6], [8]]

    async def test_without_another_replica_the_same_one_has_to_do(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.answering(name="r1")
        again = rig.lane.submit(request_of(4), clock.now + 10, avoid="r1")
        assert await outcome(again) == [8]
        assert again.replica_id == replica.replica_id

    async def test_what_failed_on_different_replicas_finds_its_way_to_each_others(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        first, second = rig.replica("r1"), rig.replica("r2")
        pending = [rig.lane.submit(request_of(n), clock.now + 10, avoid=avoid) for n, avoid in ((1, "r1"), (2, "r2"))]
        assert (sent(first), sent(second)) == ([[2]], [[1]])
        first.calls[0].reply()
        second.calls[0].reply()
        assert [await outcome(one) for one in pending] == [[2], [4]]

    async def test_it_can_be_given_up_like_any_other(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica("r1")
        rig.ask(1)
        again = rig.lane.submit(request_of(2), clock.now + 10, avoid="r1")
        assert rig.lane.waiting == 1
        again.answer.cancel()
        rig.lane.abandon(again)
        assert rig.lane.waiting == 0
        late = rig.lane.submit(request_of(3), clock.now + 1, avoid="r1")
        assert await outcome(late) is DeadlineExceeded
        replica.calls[0].reply()
        await settled()
        assert sent(replica) == [[1]]

    async def test_when_the_last_replica_goes_it_fails_too(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica("r1")
        rig.ask(1)
        again = rig.lane.submit(request_of(2), clock.now + 10, avoid="r1")
        replica.lose()
        assert await outcome(again) is ReplicaUnavailable

    async def test_the_halves_of_a_failed_batch_go_to_another_replica(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        bad, good = rig.replica("bad"), rig.replica("good")
        rig.ask(0), rig.ask(0)
        asked = [rig.ask(n) for n in (1, 2)]
        bad.calls[0].reply()
        await settled()
        assert sent(bad)[1:] == [[1, 2]]
        bad.calls[0].reply(ModelFailed("it always does"))
        await settled()
        assert len(sent(bad)) == 2
        for _ in range(3):
            for call in tuple(good.calls):
                call.reply()
            await settled()
        assert [await outcome(pending) for pending in asked] == [[2], [4]]


class TestTurns:
    async def test_of_replicas_with_the_same_load_the_one_that_rested_longest_comes_first(
        self, clock: FakeClock
    ) -> None:
        rig = Rig(clock)
        replicas = [rig.answering(name=f"r{n}") for n in range(3)]
        for n in range(6):
            await rig.ask(n).answer
        assert [sent(replica) for replica in replicas] == [[[0], [3]], [[1], [4]], [[2], [5]]]

    async def test_one_whose_time_is_over_while_others_are_served_hears_so(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        rig.ask(1)
        late = rig.ask(2, width=2, within=1)
        clock.advance(0.5)
        rig.ask(3)
        rig.lane._waiting.fresh.move_to_end(late)
        rig.lane._limits = LaneLimits(max_batch_rows=1)
        replica.calls[0].reply()
        await settled()
        assert await outcome(late) is QueueTimeout


def computed(work: Work, seconds: float) -> Answer:
    return Answer(doubled(work).outputs, (), seconds)


class TestHanging:
    async def test_one_that_fails_at_once_does_not_make_its_busy_sibling_seem_to_hang(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        good = rig.replica("good")
        pending = rig.ask(1)
        clock.advance(0.2)
        good.calls[0].reply()
        await pending.answer
        rig.ask(2)
        rig.answering(lambda _: Internal("broke"), "bad")
        assert {await outcome(rig.ask(3)) for _ in range(20)} == {Internal}
        clock.advance(0.3)
        assert rig.lane.has_other("bad")
        clock.advance(0.4)
        assert not rig.lane.has_other("bad")

    async def test_a_replica_that_answered_after_nobody_waited_any_more_does_not_hang(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        for _ in range(3):
            pending = rig.ask(1)
            clock.advance(0.01)
            replica.calls[0].reply()
            await pending.answer
        late = rig.ask(1, within=0.5)
        clock.advance(1.0)
        assert await outcome(late) is DeadlineExceeded
        assert not rig.lane.has_other(None)
        replica.calls[0].reply()
        await settled()
        assert rig.lane.has_other(None)
        rig.ask(2)
        assert rig.lane.has_other(None)
        clock.advance(1.0)
        assert not rig.lane.has_other(None)


class TestTimeForABatch:
    async def test_a_slow_models_batches_fit_the_time_that_its_requests_have(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        for _ in range(40):  # it learns: 10 ms a row
            pending = rig.ask(1)
            clock.advance(0.5)  # behind another gateway's work, which isn't the model's own time
            replica.calls[0].reply(computed(replica.calls[0].work, 0.01))
            await pending.answer
        rig.ask(0, within=100)
        for n in range(100):
            rig.ask(n, within=0.8)
        replica.calls[0].reply()
        await settled()
        assert len(replica.calls[0].values) == 5  # a sixteenth of 0.8 s

    async def test_a_request_larger_than_that_goes_alone(self, clock: FakeClock) -> None:
        rig = Rig(clock)
        replica = rig.replica()
        pending = rig.ask(1)
        replica.calls[0].reply(computed(replica.calls[0].work, 5.0))
        await pending.answer
        rig.ask(0)
        rig.ask(*range(5), within=0.5), rig.ask(1, within=0.5)
        replica.calls[0].reply()
        await settled()
        assert replica.calls[0].values == [0, 1, 2, 3, 4]


class TestEjection:
    @staticmethod
    def rig(clock: FakeClock) -> Rig:
        rig = Rig(clock)
        limits = EjectionLimits(min_calls=5, interval_s=2.0)
        rig.lane = Lane(
            "m@v1",
            DOUBLE,
            finite=True,
            limits=LaneLimits(),
            clock=clock,
            deadlines=Deadlines(clock),
            outliers=Outliers(limits, clock=clock),
        )
        return rig

    async def ask_all(self, rig: Rig, clock: FakeClock, count: int) -> list[list[float] | type[RequestError]]:
        outcomes = []
        for _ in range(count):
            outcomes.append(await outcome(rig.ask(1)))
            clock.advance(0.01)
        return outcomes

    async def test_a_replica_that_fails_where_its_sibling_does_not_gets_no_more(self, clock: FakeClock) -> None:
        rig = self.rig(clock)
        bad = rig.answering(lambda _: ModelFailed("broke"), "bad")
        rig.answering(name="good")
        await self.ask_all(rig, clock, 40)
        before = len(bad.sent)
        assert before < 25
        assert await self.ask_all(rig, clock, 20) == [[2]] * 20
        assert len(bad.sent) == before
        assert [entry.replica_id for entry in rig.lane.outliers.status() if entry.ejected] == ["bad"]

    async def test_with_nobody_else_an_ejected_replica_is_asked_all_the_same(self, clock: FakeClock) -> None:
        rig = self.rig(clock)
        bad = rig.answering(lambda _: ModelFailed("broke"), "bad")
        good = rig.answering(name="good")
        await self.ask_all(rig, clock, 40)
        good.lose()
        rig.lane.detach(good)
        before = len(bad.sent)
        assert await outcome(rig.ask(1)) is ModelFailed
        assert len(bad.sent) == before + 1

    async def test_a_connection_that_comes_back_does_not_wash_a_replica_clean(self, clock: FakeClock) -> None:
        rig = self.rig(clock)
        bad = rig.answering(lambda _: ModelFailed("broke"), "bad")
        rig.answering(name="good")
        await self.ask_all(rig, clock, 40)
        rig.lane.detach(bad)
        rig.lane.attach(bad)
        assert rig.lane.outliers.ejected("bad")
        rig.lane.detach(bad)
        rig.lane.forget("bad")
        rig.lane.attach(bad)
        assert not rig.lane.outliers.ejected("bad")

    async def test_its_replica_hears_how_long_it_has_been_out(self, clock: FakeClock) -> None:
        rig = self.rig(clock)
        bad = rig.answering(lambda _: ModelFailed("broke"), "bad")
        good = rig.answering(name="good")
        await self.ask_all(rig, clock, 40)
        clock.advance(0.5)
        assert rig.lane.report(bad).ejected_s >= 0.5
        assert rig.lane.report(good).ejected_s == 0.0

    async def test_what_expires_in_its_hands_counts_against_it(self, clock: FakeClock) -> None:
        rig = self.rig(clock)
        rig.replica("hung")
        rig.answering(name="good")
        hung = [rig.ask(1, within=0.1), rig.ask(1)]
        await outcome(hung[0])
        figures = {entry.replica_id: entry.bad for entry in rig.lane.outliers.status()}
        assert figures == {"good": 0, "hung": 1}
        hung[1].answer.cancel()
