"""Spans on the wire: what the fake collector reads of a request is what happened to it."""

from __future__ import annotations

import random
import socket
import time

import pytest

from serving.errors import ModelFailed
from serving.settings import TracingSettings
from serving.tracing.export import Collector, SpanExport
from serving.tracing.otlp import NotSent, traces_url
from serving.tracing.setup import connected
from tests.fakes import FakeClock
from tests.otlp import collecting
from tests.traced import PARENT, Traced
from tests.unit.serving.request.test_fall_back import Standby

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


def connection(endpoint: str, timeout_s: float = 5.0) -> Collector:
    own = TracingSettings(endpoint=endpoint, service_name="reef", timeout_s=timeout_s)
    return connected(own, version="1.2.3", random_bits=random.getrandbits)


async def test_a_collector_reads_the_tree_as_it_is(clock: FakeClock) -> None:
    traced = Traced(clock, Standby("static"))
    traced.rig.answering(traced.rig.stable, ModelFailed("broke"))
    await traced.ask(headers={b"traceparent": PARENT, b"tracestate": b"vendor=x, other@v=y"})
    with collecting() as collector:
        out = connection(collector.endpoint)
        assert out.send([traced.finished]) == 6
        out.close()
    root, *others = collector.spans
    assert (root.name, root.parent_id, root.kind) == ("POST /v2/models/{model}/infer", CALLER, 2)
    assert [span.name for span in others] == ["decode", "admit", "attempt", "fallback", "encode"]
    assert {span.parent_id for span in others} == {root.span_id}
    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert {span.state for span in collector.spans} == {"vendor=x,other@v=y"}
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    assert root.attributes["holdfast.degraded_reason"] == "model_failed"
    assert root.attributes["http.response.status_code"] == 200
    assert root.resource["service.name"] == "reef"
    assert root.resource["service.version"] == "1.2.3"
    attempt = next(span for span in collector.spans if span.name == "attempt")
    assert (attempt.status, attempt.message, attempt.kind) == (2, "model_failed", 3)
    assert root.began == pytest.approx(clock.wall() * 1e9, abs=1e6)
    assert all(span.began <= span.ended for span in collector.spans)


async def test_a_request_without_a_caller_that_traces_has_a_root_of_its_own(clock: FakeClock) -> None:
    traced = Traced(clock, ratio=1.0)
    traced.rig.answering(traced.rig.stable)
    await traced.ask(headers={})
    with collecting() as collector:
        out = connection(collector.endpoint)
        out.send([traced.finished])
        out.close()
    root = collector.spans[0]
    assert (root.parent_id, root.trace_id, root.span_id) == ("", f"{1:032x}", f"{1:016x}")


async def test_a_collector_that_refuses_or_is_gone_is_an_error(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.rig.answering(traced.rig.stable)
    await traced.ask()
    with collecting() as collector:
        collector.refusing = True
        out = connection(collector.endpoint)
        with pytest.raises(NotSent):
            out.send([traced.finished])
        collector.refusing = False
        assert out.send([traced.finished]) == 6
        assert len(collector.spans) == 6  # what was refused isn't sent again
        out.close()
    gone = connection(collector.endpoint, timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(NotSent):
        gone.send([traced.finished])
    assert time.monotonic() - began < 5
    gone.close()


async def test_a_collector_that_takes_connections_and_says_nothing_ends_with_its_timeout(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.rig.answering(traced.rig.stable)
    await traced.ask()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        out = connection(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises((NotSent, OSError)):
            out.send([traced.finished])
        assert time.monotonic() - began < 5
        out.close()


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp/traces", "https://c/otlp/traces"),
    ],
)
def test_an_endpoint_without_a_path_gets_the_one_of_traces(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


async def test_from_the_request_to_the_collector(clock: FakeClock) -> None:
    traced = Traced(clock)
    traced.rig.answering(traced.rig.stable)
    await traced.ask()
    with collecting() as collector:
        export = SpanExport(
            lambda: connection(collector.endpoint), rollout_of=lambda _: "", quotable=lambda _: True, clock=clock
        )
        export.start()
        export.ended(traced.seen.all[0])
        assert export.close(within_s=10.0)
    assert export.stats.spans == len(collector.trace(TRACE)) == 6
