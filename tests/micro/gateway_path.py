"""CPU time of a gateway per request, everything real but sockets and the model: run it, it prints a table.

`python -m tests.micro.gateway_path [--requests N]`. The HTTP connection, routes, pipeline, lane, join, split and codec
are the gateway's own; a fake replica answers every batch in the loop's next turn. Not a test: it judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import uvloop

from models.inference import Tensor
from models.signature import Signature, TensorSpec
from serving.channel.busy_poll import BusyPoll
from serving.channel.work import Answer, Work
from serving.clock import SystemClock
from serving.ingress.connection import Connection
from serving.ingress.routes import Routes
from serving.metrics import LATENCY_BUCKETS_S
from serving.model_settings import ModelSettings
from serving.protocol.decode import RequestDecoder
from serving.request.admission import Admission, admission_limits
from serving.request.attempts import Attempts, retry_limits
from serving.request.breaker import Breaker, breaker_limits
from serving.request.budget import RetryBudget
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.lane import Lane, LaneLimits
from serving.request.outlier import EjectionLimits
from serving.request.pipeline import Observer, Pipeline, Plan, ServedVersion
from serving.request.record import RequestRecorder
from serving.tracing.context import RequestContexts

DEFAULTS = LaneLimits()
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("probabilities", "FP32", (-1, 10)),), True)
NUMBERS = ",".join(f"{number:.4f}" for number in np.random.default_rng(0).random(64))
BODY = f'{{"inputs":[{{"name":"x","shape":[1,64],"datatype":"FP32","data":[{NUMBERS}]}}]}}'.encode()
REQUEST = (
    b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class NextTurnReplica:
    """Answers every batch when the loop comes round."""

    replica_id = "fake"
    live = True

    def __init__(self) -> None:
        self.outstanding = 0
        self.batches = 0
        self.lane: Lane | None = None

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self.outstanding += 1
        self.batches += 1
        loop.call_soon(self._answer, future, sum(work.rows))
        return future

    def _answer(self, future: asyncio.Future[Answer], rows: int) -> None:
        self.outstanding -= 1
        future.set_result(Answer((Tensor("probabilities", "FP32", np.full((rows, 10), 0.1, dtype="f4")),)))
        assert self.lane is not None
        self.lane.pump()

    def forget(self, answer: asyncio.Future[Answer], item: int) -> None: ...

    async def close(self) -> None: ...


class Client:
    """A connection's transport and its client in one: every answer is followed by the next request."""

    def __init__(self, count: list[int], done: asyncio.Event) -> None:
        self._count = count
        self._done = done
        self.connection: Connection | None = None

    def write(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 200"), data
        self._count[0] -= 1
        if self._count[0] > 0:
            asyncio.get_running_loop().call_soon(self.send)
        else:
            self._done.set()

    def is_closing(self) -> bool:
        return False

    def send(self) -> None:
        assert self.connection is not None
        self.connection.data_received(REQUEST)


class Host:
    body_max_bytes = 1 << 20
    closing = False
    under_way = 0
    date_header = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"

    def __init__(self, routes: Routes) -> None:
        self.answer = routes.answer
        self.busy_poll = BusyPoll(SystemClock(), limit_s=0.0)
        self.paths: dict[bytes, str] = {}

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class OnePlan:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def route(self, model: str, version: str | None) -> Plan:
        return self._plan


def plan_of(lane: Lane, clock: SystemClock) -> Plan:
    """All protection on, as the settings have it when they say nothing."""
    settings = ModelSettings(name="mlp", versions=("v1",))
    breaker = Breaker(lane.name, breaker_limits(settings.breaker, timeout_s=10), clock=clock, random=random.random)
    attempts = Attempts(
        lane,
        breaker,
        limits=retry_limits(settings.retry),
        budget=RetryBudget(settings.retry.budget_ratio, settings.retry.budget_max),
        clock=clock,
        random=random.random,
    )
    served = ServedVersion("mlp", "v1", "mlp@v1", "sha256:0", lane, attempts)
    admission = Admission("mlp", admission_limits(settings), clock=clock, deadlines=Deadlines(clock))
    return Plan(("mlp", "v1"), served, RequestDecoder("mlp", SIGNATURE), 10.0, admission)


def lane_to(replica: NextTurnReplica, limits: LaneLimits = DEFAULTS) -> Lane:
    clock = SystemClock()
    lane = Lane(
        "mlp@v1",
        SIGNATURE,
        finite=True,
        limits=limits,
        clock=clock,
        deadlines=Deadlines(clock),
        outliers=Outliers(EjectionLimits(), clock=clock),
    )
    replica.lane = lane
    lane.attach(replica)
    return lane


def routes_to(lane: Lane, contexts: RequestContexts, observer: Observer | None = None) -> Routes:
    clock = SystemClock()
    plan = OnePlan(plan_of(lane, clock))
    pipeline = Pipeline(plan, RequestRecorder(LATENCY_BUCKETS_S), clock=clock, observer=observer)
    information: Any = None
    return Routes(pipeline, information, contexts=contexts)


async def cpu_us(routes: Routes, connections: int, requests: int) -> float:
    """CPU microseconds per request, other threads' included."""
    host = Host(routes)
    count, done = [requests], asyncio.Event()
    clients = [Client(count, done) for _ in range(connections)]
    for client in clients:
        client.connection = Connection(host)
        client.connection.connection_made(client)  # type: ignore[arg-type]
    started = time.process_time()
    for client in clients:
        client.send()
    await done.wait()
    return (time.process_time() - started) / requests * 1e6


async def added_us(ways: Sequence[Callable[[int], Awaitable[float]]], *, requests: int, rounds: int) -> list[float]:
    """What each way costs for so many requests, in turns: the first one's median, and for each other one that of its
    difference to the first in the same round."""
    for way in ways:
        await way(requests // 4)
    rows = [[await way(requests) for way in ways] for _ in range(rounds)]
    first = statistics.median(row[0] for row in rows)
    return [first, *(statistics.median(row[at] - row[0] for row in rows) for at in range(1, len(ways)))]


async def measure(connections: int, requests: int) -> tuple[float, float]:
    """CPU microseconds per request, and requests per batch."""
    replica = NextTurnReplica()
    routes = routes_to(lane_to(replica), RequestContexts("micro"))
    took_us = await cpu_us(routes, connections, requests)
    return took_us, requests / replica.batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--profile", action="store_true", help="where the time goes, at 32 connections")
    args = parser.parse_args()
    if args.profile:
        profile = cProfile.Profile()
        profile.enable()
        uvloop.run(measure(32, args.requests))
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return
    print("connections  CPU us/request  requests/batch")
    for connections in (1, 32, 128):
        runs = sorted(uvloop.run(measure(connections, args.requests)) for _ in range(5))
        print(f"{connections:11d}  {runs[2][0]:14.1f}  {runs[2][1]:14.1f}")


if __name__ == "__main__":
    main()
