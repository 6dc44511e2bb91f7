"""Requests that no model can answer, and models that answer none: breakers have to tell the one from the other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from models.inference import Tensor
from models.registry import Registry
from serving.channel.work import Answer, Work
from serving.errors import ModelFailed, ReplicaLost, RequestError
from serving.gateway import Gateway
from serving.model_settings import ModelSettings, UseModel, UsePriorVersion, UseStatic
from serving.request.breaker import Breaker
from serving.request.pipeline import InferCall, Pipeline
from serving.routing.table import EMPTY
from serving.settings import Settings
from tests.fakes import AnsweringReplica, FakeClock, FakeLink, doubled, publish_version, run
from tests.unit.serving.request.test_pipeline import Records

SEEDS: Final = 20
NAMES: Final = ("m@v2", "m@v1", "lite@v1")
"""In the order in which they are asked; behind them is a static answer."""
MIN_CALLS: Final = 20
"""Of the breakers, by default."""
PROBED: Final = 15
"""A request that was a probe of the one before counts for nothing."""


class House:
    """A gateway with a chain of three models. ``ill`` says how a model fails at everything, if it does."""

    def __init__(self, seed: int, clock: FakeClock, store: Registry) -> None:
        self.rng = random.Random(seed)
        self.clock = clock
        self.ill: dict[str, str] = {}
        self.asked = dict.fromkeys(NAMES, 0)
        chain = (UsePriorVersion(version="v1"), UseModel(model="lite"), UseStatic(outputs={"y": [0, 0]}))
        model = ModelSettings(name="m", versions=("v1", "v2"), stable="v2", fallback=chain)
        self.gateway = Gateway(
            Settings(models=(model, ModelSettings(name="lite", versions=("v1",)))),
            link=self._link,
            read_manifest=store.manifest,
            clock=clock,
            random=self.rng.random,
        )
        self.store = store
        self.pipeline = Pipeline(self.gateway, Records(), clock=clock)

    async def _link(self, model: str, version: str) -> FakeLink:
        return FakeLink(self.clock, replicas=0)

    async def open(self) -> None:
        table = EMPTY
        for name in NAMES:
            model, version = name.split("@")
            digest = self.store.manifest(model, version).digest
            table = table.with_version(model, version, digest, stable=name == "m@v2")
        await self.gateway.apply(table)
        for name in NAMES:
            lane = self.gateway.version(*name.split("@")).lane
            for number in range(self.rng.choice((1, 2))):
                replica = AnsweringReplica(self._model(name), f"{name}#{number}", on_change=lane.pump)
                lane.attach(replica)

    def _model(self, name: str) -> Callable[[Work], Answer | RequestError]:
        def model(work: Work) -> Answer | RequestError:
            self.asked[name] += 1
            poison = bool((work.inputs[0].array < 0).any())
            how = self.ill.get(name) or (self.rng.choice(("fails", "nan")) if poison else "")
            if how == "dies":
                return ReplicaLost("it died")
            if how == "fails":
                return ModelFailed("it broke")
            if how == "nan":
                return Answer((Tensor("y", "FP32", np.full(work.inputs[0].array.shape, np.nan, np.float32)),))
            return doubled(work)

        return model

    def breaker(self, name: str) -> Breaker:
        return self.gateway.version(*name.split("@")).served.attempts.breaker

    def opened(self) -> list[str]:
        """Whose breaker has ever opened."""
        return [name for name in NAMES if self.breaker(name).status().opened]

    async def ask(self, value: float) -> str:
        """Who answered."""
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [value, value]}
        given = (await self.pipeline.infer(InferCall("m", None, json.dumps({"inputs": [tensor]}).encode()))).given
        await self.clock_goes_on()
        return f"{given.model}@{given.version}"

    async def clock_goes_on(self) -> None:
        self.clock.now += self.rng.uniform(0.0, 0.03)

    async def mixed(self, requests: int, *, poison: float) -> set[str]:
        """So many requests, of which a share is poison; who answered the good ones."""
        answered = set()
        for _ in range(requests):
            if self.rng.random() < poison:
                assert await self.ask(-1.0) == "m@static", "nothing but the static answer can stand in for poison"
            else:
                answered.add(await self.ask(1.0))
        return answered


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry(Path(tmp_path_factory.mktemp("store")))
    for name in NAMES:
        model, version = name.split("@")
        publish_version(registry, model, version, name.encode())
    return registry


def test_poison_opens_no_breaker_and_who_stands_behind_is_there_when_it_is_needed(store: Registry) -> None:
    async def live(house: House) -> None:
        await house.open()
        poison = house.rng.uniform(0.02, 0.12)
        assert await house.mixed(200, poison=poison) == {"m@v2"}
        assert house.opened() == []
        house.ill["m@v2"] = "dies"
        assert await house.mixed(200, poison=poison) == {"m@v1"}
        assert house.opened() == ["m@v2"], "poison is among the good ones now where v1 sees it, and alone behind it"
        house.ill["m@v1"] = "dies"
        assert await house.mixed(100, poison=poison) == {"lite@v1"}
        await house.gateway.close()

    for seed in range(SEEDS):
        clock = FakeClock()
        run(live(House(seed, clock, store)), clock)


@pytest.mark.parametrize("how", ["fails", "nan", "dies"])
def test_where_all_models_are_ill_all_breakers_open_one_after_the_other(store: Registry, how: str) -> None:
    async def live(house: House) -> None:
        await house.open()
        house.ill = dict.fromkeys(NAMES, how)
        for _ in range(len(NAMES) * MIN_CALLS + PROBED):
            assert await house.ask(1.0) == "m@static"
        assert house.opened() == list(NAMES)
        house.asked = dict.fromkeys(NAMES, 0)
        for _ in range(100):
            await house.ask(1.0)
        assert max(house.asked.values()) <= 15, "nobody goes on asking them, but for probes"
        await house.gateway.close()

    for seed in range(SEEDS):
        clock = FakeClock()
        run(live(House(seed, clock, store)), clock)
