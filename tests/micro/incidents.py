"""CPU time that incidents and the look at values add to a request: run it, it prints a table. It judges nothing.

`python -m tests.micro.incidents [--requests N] [--rounds N]`. The same requests go, in turns, through pipelines that
differ in one thing: without an observer, with one that keeps incidents, and with one and a range for the input's
values. Good requests first; then an outage, in which every one fails. A fake replica answers in the loop's next turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import uvloop

from models.quality import InputQuality
from serving.channel.work import Answer, Work
from serving.clock import SystemClock
from serving.errors import ModelFailed, RequestError
from serving.incidents.keeper import Keeper, Privacy
from serving.incidents.redaction import Redaction
from serving.incidents.store import IncidentStore
from serving.metrics import LATENCY_BUCKETS_S
from serving.request.lane import LaneLimits
from serving.request.pipeline import InferCall, Pipeline
from serving.request.quality import QualityCounts, QualityGate
from serving.request.record import RequestRecorder
from serving.settings import IncidentSettings
from tests.fakes import attempts_of
from tests.micro.gateway_path import BODY, DEFAULTS, SIGNATURE, NextTurnReplica, OnePlan, added_us, lane_to, plan_of

CALL = InferCall("mlp", None, BODY)
QUALITY = (InputQuality(input="x", min=0, max=1),)


class FailingReplica(NextTurnReplica):
    """Fails every batch when the loop comes round."""

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self.outstanding += 1
        loop.call_soon(self._fail, future)
        return future

    def _fail(self, future: asyncio.Future[Answer]) -> None:
        self.outstanding -= 1
        future.set_exception(ModelFailed("the model raised"))
        assert self.lane is not None
        self.lane.pump()


def pipeline(replica: NextTurnReplica, keeper: Keeper | None, *, quality: bool, outage: bool) -> Pipeline:
    clock = SystemClock()
    # An outage without batches: one that fails is taken apart, which costs most.
    lane = lane_to(replica, LaneLimits(max_batch_rows=1) if outage else DEFAULTS)
    plan = plan_of(lane, clock)
    if outage:  # an open breaker would answer instead of the model
        assert plan.served is not None
        plan = plan._replace(served=plan.served._replace(attempts=attempts_of(lane, clock)))
    if quality:
        gate = QualityGate(QUALITY, SIGNATURE, counts=QualityCounts(), rejects=False)
        plan = plan._replace(quality=gate)
    return Pipeline(OnePlan(plan), RequestRecorder(LATENCY_BUCKETS_S), clock=clock, observer=keeper)


@contextlib.contextmanager
def keeping() -> Iterator[Keeper]:
    settings = IncidentSettings()
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(
            IncidentStore(Path(folder), max_bytes=settings.max_bytes, max_number=settings.max_number),
            settings,
            privacy=lambda _model: Privacy(),
            rollout_of=lambda _model: "",
            redaction=Redaction(None),
            clock=SystemClock(),
            random=random.random,
        )
        keeper.start()
        yield keeper
        keeper.close(within_s=10.0)


async def cpu_us(way: Pipeline, callers: int, requests: int) -> float:
    """CPU microseconds per request, other threads' included."""

    async def call(count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(RequestError):
                await way.infer(CALL)

    started = time.process_time()
    await asyncio.gather(*(call(requests // callers) for _ in range(callers)))
    return (time.process_time() - started) / (requests // callers * callers) * 1e6


def report(title: str, make: Callable[[], NextTurnReplica], *, outage: bool, requests: int, rounds: int) -> None:
    print(f"{title:14}  callers  off us/request  incidents +us  incidents and values +us")
    for callers in (1, 32, 128):
        with keeping() as keeper:
            ways = [
                pipeline(make(), None, quality=False, outage=outage),
                pipeline(make(), keeper, quality=False, outage=outage),
                pipeline(make(), keeper, quality=True, outage=outage),
            ]
            runs = [partial(cpu_us, way, callers) for way in ways]
            off, kept, both = uvloop.run(added_us(runs, requests=requests, rounds=rounds))
        print(f"{'':14}  {callers:7d}  {off:14.1f}  {kept:13.2f}  {both:24.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    report("good requests", NextTurnReplica, outage=False, requests=args.requests, rounds=args.rounds)
    report("an outage", FailingReplica, outage=True, requests=args.requests, rounds=args.rounds)


if __name__ == "__main__":
    main()
