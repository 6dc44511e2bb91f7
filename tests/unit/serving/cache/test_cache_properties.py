"""Whatever happens in whatever order, a recalled answer is one that may be given, and the store stays in its bounds.

What happens: answers of several models and versions, written soon or late; clocks that jump; versions taken back;
bytes torn and mixed up in both tiers; evictions; a Redis that comes and goes; restarts.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.inference import Tensor, Tensors
from serving.cache.redis_tier import RedisTier
from serving.cache.store import DATA_FILE, LmdbStore, Row
from serving.cache.tiers import Hit, PredictionCache
from tests.fakes import WALL, FakeClock, settled
from tests.unit.serving.cache.test_tiers import MemoryRedis, redis_tier, write

T = TypeVar("T")

MAX_BYTES = 1 << 20
MODELS = ("digits", "digits-lite")
VERSIONS = ("v1", "v2", "v3")
INPUTS = (0, 1, 2)
ANSWERS = st.tuples(st.sampled_from(MODELS), st.sampled_from(VERSIONS), st.sampled_from(INPUTS))
Damage = tuple[str, int, int]
DAMAGE = st.tuples(st.sampled_from(["changed", "cut", "longer"]), st.integers(0, 1000), st.integers(1, 255))


class JumpingClock(FakeClock):
    """Its wall clock can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def wall(self) -> float:
        return WALL + self.now + self.offset


class Given(dict[float, tuple[str, int, str, float]]):
    """Every answer that was ever remembered, by its one output value: model, input, version, and when."""


def tensor(name: str, value: float) -> Tensors:
    return (Tensor(name, "FP64", np.array([[value]])),)


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="hf-cache-"))
        self.clock = JumpingClock()
        self.redis = MemoryRedis()
        self.given = Given()
        self.withdrawn: set[str] = set()
        self.open()

    def open(self) -> None:
        self.store = LmdbStore(self.folder, max_bytes=MAX_BYTES, rewrite_after_s=0.0)
        self.tier: RedisTier = redis_tier(self.redis, self.clock)
        self.cache = PredictionCache(self.store, self.tier, clock=self.clock, queue_max=5)
        self.offered: list[Row] = []
        self.cache._writer._on_written = self.offered.extend

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        async def with_redis() -> T:
            self.tier.offer(self.offered)
            self.offered.clear()
            await settled()
            return await main

        return asyncio.run(with_redis())

    # What happens

    @rule(answers=st.lists(ANSWERS, min_size=1, max_size=8), soon=st.booleans())
    def answers_are_remembered(self, answers: list[tuple[str, str, int]], soon: bool) -> None:
        for model, version, number in answers:
            answer = float(len(self.given))
            self.given[answer] = (model, number, version, self.clock.wall())
            self.cache.remember(
                model=model,
                signature_digest="s",
                version=version,
                version_digest=version,
                inputs=tensor("x", number),
                outputs=tensor("y", answer),
            )
            if soon:
                write(self.cache)

    @rule()
    def write(self) -> None:
        write(self.cache)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.floats(-50, 50))
    def the_wall_clock_jumps(self, seconds: float) -> None:
        self.clock.offset += seconds

    @rule(version=st.sampled_from(VERSIONS), back=st.booleans())
    def a_version_is_taken_back(self, version: str, back: bool) -> None:
        if back:
            self.withdrawn.add(version)
        else:
            self.withdrawn.discard(version)

    @rule(which=st.integers(0, 1000), damage=DAMAGE)
    def bytes_are_torn_on_the_node(self, which: int, damage: Damage) -> None:
        with self.store._env.begin(write=True) as txn:
            rows = list(txn.cursor(self.store._rows))
            if rows:
                place, row = rows[which % len(rows)]
                txn.put(place, torn(row, damage), db=self.store._rows)

    @rule(which=st.integers(0, 1000), other=st.integers(0, 1000))
    def rows_are_mixed_up_on_the_node(self, which: int, other: int) -> None:
        with self.store._env.begin(write=True) as txn:
            places = list(txn.cursor(self.store._index))
            if places:
                txn.put(places[which % len(places)][0], places[other % len(places)][1], db=self.store._index)

    @precondition(lambda self: self.redis.values)
    @rule(which=st.integers(0, 1000), other=st.integers(0, 1000), damage=st.none() | DAMAGE)
    def redis_has_something_else(self, which: int, other: int, damage: Damage | None) -> None:
        names = sorted(self.redis.values)
        value = self.redis.values[names[other % len(names)]]
        self.redis.values[names[which % len(names)]] = value if damage is None else torn(value, damage)

    @rule(down=st.booleans())
    def redis_comes_or_goes(self, down: bool) -> None:
        self.redis.down = down

    @rule(size=st.sampled_from([100, 3000, 30_000]), count=st.integers(1, 30))
    def others_fill_the_store(self, size: int, count: int) -> None:
        wall = self.clock.wall()
        rows = [Row(bytes([number, 1] * 16), wall, "v1", bytes(size)) for number in range(count)]
        self.store.put_many(rows, now_wall=wall)

    @rule()
    def everything_is_started_again(self) -> None:
        self.run(self.cache.close())
        self.open()

    # What must be so

    @rule(max_stale_s=st.sampled_from([0.0, 5.0, 60.0]))
    def everything_is_recalled(self, max_stale_s: float) -> None:
        for model in MODELS:
            for number in INPUTS:
                hit = self.run(self.cache.recall(**self.question(model, number, max_stale_s), timeout_s=1.0))
                self.check(hit, model, number, max_stale_s)

    @invariant()
    def what_the_node_has_may_be_given(self) -> None:
        for model in MODELS:
            for number in INPUTS:
                hit = self.cache.recall_here(**self.question(model, number, 20.0))
                self.check(hit, model, number, 20.0)

    def question(self, model: str, number: int, max_stale_s: float) -> dict[str, Any]:
        return {
            "model": model,
            "signature_digest": "s",
            "inputs": tensor("x", number),
            "max_stale_s": max_stale_s,
            "withdrawn": self.withdrawn.__contains__,
        }

    def check(self, hit: Hit | None, model: str, number: int, max_stale_s: float) -> None:
        if hit is None:
            return
        whose, asked, version, wall = self.given[float(hit.outputs[0].array[0, 0])]
        assert (whose, asked) == (model, number), "an answer to another question"
        assert version not in self.withdrawn
        assert (hit.model, hit.version, hit.version_digest) == (model, version, version)
        assert hit.stored_wall == wall
        assert 0 <= hit.age_s <= max_stale_s
        assert hit.age_s == self.clock.wall() - wall

    @invariant()
    def the_store_stays_in_its_bounds(self) -> None:
        assert (self.folder / DATA_FILE).stat().st_size <= MAX_BYTES
        assert self.cache.stats().waiting <= 5

    def teardown(self) -> None:
        self.run(self.cache.close())
        shutil.rmtree(self.folder)


def torn(raw: bytes, damage: Damage) -> bytes:
    """``raw`` with one byte changed, cut short, or longer."""
    how, where, bits = damage
    place = where % max(len(raw), 1)
    if how == "changed" and raw:
        return raw[:place] + bytes([raw[place] ^ bits]) + raw[place + 1 :]
    return raw + bytes(place + 1) if how == "longer" else raw[:place]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
