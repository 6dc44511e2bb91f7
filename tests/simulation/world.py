"""A whole gateway with everything around it made up: time, chance, replicas and callers all come from one seed.

The gateway, its lanes, breakers, ejection, admission, retries and fallback chains are the real ones. Replicas answer,
fail, lie, hang, slow down, die and come back; callers come in bursts, give up, send nonsense and name versions. In some
worlds ``m@v3`` is rolled out beside ``m@v2``: its weight grows, and in the end it is promoted or taken back.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from models.inference import Tensor, Tensors
from models.registry import Registry
from serving.cache.tiers import Hit
from serving.channel.address import Address
from serving.channel.watchers import ReplicaProcess
from serving.channel.work import Answer, Work
from serving.errors import ModelFailed, ReplicaLost, RequestError
from serving.gateway import Gateway
from serving.model_settings import (
    AdmissionSettings,
    BreakerSettings,
    Fallback,
    ModelSettings,
    RetrySettings,
    UseCache,
    UseModel,
    UsePriorVersion,
    UseStatic,
)
from serving.request.lane import Lane
from serving.request.pipeline import InferCall, Origin, Pipeline
from serving.routing.outcomes import SplitOutcomes
from serving.routing.table import EMPTY, RoutingTable, Split
from serving.settings import Settings
from tests.fakes import FakeClock, publish_version

FACTORS = {"m@v2": 2.0, "m@v1": 3.0, "lite@v1": 5.0, "m@v3": 7.0}
"""What each version multiplies its input with, so that an answer tells who gave it."""
STATIC = -1.0


class SimReplica:
    """A replica of one version, with a fault that changes as time passes."""

    def __init__(self, world: World, lane: Lane, name: str, number: int) -> None:
        self.replica_id = f"{name}#{number}"
        self.live = True
        self.fault = "none"
        self._world = world
        self._lane = lane
        self._factor = FACTORS[name]
        self._work: dict[asyncio.Future[Answer], asyncio.TimerHandle] = {}

    @property
    def outstanding(self) -> int:
        return len(self._work)

    def submit(self, work: Work) -> asyncio.Future[Answer]:
        world = self._world
        assert self.live, "work for a replica that isn't live"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        takes_s = world.rng.uniform(0.001, 0.02) * (20 if self.fault == "slow" else 1)
        if self.fault == "hang":
            takes_s = 1e6
        self._work[answer] = loop.call_later(takes_s, self._finish, answer, work)
        answer.add_done_callback(self._cancelled)
        return answer

    def forget(self, answer: asyncio.Future[Answer], item: int) -> None: ...

    def _cancelled(self, answer: asyncio.Future[Answer]) -> None:
        if (timer := self._work.pop(answer, None)) is not None:
            timer.cancel()
            self._lane.pump()

    def _finish(self, answer: asyncio.Future[Answer], work: Work) -> None:
        del self._work[answer]
        if not answer.done():
            outcome = self._outcome(work)
            if isinstance(outcome, RequestError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        self._lane.pump()

    def _outcome(self, work: Work) -> Answer | RequestError:
        """What a replica does: drop what is too late, run the rest, and whatever its fault makes of that."""
        now = self._world.clock.now
        dropped = tuple([index for index, deadline in enumerate(work.deadlines) if deadline <= now])
        keep = np.repeat([index not in dropped for index in range(len(work.rows))], work.rows)
        x = work.inputs[0].array[keep]
        if not len(x):
            return Answer((), dropped)
        chance = self._world.rng.random()
        if self.fault == "fail" and chance < 0.7:
            return ModelFailed("it broke")
        if (x[:, 0] < 0).any():
            return ModelFailed("a negative number")
        y = x * np.float32(self._factor)
        if self.fault == "nan" and chance < 0.6:
            y[self._world.rng.randrange(len(y))] = np.nan
        if self.fault == "shape" and chance < 0.6:
            y = y[:, :1]
        return Answer((Tensor("y", "FP32", y),), dropped)

    def die(self) -> None:
        self.live = False
        work, self._work = self._work, {}
        for answer, timer in work.items():
            timer.cancel()
            if not answer.done():
                answer.set_exception(ReplicaLost(f"{self.replica_id} died"))
        self._lane.detach(self)
        self._lane.forget(self.replica_id)

    async def close(self) -> None:
        if self.live:
            self.die()


class SimLink:
    """What Serve knows of a version: the world's replicas are given to the lane directly."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    async def call(self, frame: bytes) -> bytes:
        raise ReplicaLost("no handle here")

    def watch(self, on_replicas: Callable[[Mapping[str, Address]], None]) -> None:
        lane: Lane = on_replicas.__self__._lane  # type: ignore[attr-defined]
        self._world.lanes[self._name] = lane
        for _ in range(self._world.replicas_of[self._name]):
            self._world.spawn(self._name)

    def available(self) -> bool:
        return False

    def processes(self) -> Mapping[str, ReplicaProcess]:
        return {}

    async def tell_all(self, method: str, raw: bytes, *, within_s: float) -> list[bytes]:
        return []

    def close(self) -> None: ...


