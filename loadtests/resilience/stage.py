"""What a scenario works with: the system, load on it, the marks of its faults, and the waiting for recovery.

Not here: the scenarios themselves (`scenarios.py` lists them).
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.resilience.answers import Judge, Outputs, padded
from loadtests.resilience.client import encode
from loadtests.resilience.errors import RunError
from loadtests.resilience.figures import Check, Figures, Sample, figures, percentile, recovery
from loadtests.resilience.load import Load
from loadtests.resilience.redis import Redis, SlowProxy
from loadtests.resilience.schedule import Arrival, steady
from loadtests.resilience.system import HoldfastUnderTest, Replica

RATE = 100.0
REPEATED = range(200)
"""The inputs of the load: few enough to come again and again."""
CLIENT_TIMEOUT_S = 15.0
"""Far beyond every deadline: an answer that takes so long counts as none."""
_LOOK_S = 0.25
_SLACK_S = 240.0


@dataclass(frozen=True)
class Pace:
    """How long things take: a whole run, or the short one of the test suite, which may run on a busy machine."""

    seconds: float
    calm_s: float
    patience_s: float
    """A system that isn't back to normal so long after a fault never will be."""
    fast_s: float | None
    """An answer within that is fast again; None: within three times the p99 in calm, at least 100 ms."""
    replaced_s: float
    """From SIGKILL to a serving replacement."""
    unwedged_s: float
    """From a hang to a serving replacement."""
    goodput: float
    """Share of the peak that is answered in time under overload."""
    shed_s: float
    """p99 of the answers that say no."""
    quick_s: float
    """p99 of the answers that need no model."""
    mostly_fresh: float
    """More degraded answers mean that a fallback did what another replica should have done."""
    priority_gap: float
    """Under overload so much more of the high priority is answered than of the low one."""
    restarts: bool
    """Whether there is time to restart everything."""

    @staticmethod
    def full(seconds: float) -> "Pace":
        return Pace(
            seconds=seconds,
            calm_s=min(10.0, seconds / 4),
            patience_s=30.0,
            fast_s=None,
            replaced_s=3.0,
            unwedged_s=10.0,
            goodput=0.9,
            shed_s=0.020,
            quick_s=0.050,
            mostly_fresh=0.02,
            priority_gap=0.3,
            restarts=True,
        )

    @staticmethod
    def short(seconds: float) -> "Pace":
        return Pace(
            seconds=seconds,
            calm_s=1.5,
            patience_s=60.0,
            fast_s=1.0,
            replaced_s=60.0,
            unwedged_s=60.0,
            goodput=0.4,
            shed_s=1.0,
            quick_s=1.0,
            mostly_fresh=0.25,
            priority_gap=0.1,
            restarts=False,
        )


