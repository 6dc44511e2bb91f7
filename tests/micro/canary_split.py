"""CPU time that a canary adds to a request: run it, it prints a table. Not a test: it judges nothing.

`python -m tests.micro.canary_split [--requests N] [--rounds N] [--weight W]`. The same requests go, in turns, through
the whole pipeline without a canary and with a split in force: thrown at random, by a sticky key (another one for each
request), and by a sticky key while the weight is 0. The last is the throw alone: with a weight some requests go into
batches of their own, and smaller batches cost more each. A fake replica answers in the loop's next turn.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Sequence

import uvloop

from serving.clock import SystemClock
from serving.metrics import LATENCY_BUCKETS_S
from serving.request.canary import Throws
from serving.request.deadline import Deadlines
from serving.request.ejection import Outliers
from serving.request.lane import Lane, LaneLimits
from serving.request.outlier import EjectionLimits
from serving.request.pipeline import Canary, InferCall, Pipeline, Plan
from serving.request.record import RequestRecorder
from serving.routing.outcomes import Ledger
from serving.routing.table import Split
from tests.micro.gateway_path import BODY, SIGNATURE, OnePlan, plan_of
from tests.micro.protection import answered

KEYLESS = (InferCall("mlp", None, BODY),)
KEYED = tuple(InferCall("mlp", None, BODY, sticky_key=b"user-%d" % number) for number in range(4096))


class Way:
    """A pipeline, and the calls that go through it one after the other."""

    def __init__(self, name: str, calls: Sequence[InferCall], split: Split | None) -> None:
        self.name = name
        self.calls = calls
        self.ledger = Ledger("rollout-1", "v2", "v1")
        clock = SystemClock()
        plan = lane_plan("mlp@v1", clock)
        if split is not None:
            plan = plan._replace(canary=self._canary(split, clock))
        self.pipeline = Pipeline(OnePlan(plan), RequestRecorder(LATENCY_BUCKETS_S), clock=clock)

    def _canary(self, split: Split, clock: SystemClock) -> Canary:
        served = lane_plan("mlp@v2", clock).served
        assert served is not None
        throws = Throws(split, served.attempts, self.ledger, generation=1, clock=clock, random=random.random)
        return Canary(served._replace(version="v2", name="mlp@v2"), throws, alone=False)

    @property
    def canary_share(self) -> float:
        """What the canary really got of the requests that were thrown."""
        rows = self.ledger.counts()
        canary = sum(row.canary.attempts for row in rows)
        return canary / max(1, canary + sum(row.stable.attempts for row in rows))


def lane_plan(name: str, clock: SystemClock) -> Plan:
    lane = Lane(
        name,
        SIGNATURE,
        finite=True,
        limits=LaneLimits(),
        clock=clock,
        deadlines=Deadlines(clock),
        outliers=Outliers(EjectionLimits(), clock=clock),
    )
    return plan_of(answered(lane), clock)


async def cpu_us(way: Way, *, callers: int, requests: int) -> float:
    """CPU microseconds per request, when so many callers each send one after the other."""
    each = requests // callers
    infer, calls, count = way.pipeline.infer, way.calls, len(way.calls)

    async def call(first: int) -> None:
        for number in range(first, first + each):
            await infer(calls[number % count])

    started = time.process_time()
    await asyncio.gather(*(call(caller * each) for caller in range(callers)))
    return (time.process_time() - started) / (each * callers) * 1e6


def ways(weight: float) -> list[Way]:
    """The first of each pair of names is what the others are compared with: a key costs something by itself."""

    def split(weight: float, *, sticky: bool) -> Split:
        return Split(version="v2", weight=weight, epoch="rollout-1", stickiness="key" if sticky else "random")

    return [
        Way("no canary", KEYLESS, None),
        Way("random", KEYLESS, split(weight, sticky=False)),
        Way("no canary, key sent", KEYED, None),
        Way("sticky", KEYED, split(weight, sticky=True)),
        Way("sticky, weight 0", KEYED, split(0.0, sticky=True)),
    ]


COMPARED = ((1, 0), (3, 2), (4, 2))


async def measure(callers: int, *, requests: int, rounds: int, weight: float) -> list[tuple[str, float, float, float]]:
    """Of each split: its name, the median without it, the median of what it adds within a round, the canary's share."""
    measured = ways(weight)
    for way in measured:
        await cpu_us(way, callers=callers, requests=requests // 4)
    taken = [[await cpu_us(way, callers=callers, requests=requests) for way in measured] for _ in range(rounds)]
    return [
        (
            measured[split].name,
            statistics.median(row[plain] for row in taken),
            statistics.median(row[split] - row[plain] for row in taken),
            measured[split].canary_share,
        )
        for split, plain in COMPARED
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--weight", type=float, default=0.05)
    args = parser.parse_args()
    print("callers  split               without us/request  added us/request  canary's share")
    for callers in (1, 32, 128):
        rows = uvloop.run(measure(callers, requests=args.requests, rounds=args.rounds, weight=args.weight))
        for name, plain, added, share in rows:
            print(f"{callers:7d}  {name:18s}  {plain:18.1f}  {added:16.1f}  {share:14.3f}")


if __name__ == "__main__":
    main()