class SimCache:
    """A ``PredictionCache`` without the stores."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: dict[tuple[str, bytes], tuple[str, str, Tensors, float]] = {}

    def remember(
        self, *, model: str, signature_digest: str, version: str, version_digest: str, inputs: Tensors, outputs: Tensors
    ) -> None:
        self._kept[model, inputs[0].array.tobytes()] = (version, version_digest, outputs, self._world.clock.now)

    def recall_here(
        self,
        *,
        model: str,
        signature_digest: str,
        inputs: Tensors,
        max_stale_s: float,
        withdrawn: Callable[[str], bool],
    ) -> Hit | None:
        kept = self._kept.get((model, inputs[0].array.tobytes()))
        if kept is None:
            return None
        version, digest, outputs, at = kept
        age_s = self._world.clock.now - at
        if age_s > max_stale_s or withdrawn(digest):
            return None
        return Hit(model, version, digest, at, outputs, age_s, "node")

    async def recall(self, *, timeout_s: float, **question: Any) -> Hit | None:
        await asyncio.sleep(min(timeout_s, self._world.rng.uniform(0, 0.002)))
        return self.recall_here(**question)


@dataclass
class Caller:
    """One request and what its caller saw."""

    model: str
    version: str | None
    values: list[float]
    timeout_us: int
    priority: int
    sent: float
    sticky_key: str | None = None
    nonsense: bool = False
    ended: float = 0.0
    outcome: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None
    error: RequestError | None = None


@dataclass(frozen=True)
class Reign:
    """Which versions of ``m`` answer unpinned requests from a moment on."""

    since: float
    stable: str
    canary: str | None
    epoch: str
    weight: float


class Records:
    """A ``Recorder`` that keeps everything."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def record(self, key: tuple[str, str], outcome: str, *, seconds: float, origin: Origin | None = None) -> None:
        self.outcomes.append(outcome)


