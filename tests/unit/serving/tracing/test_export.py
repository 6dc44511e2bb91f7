"""Spans are sent off the way of requests: what has no room, or no collector, is dropped and counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest

from serving.errors import ModelFailed
from serving.request.pipeline import Ended, InferCall
from serving.tracing.export import BATCH, NO_ROOM, QUEUE_MAX, UNSENT, Collector, SpanExport
from serving.tracing.spans import Finished
from tests.fakes import FakeClock
from tests.traced import contexts
from tests.unit.serving.incidents.conftest import ended


class FakeCollector:
    """Says of every request that it had three spans. While it ``hangs``, ``send`` waits until it is closed."""

    def __init__(self) -> None:
        self.batches: list[list[Finished]] = []
        self.gone = False
        self.hangs = False
        self.closed = threading.Event()
        self.asked = threading.Event()

    def send(self, requests: Sequence[Finished]) -> int:
        self.asked.set()
        if self.hangs:
            self.closed.wait(10)
        if self.gone or self.hangs:
            raise ConnectionRefusedError("nobody listens")
        self.batches.append(list(requests))
        return 3 * len(requests)

    def close(self) -> None:
        self.closed.set()


class Rig:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.collector = FakeCollector()
        self.connected = 0
        self.export = SpanExport(
            self._connect, rollout_of=lambda _: "m-1", quotable=lambda _: True, clock=clock, computed_s=lambda: 0.0
        )

    def _connect(self) -> Collector:
        self.connected += 1
        return self.collector

    def hear(self, number: int = 1, *, sampled: bool = True) -> None:
        for _ in range(number):
            context = contexts(self.clock, ratio=float(sampled)).begin({})
            self.export.ended(ended(call=InferCall("m", None, b"{}", context=context)))


@pytest.fixture
def rig(clock: FakeClock) -> Rig:
    return Rig(clock)


def test_what_was_sampled_is_sent_in_batches(rig: Rig) -> None:
    rig.hear(BATCH + 1)
    assert [rig.export.send_waiting() for _ in range(3)] == [BATCH, 1, 0]
    assert [len(batch) for batch in rig.collector.batches] == [BATCH, 1]
    assert (rig.export.stats.spans, sum(rig.export.stats.dropped.values())) == (3 * (BATCH + 1), 0)
    assert rig.connected == 1


def test_what_was_not_sampled_or_has_no_context_is_not(rig: Rig) -> None:
    rig.hear(sampled=False)
    rig.export.ended(ended())
    assert rig.export.of_good(ended().call) is None
    assert (rig.export.waiting, rig.export.send_waiting()) == (0, 0)
    assert rig.connected == 0


def test_what_waits_is_bounded(rig: Rig) -> None:
    rig.hear(QUEUE_MAX + 7)
    assert rig.export.waiting == QUEUE_MAX
    assert rig.export.stats.dropped == {NO_ROOM: 7}


def test_a_collector_that_is_gone_is_told_of_once_and_so_is_its_return(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "holdfast.tracing")
    rig.collector.gone = True
    for _ in range(3):
        rig.hear(2)
        rig.export.send_waiting()
    assert rig.export.stats.dropped == {UNSENT: 6}
    rig.collector.gone = False
    rig.hear(2)
    rig.export.send_waiting()
    assert rig.export.stats.spans == 6
    assert [record.getMessage() for record in caplog.records] == [
        "traces can't be sent: ConnectionRefusedError: nobody listens",
        "traces can be sent again",
    ]


def test_what_waits_keeps_no_tensor_and_no_exception_alive(rig: Rig) -> None:
    context = contexts(rig.clock, ratio=1.0).begin({})
    request = ended(ModelFailed("it broke"), call=InferCall("m", None, b"{}", context=context))
    rig.export.ended(request)
    rig.export.send_waiting()
    ((kept,),) = rig.collector.batches
    assert kept.error == "it broke"
    held = [kept, *kept, *kept.attributes.values()]
    assert not any(isinstance(part, Ended | Exception) for part in held)


def test_a_defect_harms_no_request(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    context = contexts(rig.clock, ratio=1.0).begin({})
    broken = ended(call=InferCall("m", None, b"{}", context=context), request="no request")
    rig.export.ended(broken)
    rig.export.ended(broken)
    assert rig.export.stats.dropped == {UNSENT: 2}
    assert [record.getMessage() for record in caplog.records] == ["a request couldn't be traced"]


def test_at_the_end_what_waits_is_sent(rig: Rig) -> None:
    rig.export.start()
    rig.hear(BATCH + 1)
    assert rig.export.close(within_s=5.0)
    assert rig.export.stats.spans == 3 * (BATCH + 1)
    assert rig.collector.closed.is_set()
    rig.hear()
    assert +rig.export.stats.dropped == {NO_ROOM: 1}


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(rig: Rig) -> None:
    rig.collector.hangs = True
    rig.export.start()
    rig.hear(BATCH + 1)
    assert rig.collector.asked.wait(5.0)
    rig.hear(QUEUE_MAX)
    rig.clock.advance(60)
    assert rig.export.close(within_s=0.0)
    assert rig.export.waiting == 0
    assert sum(rig.export.stats.dropped.values()) == QUEUE_MAX + BATCH + 1
