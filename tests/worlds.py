"""A ``World`` that does what a test says, and writes down what it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.errors import RolloutRefused
from serving.rollout.desired import DesiredState
from serving.rollout.spec import RolloutSpec
from serving.rollout.standing import standing
from serving.rollout.world import Look, Told
from serving.routing.collected import Asked, Collected

ALL = Told(7, 2, 2)


class FakeWorld:
    """Everything works at once, unless ``failures`` has something by the name of a method, once for each call."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.begun: list[DesiredState | None] = []
        self.failures: dict[str, list[Exception]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        """By what is done, as ``done`` has it: it waits there."""
        self.told: list[Told] = []
        """What the next arrangements come to; ``ALL`` after that."""
        self.stable_version = "v1"
        self.gateways = 2
        self.answers: Sequence[Collected] = ()
        self.asked: list[Asked] = []
        self.broken = ""

    def begin(self, desired: DesiredState | None) -> None:
        self.begun.append(desired)

    def stable(self, model: str) -> str:
        if not self.stable_version:
            raise RolloutRefused(f"model '{model}' isn't served")
        return self.stable_version

    async def check(self, spec: RolloutSpec, prior: str) -> None:
        self._fail("check")

    async def deploy(self, spec: RolloutSpec, prior: str) -> None:
        await self._do("deploy", f"deploy {spec.version}")

    async def arrange(self, look: Look) -> Told:
        where = standing(look())
        weight = 0 if where.split is None else round(100 * where.split.weight)
        await self._do("arrange", f"{where.stable} {weight}")
        return self.told.pop(0) if self.told else ALL

    async def remove(self, look: Look, version: str) -> None:
        await self._do("remove", f"remove {version}")

    async def collect(self, asked: Asked) -> tuple[int, Sequence[Collected]]:
        self.asked.append(asked)
        self._fail("collect")
        return self.gateways, self.answers

    def breakdown(self, spec: RolloutSpec) -> str:
        self._fail("breakdown")
        return self.broken

    def forget(self, spec: RolloutSpec) -> None:
        self.done.append(f"forget {spec.version}")

    def _fail(self, what: str) -> None:
        if self.failures.get(what):
            raise self.failures[what].pop(0)

    async def _do(self, method: str, what: str) -> None:
        self.done.append(what)
        self._fail(method)
        if (gate := self.gates.get(what)) is not None:
            await gate.wait()
