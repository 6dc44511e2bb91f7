"""CPU time that request ids, log lines and traces add to a request: run it, it prints a table. It judges nothing.

`python -m tests.micro.tracing [--requests N] [--rounds N]`. The same requests go, in turns, through gateways that
differ in one thing: nameless requests; ids and the log's observer, as a gateway is without `tracing`; and with it, at
several ratios, the spans made by OpenTelemetry's SDK and thrown away instead of being sent. All threads' time counts.
HTTP connection, routes, pipeline and lane are the gateway's own; a fake replica answers in the loop's next turn.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import uvloop
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from serving.clock import SystemClock
from serving.ingress.routes import Routes
from serving.request.pipeline import Observer
from serving.tracing.context import Header, RequestContext, RequestContexts
from serving.tracing.export import NO_ROOM, SpanExport
from serving.tracing.observers import Observers
from serving.tracing.otlp import OtlpCollector
from serving.tracing.request_log import RequestLog
from serving.tracing.sampling import ParentBased
from tests.micro.gateway_path import NextTurnReplica, added_us, cpu_us, lane_to, routes_to

RATIOS = (0.0, 0.01, 0.1, 1.0)


class _Nameless(RequestContext):
    def headers(self) -> list[Header]:
        return []


class Nameless(RequestContexts):
    """Gives all requests the same context, which says nothing."""

    def begin(self, headers: Mapping[bytes, bytes]) -> RequestContext:
        return NOBODY


NOBODY = _Nameless("", named=True, traceparent=None, trace=None)


class Thrown(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Way(NamedTuple):
    routes: Routes
    export: SpanExport | None


def way(contexts: RequestContexts, observers: Sequence[Observer], export: SpanExport | None = None) -> Way:
    observer = Observers(observers) if observers else None
    return Way(routes_to(lane_to(NextTurnReplica()), contexts, observer), export)


def traced(ratio: float) -> Way:
    clock = SystemClock()
    bits = random.getrandbits
    export = SpanExport(
        lambda: OtlpCollector(Thrown(), resource={}, random_bits=bits),
        rollout_of=lambda _: "",
        quotable=lambda _: True,
        clock=clock,
    )
    sampler = ParentBased(
        ratio, max_per_s=1e6, one_too_many=lambda: None, clock=clock, random=random.random, random_bits=bits
    )
    return way(RequestContexts("micro", sampler), [lines(), export], export)


def lines() -> RequestLog:
    return RequestLog(
        logging.getLogger("holdfast.requests"),
        share=0.0,
        quotable=lambda _: True,
        rollout_of=lambda _: "",
        clock=SystemClock(),
        random=random.random,
    )


@contextlib.contextmanager
def running(ways: Sequence[Way]) -> Iterator[None]:
    exports = [found.export for found in ways if found.export is not None]
    for export in exports:
        export.start()
    yield
    for export in exports:
        export.close(within_s=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    titles = [f"ratio {ratio:g} +us" for ratio in RATIOS]
    print("connections  nameless us/request  ids and log +us  " + "  ".join(titles) + "  (not sent for want of room)")
    for connections in (1, 32, 128):
        ways = [way(Nameless(""), []), way(RequestContexts("micro"), [lines()]), *map(traced, RATIOS)]
        with running(ways):
            runs = [partial(cpu_us, way.routes, connections) for way in ways]
            found = uvloop.run(added_us(runs, requests=args.requests, rounds=args.rounds))
        dropped = [found.export.stats.dropped[NO_ROOM] for found in ways if found.export is not None]
        figures = "  ".join(f"{figure:{len(title)}.2f}" for figure, title in zip(found[2:], titles, strict=True))
        print(f"{connections:11d}  {found[0]:19.1f}  {found[1]:15.2f}  {figures}  {dropped}")


if __name__ == "__main__":
    main()
