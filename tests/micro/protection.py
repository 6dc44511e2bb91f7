"""CPU time that all protection adds to a request: run it, it prints a table. Not a test: it judges nothing.

`python -m tests.micro.protection [--requests N] [--rounds N]`. The same requests go, in turns, through the whole
pipeline (routing, deadline, priority, admission, breaker, retry shell, ejection, check, record) and through what is
left without any of that: decode, the lane with its batches, encode. A fake replica answers in the loop's next turn.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
import time
from typing import Any

import uvloop

from models.signature import Signature
from serving.clock import SystemClock
from serving.metrics import LATENCY_BUCKETS_S
from serving.protocol.decode import RequestDecoder
from serving.protocol.encode import encode_infer
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.lane import Lane, LaneLimits
from serving.request.outlier import EjectionLimits
from serving.request.pipeline import Given, InferCall, Pipeline, Reply, _response
from serving.request.record import RequestRecorder
from tests.micro.gateway_path import BODY, SIGNATURE, NextTurnReplica, OnePlan, plan_of

CALL = InferCall("mlp", None, BODY)


class Trusting(Signature, frozen=True):
    """Finds no fault with any answer."""

    def answer_fault(self, outputs: Any, rows: int) -> str | None:
        return None


class Nothing:
    """Stands in for deadlines and ejection where there are none."""

    any_ejected = False

    def watch(self, entry: Any) -> None: ...

    def forget(self, entry: Any) -> None: ...

    def joined(self, replica_id: str) -> None: ...

    def observed(self, replica_id: str, *, good: int, bad: int, seconds: float) -> None: ...


class Bare:
    """Decodes, asks the lane, encodes."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._decoder = RequestDecoder("mlp", SIGNATURE)

    async def infer(self, call: InferCall) -> Reply:
        request = self._decoder.decode(call.body, version=call.version)
        outputs = await self._lane.submit(request, math.inf).answer
        given = Given(outputs, "mlp", "v1")
        return Reply(encode_infer(_response(given, request), request), given)


def bare() -> Bare:
    nothing: Any = Nothing()
    trusting = Trusting(SIGNATURE.inputs, SIGNATURE.outputs, SIGNATURE.batched)
    lane = Lane(
        "mlp@v1",
        trusting,
        finite=False,
        limits=LaneLimits(),
        clock=SystemClock(),
        deadlines=nothing,
        outliers=nothing,
    )
    return Bare(answered(lane))


def protected() -> Pipeline:
    clock = SystemClock()
    lane = Lane(
        "mlp@v1",
        SIGNATURE,
        finite=True,
        limits=LaneLimits(),
        clock=clock,
        deadlines=Deadlines(clock),
        outliers=Outliers(EjectionLimits(), clock=clock),
    )
    return Pipeline(OnePlan(plan_of(answered(lane), clock)), RequestRecorder(LATENCY_BUCKETS_S), clock=clock)


def answered(lane: Lane) -> Lane:
    replica = NextTurnReplica()
    replica.lane = lane
    lane.attach(replica)
    return lane


async def cpu_us(pipeline: Pipeline | Bare, *, callers: int, requests: int) -> float:
    """CPU microseconds per request, when so many callers each send one after the other."""

    async def call(count: int) -> None:
        for _ in range(count):
            await pipeline.infer(CALL)

    started = time.process_time()
    await asyncio.gather(*(call(requests // callers) for _ in range(callers)))
    return (time.process_time() - started) / (requests // callers * callers) * 1e6


async def measure(callers: int, *, requests: int, rounds: int) -> tuple[float, float, float]:
    """Medians of the bare way, the protected way, and the difference of each round."""
    ways = bare(), protected()
    for way in ways:
        await cpu_us(way, callers=callers, requests=requests // 4)
    pairs = [
        (
            await cpu_us(ways[0], callers=callers, requests=requests),
            await cpu_us(ways[1], callers=callers, requests=requests),
        )
        for _ in range(rounds)
    ]
    return (
        statistics.median(plain for plain, _ in pairs),
        statistics.median(full for _, full in pairs),
        statistics.median(full - plain for plain, full in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    print("callers  bare us/request  protected us/request  added us/request")
    for callers in (1, 32, 128):
        plain, full, added = uvloop.run(measure(callers, requests=args.requests, rounds=args.rounds))
        print(f"{callers:7d}  {plain:15.1f}  {full:20.1f}  {added:16.1f}")


if __name__ == "__main__":
    main()