@dataclass
class Stage:
    """One scenario's run."""

    system: HoldfastUnderTest
    pace: Pace
    rng: random.Random
    documents: Sequence[bytes]
    known: Mapping[str, Sequence[Outputs]]
    redis: Redis | None = None
    proxy: SlowProxy | None = None
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    faults_s: list[float] = field(default_factory=list)
    hurt_from_s: float = float("inf")
    samples: list[Sample] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    _load: Load | None = None

    # Load

    @contextlib.asynccontextmanager
    async def traffic(
        self,
        model: str = "digits",
        *,
        stable: Sequence[str] = ("digits@v2",),
        images: Sequence[int] = REPEATED,
        rate: float = RATE,
        body_bytes: int = 0,
        headers: Mapping[str, str] | None = None,
        priorities: Sequence[int] = (0,),
    ) -> AsyncIterator[Load]:
        """Steady load from here to the end of the block. The first one's clock is the scenario's."""
        encode_arrival = self._encoder(model, images, body_bytes, headers or {}, priorities)
        judge = Judge(self.known, stable)
        load = Load(self.system.pool, judge, encode_arrival, timeout_s=CLIENT_TIMEOUT_S)
        offset_s = self.now_s
        if self._load is None:
            self._load = load
        arrivals = steady(rate, images=images, at_most_s=self.pace.seconds + _SLACK_S, priorities=priorities)
        task = asyncio.get_running_loop().create_task(load.run(arrivals))
        try:
            yield load
        finally:
            load.stop()
            await task
            self.samples += [sample._replace(due_s=sample.due_s + offset_s) for sample in load.samples]
            self.examples |= judge.examples

    def _encoder(
        self,
        model: str,
        images: Sequence[int],
        body_bytes: int,
        headers: Mapping[str, str],
        priorities: Sequence[int],
    ) -> Callable[[Arrival], bytes]:
        path = f"/v2/models/{model}/infer"
        requests: dict[tuple[int, int], bytes] = {}
        for image in images:
            document = self.documents[image]
            body = padded(document, body_bytes) if body_bytes else document
            for priority in set(priorities):
                more = {"x-request-priority": str(priority)} if priority else {}
                requests[image, priority] = encode("POST", path, body, {**headers, **more})
        return lambda arrival: requests[arrival.image, arrival.priority]

    # Time

    @property
    def now_s(self) -> float:
        return 0.0 if self._load is None else self._load.now_s

    async def calm(self) -> None:
        await asyncio.sleep(self.pace.calm_s)

    def hit(self, *, overcome: bool = True) -> None:
        """A fault happens now. `overcome`: all shall be as in calm again afterwards."""
        self.hurt_from_s = min(self.hurt_from_s, self.now_s)
        if overcome:
            self.faults_s.append(self.now_s)

    async def pause(self, least_s: float, most_s: float) -> None:
        """A while that the seed decides."""
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    async def rest(self) -> None:
        """Until the load has lasted as long as it shall."""
        await asyncio.sleep(max(0.0, self.pace.seconds - self.now_s))

    async def overcome(self) -> None:
        """Until all is as in calm after the last fault; in vain at most `patience_s` from now."""
        until_s = self.now_s + self.pace.patience_s
        while self.now_s < until_s:
            load = self._load
            assert load is not None
            recent = [sample for sample in load.samples if sample.end_s >= self.faults_s[-1]]
            if recovery(recent, self.faults_s[-1], fast_s=self.fast_s(load.samples)) is not None:
                return
            await asyncio.sleep(_LOOK_S)

    def fast_s(self, samples: Sequence[Sample]) -> float:
        if self.pace.fast_s is not None:
            return self.pace.fast_s
        calm = [sample.took_s for sample in samples if sample.due_s < self.hurt_from_s]
        return max(0.1, 3 * percentile(calm, 0.99)) if calm else 0.1

    # Faults

    async def fault(self, version: str, replica: str = "all", **fault: Any) -> list[dict[str, Any]]:
        """Tell replicas to misbehave. Raises `RunError` if none of those that are meant obeys."""
        model, _, name = version.partition("@")
        document = {"model": model, "version": name, "replica": replica, "fault": fault}
        entries: list[dict[str, Any]] = await self.system.ask("POST", "/v2/holdfast/faults", document)
        if not any(entry["meant"] and entry["answered"] for entry in entries):
            raise RunError(f"no replica of {version} obeyed {fault}: {entries}")
        return entries

    async def pardon(self) -> None:
        await self.system.ask("DELETE", "/v2/holdfast/faults")

    async def some_replica(self, version: str) -> Replica:
        found = await self.system.replicas(version)
        if not found:
            raise RunError(f"no replica of {version} is there")
        return self.rng.choice(found)

    async def replaced(self, version: str, gone: Sequence[Replica], *, count: int) -> float:
        """Seconds until so many replicas live and none of those is one that is gone."""
        ids = {replica.id for replica in gone}

        async def fresh() -> bool:
            found = {replica.id for replica in await self.system.replicas(version)}
            return len(found) == count and not found & ids

        what = f"{count} replicas of {version}, none of them {', '.join(sorted(ids))}"
        return await self.system.until(fresh, what, within_s=self.pace.patience_s)

    # What was seen

    def note(self, text: str) -> None:
        self.notes.append(text)

    def check(self, held: bool, text: str) -> None:
        self.checks.append(Check(held, text))

    def within(self, what: str, seconds: float, bound_s: float) -> None:
        """Note a time, and hold it to its bound."""
        self.note(f"{what} after {seconds:.1f} s")
        self.check(seconds <= bound_s, f"{what} only after {seconds:.1f} s, not within {bound_s:g} s")

    def figures(self) -> Figures:
        return figures(
            self.samples,
            hurt_from_s=self.hurt_from_s,
            faults_s=self.faults_s,
            fast_s=self.fast_s(self.samples),
        )