class World:
    """Everything, from one seed."""

    def __init__(self, seed: int, clock: FakeClock, registry: Registry) -> None:
        self.rng = random.Random(seed)
        self.clock = clock
        self.lanes: dict[str, Lane] = {}
        self.replicas: dict[str, list[SimReplica]] = {name: [] for name in FACTORS}
        self.replicas_of = {
            "m@v2": self.rng.choice((1, 2, 3)),
            "m@v1": 1,
            "lite@v1": 1,
            "m@v3": self.rng.choice((1, 2)),
        }
        self.records = Records()
        self.callers: list[Caller] = []
        self._spawned = 0
        self.rollout = self.rng.choice(("", "", "steps", "grows"))
        """Whether v3 is rolled out, to some end, or only gets more and more."""
        self.names = [name for name in FACTORS if self.rollout or name != "m@v3"]
        self.canary_is_bad = self.rng.random() < 0.7
        self.calm = self.rollout == "grows" or (self.rollout == "steps" and self.rng.random() < 0.5)
        """Nothing but the canary ever fails, and everybody has time."""
        self.versions_move = not self.calm and self.rng.random() < 0.2
        self.reigns: list[Reign] = []
        self.collected: dict[str, SplitOutcomes] = {}
        self.withdrawn_at: float | None = None
        self.settings = self._settings()
        self.gateway = Gateway(
            self.settings,
            link=self._link,
            read_manifest=registry.manifest,
            clock=clock,
            cache=SimCache(self),  # type: ignore[arg-type]  # behaves like one
            random=self.rng.random,
        )
        self._registry = registry
        self._table = EMPTY
        self._pipeline = Pipeline(self.gateway, self.records, clock=clock)

    def _settings(self) -> Settings:
        rng = self.rng
        chain: list[Fallback] = [
            UsePriorVersion(version="v1"),
            UseModel(model="lite"),
            UseCache(max_stale_s=rng.choice((0.5, 60.0))),
            UseStatic(outputs={"y": [STATIC, STATIC]}),
        ]
        rng.shuffle(chain)
        model = ModelSettings(
            name="m",
            versions=("v1", "v2"),
            stable="v2",
            fallback=tuple(chain[: rng.randrange(5)]),
            retry=RetrySettings(enabled=rng.random() < 0.9, hedge=rng.random() < 0.3, budget_ratio=0.2),
            breaker=BreakerSettings(min_calls=rng.choice((3, 20)), open_s=rng.choice((0.2, 1.0))),
            admission=AdmissionSettings(limit_min=rng.choice((1, 4, 16)), limit_max=rng.choice((16, 64))),
            max_batch_rows=rng.choice((1, 4, 64)),
            max_waiting=rng.choice((2, 4096)),
        )
        if self.calm:
            admission = AdmissionSettings(limit_min=512, limit_max=512)
            model = msgspec.structs.replace(model, admission=admission, max_batch_rows=64, max_waiting=4096)
        return Settings(models=(model, ModelSettings(name="lite", versions=("v1",))))

    async def _link(self, model: str, version: str) -> SimLink:
        return SimLink(self, f"{model}@{version}")

    def spawn(self, name: str) -> None:
        model, version = name.split("@")
        if version not in self._table.models[model].versions:
            return  # nobody starts replicas of what isn't deployed
        self._spawned += 1
        replica = SimReplica(self, self.lanes[name], name, self._spawned)
        self.replicas[name].append(replica)
        self.lanes[name].attach(replica)

    async def live(self, *, requests: int, seconds: float) -> None:
        """Callers call and replicas break for so long; then everything is well again, until nothing is under way."""
        table = self._table
        for name in self.names:
            model, version = name.split("@")
            table = table.with_version(model, version, self._registry.manifest(model, version).digest, stable=True)
        table = table.with_version("m", "v2", self._registry.manifest("m", "v2").digest, stable=True)
        if self.rollout == "grows":
            table = table.with_split("m", self._split("r1", self.rng.uniform(0.0, 0.3)))
        await self._publish(table)
        loop = asyncio.get_running_loop()
        trouble = [loop.create_task(self._trouble(name, seconds)) for name in self.names if self._may_break(name)]
        if self.versions_move:
            trouble.append(loop.create_task(self._move_versions(seconds)))
        if self.rollout:
            trouble.append(loop.create_task(self._roll_out(seconds)))
        burst = not self.calm and self.rng.random() < 0.3
        calls = [loop.create_task(self._call(self.rng.uniform(0, 0.05 if burst else seconds))) for _ in range(requests)]
        await asyncio.gather(*trouble, *calls)
        self._collect()

    def _may_break(self, name: str) -> bool:
        return self.canary_is_bad if name == "m@v3" else not self.calm

    async def _publish(self, table: RoutingTable) -> None:
        self._table = table
        route = table.models["m"]
        canary = route.split
        reign = Reign(
            self.clock.now,
            route.stable,
            None if canary is None else canary.version,
            "" if canary is None else canary.epoch,
            0.0 if canary is None else canary.weight,
        )
        self.reigns.append(reign)
        self._collect()
        await self.gateway.apply(table)

    def _collect(self) -> None:
        if (outcomes := self.gateway.collect_outcomes("m")) is not None:
            self.collected[outcomes.epoch] = outcomes

    def reigns_within(self, start: float, end: float) -> list[Reign]:
        """Those that a request which came and ended in this time may have met."""
        ends = [*(reign.since for reign in self.reigns[1:]), float("inf")]
        return [
            reign
            for reign, until in zip(self.reigns, ends, strict=True)
            if reign.since <= end + 0.001 and until >= start - 0.001
        ]

    def _split(self, epoch: str, weight: float) -> Split:
        return Split(version="v3", weight=weight, epoch=epoch, objective_s=self.rng.choice((None, 0.015)))

    async def _roll_out(self, seconds: float) -> None:
        """v3 gets more and more; then it is promoted or taken back, and perhaps there is another rollout of it."""
        for epoch in ("r1",) if self.rollout == "grows" else ("r1", "r2"):
            for weight in sorted(self.rng.choice((0.05, 0.25, 0.5, 0.9, 1.0)) for _ in range(4)):
                await asyncio.sleep(self.rng.uniform(0, seconds / 6))
                route = self._table.models["m"]
                if route.stable == "v3" or "v3" not in route.versions:
                    return
                before = route.split.weight if route.split is not None else 0.0
                await self._publish(self._table.with_split("m", self._split(epoch, max(weight, before))))
            if self.rollout == "steps":
                await asyncio.sleep(self.rng.uniform(0, seconds / 6))
                await self._end_rollout()

    async def _end_rollout(self) -> None:
        table = self._table
        promote = not (self.calm and self.canary_is_bad) and self.rng.random() < 0.3
        if table.models["m"].stable == "v3":
            return
        if promote:
            await self._publish(table.with_stable("m", "v3"))
        elif self.rng.random() < 0.5:
            await self._publish(table.with_split("m", None))
        else:
            self.withdrawn_at = self.clock.now
            await self._publish(table.without_version("m", "v3", reason="it was bad", withdraw=True))
            for replica in self.replicas["m@v3"]:
                if replica.live:
                    replica.die()

    async def _move_versions(self, seconds: float) -> None:
        """Now and then v2 leaves the table and its replicas end, or it comes back with new ones."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            await asyncio.sleep(self.rng.uniform(0.1, 1.0))
            if "v2" in self._table.models["m"].versions:
                await self._publish(self._table.without_version("m", "v2"))
                for replica in self.replicas["m@v2"]:
                    if replica.live:
                        replica.die()
            else:
                digest = self._registry.manifest("m", "v2").digest
                await self._publish(self._table.with_version("m", "v2", digest, stable=True))

    async def _trouble(self, name: str, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            await asyncio.sleep(self.rng.expovariate(2.0 / seconds))
            await self._hurt(name)
        for replica in self.replicas[name]:
            if replica.fault == "hang":
                replica.die()  # the watchdog
        self.replicas[name] = [replica for replica in self.replicas[name] if replica.live]

    async def _hurt(self, name: str) -> None:
        replicas = [replica for replica in self.replicas[name] if replica.live]
        kind = self.rng.choice(("die", "all die", "fail", "nan", "shape", "slow", "hang", "none", "none"))
        if kind == "all die":
            for replica in replicas:
                replica.die()
            await asyncio.sleep(self.rng.uniform(0.05, 1.0))
            for _ in replicas:
                self.spawn(name)
        elif replicas:
            replica = self.rng.choice(replicas)
            if kind == "die":
                replica.die()
                await asyncio.sleep(self.rng.uniform(0.05, 1.0))
                self.spawn(name)
            elif replica.fault == "hang":
                replica.die()
                self.spawn(name)
            else:
                replica.fault = kind

    async def _call(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        rng = self.rng
        values = [float(rng.randrange(1, 6)) for _ in range(rng.choice((1, 1, 1, 3)))]
        if rng.random() < 0.03 and not self.calm:
            values[0] = -1.0
        caller = Caller(
            model=rng.choice(("m", "m", "m", "m", "lite")),
            version=None,
            values=values,
            timeout_us=int(rng.choice((1e6, 3e6) if self.calm else (30e3, 200e3, 1e6, 3e6))),
            priority=rng.choice((0, 1, 2, 3)),
            sent=self.clock.now,
            sticky_key=f"user {rng.randrange(9)}" if rng.random() < 0.7 else None,
            nonsense=rng.random() < 0.05,
        )
        if caller.model == "m" and rng.random() < 0.1:
            caller.version = rng.choice(("v1", "v2", "v3") if self.rollout else ("v1", "v2"))
        self.callers.append(caller)
        task = asyncio.get_running_loop().create_task(self._ask(caller))
        if rng.random() < 0.1:
            await asyncio.wait((task,), timeout=rng.uniform(0, 0.1))
            task.cancel()
        await asyncio.wait((task,))
        caller.ended = self.clock.now
        if task.cancelled():
            caller.outcome = "cancelled"
        else:
            task.result()

    async def _ask(self, caller: Caller) -> None:
        data = [[value, value] for value in caller.values]
        tensor = {"name": "z" if caller.nonsense else "x", "shape": [len(data), 2], "datatype": "FP32", "data": data}
        parameters: dict[str, Any] = {"timeout": caller.timeout_us, "priority": caller.priority}
        if caller.sticky_key is not None:
            parameters["sticky_key"] = caller.sticky_key
        body = {"inputs": [tensor], "parameters": parameters}
        try:
            reply = await self._pipeline.infer(InferCall(caller.model, caller.version, json.dumps(body).encode()))
        except RequestError as error:
            caller.outcome, caller.error = error.code, error
        else:
            caller.outcome = "answered"
            caller.body = json.loads(reply.body.body)
            caller.origin = reply.given.origin


def make_store(folder: Path) -> Registry:
    """The versions that the world serves; their artifacts never run."""
    registry = Registry(folder)
    for name in FACTORS:
        model, version = name.split("@")
        publish_version(registry, model, version, name.encode(), deterministic=True)
    return registry
