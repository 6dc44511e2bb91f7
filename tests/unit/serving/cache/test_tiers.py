"""What is recalled was remembered: of this model, for these inputs, not too old, of no version that was taken back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from models.inference import Tensor, Tensors
from serving.cache import tiers
from serving.cache.key import cache_key
from serving.cache.redis_tier import RedisTier
from serving.cache.store import LmdbStore, Row
from serving.cache.tiers import HASH_HERE_BYTES, Hit, PredictionCache
from tests.fakes import FakeClock
from tests.redis_server import FakeBreaker

OpenLmdb = Callable[..., LmdbStore]

ROOT = Path(__file__).parents[4]


class MemoryRedis:
    """The part of a Redis client that the tier uses; ``down`` makes it raise as the real one does."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.down = False
        self.asked = 0
        self.takes_s = 0.0
        self.closed = False

    async def get(self, name: str) -> bytes | None:
        self.asked += 1
        if self.down:
            raise ConnectionError("refused")
        return self.values.get(name)

    def pipeline(self, *, transaction: bool) -> MemoryPipeline:
        return MemoryPipeline(self)

    async def aclose(self) -> None:
        self.closed = True


class MemoryPipeline:
    def __init__(self, redis: MemoryRedis) -> None:
        self._redis = redis
        self._sets: dict[str, bytes] = {}
        self._count = 0

    def set(self, name: str, value: bytes, *, ex: int) -> None:
        self._sets[name] = value
        self._count += 1

    async def execute(self, *, raise_on_error: bool) -> list[bool]:
        await asyncio.sleep(self._redis.takes_s)
        if self._redis.down:
            raise ConnectionError("refused")
        self._redis.values |= self._sets
        return [True] * self._count


def redis_tier(client: MemoryRedis, clock: FakeClock) -> RedisTier:
    return RedisTier(
        cast("Any", client),
        breaker=FakeBreaker(),
        clock=clock,
        timeout_s=0.05,
        max_age_s=1000,
        max_inflight=8,
        queue_max_bytes=1 << 20,
    )


def x_of(value: float, *, width: int = 1) -> Tensors:
    return (Tensor("x", "FP32", np.full((1, width), value, np.float32)),)


def remember(cache: PredictionCache, value: float, answer: float, *, model: str = "m", version: str = "v1") -> None:
    cache.remember(
        model=model,
        signature_digest="s",
        version=version,
        version_digest=f"digest of {version}",
        inputs=x_of(value),
        outputs=(Tensor("y", "FP32", np.array([[answer]], np.float32)),),
    )


async def recall(
    cache: PredictionCache,
    value: float,
    *,
    model: str = "m",
    max_stale_s: float = 60.0,
    withdrawn: Callable[[str], bool] = lambda _: False,
) -> Hit | None:
    return await cache.recall(
        model=model,
        signature_digest="s",
        inputs=x_of(value),
        max_stale_s=max_stale_s,
        withdrawn=withdrawn,
        timeout_s=1.0,
    )


def answer_of(hit: Hit | None) -> float | None:
    return None if hit is None else float(hit.outputs[0].array[0, 0])


def write(cache: PredictionCache) -> None:
    """As the thread does it."""
    while cache._writer.write_waiting():
        pass


async def test_a_remembered_answer_is_recalled_with_its_age_and_whose_it_is(
    open_lmdb: OpenLmdb, clock: FakeClock
) -> None:
    cache = PredictionCache(open_lmdb(), None, clock=clock)
    remember(cache, 1.0, 10.0)
    write(cache)
    clock.advance(7.0)
    hit = await recall(cache, 1.0)
    assert hit is not None
    assert answer_of(hit) == 10.0
    assert (hit.model, hit.version, hit.version_digest, hit.tier) == ("m", "v1", "digest of v1", "node")
    assert hit.age_s == pytest.approx(7.0)
    assert hit.stored_wall == pytest.approx(clock.wall() - 7.0)
    assert await recall(cache, 2.0) is None
    assert await recall(cache, 1.0, model="other") is None
    stats = cache.stats()
    assert (stats.written, stats.hits_node, stats.misses, stats.entries) == (1, 1, 2, 1)
    assert stats.bytes > 0


async def test_recalling_here_asks_the_node_alone(open_lmdb: OpenLmdb, clock: FakeClock) -> None:
    redis = MemoryRedis()
    cache = PredictionCache(open_lmdb(), redis_tier(redis, clock), clock=clock)
    remember(cache, 1.0, 10.0)
    write(cache)

    def here(value: float, max_stale_s: float = 60.0) -> Hit | None:
        return cache.recall_here(
            model="m",
            signature_digest="s",
            inputs=x_of(value),
            max_stale_s=max_stale_s,
            withdrawn=lambda _: False,
        )

    assert answer_of(here(1.0)) == 10.0
    assert here(2.0) is None
    clock.advance(2.0)
    assert here(1.0, max_stale_s=1.0) is None
    assert redis.asked == 0
    assert (cache.stats().hits_node, cache.stats().misses, cache.stats().stale) == (1, 2, 1)


async def test_the_newest_answer_of_any_version_replaces_the_one_before(open_lmdb: OpenLmdb, clock: FakeClock) -> None:
    cache = PredictionCache(open_lmdb(), None, clock=clock)
    remember(cache, 1.0, 10.0)
    clock.advance(1.0)
    remember(cache, 1.0, 20.0, version="v2")
    write(cache)
    assert answer_of(await recall(cache, 1.0)) == 20.0
    assert await recall(cache, 1.0, withdrawn=lambda digest: digest == "digest of v2") is None
    assert cache.stats().withdrawn == 1


async def test_redis_is_asked_when_the_node_has_nothing_that_may_be_given(
    open_lmdb: OpenLmdb, clock: FakeClock
) -> None:
    redis = MemoryRedis()
    here = PredictionCache(open_lmdb("here"), redis_tier(redis, clock), clock=clock)
    tier = redis_tier(redis, clock)
    there = PredictionCache(open_lmdb("there"), tier, clock=clock)
    there._to_redis = tier.offer  # type: ignore[method-assign]  # no thread, so no way back from it
    there._writer._on_written = tier.offer
    remember(here, 1.0, 10.0)
    write(here)
    clock.advance(100.0)
    remember(there, 1.0, 20.0)
    write(there)
    await there.close()
    hit = await recall(here, 1.0)
    assert hit is not None
    assert (answer_of(hit), hit.tier) == (20.0, "redis")
    write(here)
    again = await recall(here, 1.0)
    assert again is not None
    assert (answer_of(again), again.tier) == (20.0, "node")


@pytest.mark.parametrize(("takes_s", "written"), [(0.01, 1), (0.04, 0)])
async def test_closing_hangs_up_whether_what_waits_was_written_in_time_or_not(
    clock: FakeClock, takes_s: float, written: int
) -> None:
    redis = MemoryRedis()
    redis.takes_s = takes_s
    tier = redis_tier(redis, clock)
    tier.offer([Row(b"k", 1.0, "d", b"raw")])
    await asyncio.sleep(0)
    await tier.close(within_s=0.02)
    assert (len(redis.values), redis.closed) == (written, True)


async def test_without_any_tier_everything_is_a_miss_and_nothing_breaks(clock: FakeClock) -> None:
    cache = PredictionCache(None, None, clock=clock)
    remember(cache, 1.0, 10.0)
    write(cache)
    assert await recall(cache, 1.0) is None
    assert cache.stats().misses == 1
    await cache.close()


async def test_large_inputs_are_hashed_off_the_loop_to_the_same_key(open_lmdb: OpenLmdb, clock: FakeClock) -> None:
    cache = PredictionCache(open_lmdb(), None, clock=clock)
    inputs = x_of(1.0, width=HASH_HERE_BYTES)
    cache.remember(model="m", signature_digest="s", version="v1", version_digest="d", inputs=inputs, outputs=x_of(5.0))
    write(cache)
    hit = await cache.recall(
        model="m", signature_digest="s", inputs=inputs, max_stale_s=1.0, withdrawn=lambda _: False, timeout_s=1.0
    )
    assert answer_of(hit) == 5.0


@pytest.mark.parametrize("kind", ["FP32", "BYTES"])
async def test_nobody_waits_on_the_loop_until_large_inputs_are_hashed(
    kind: str, open_lmdb: OpenLmdb, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def watched(model: str, signature_digest: str, inputs: Tensors) -> bytes:
        hashed.append("hashed")
        return cache_key(model, signature_digest, inputs)

    async def in_a_thread(work: Callable[..., bytes], *args: Any) -> bytes:
        hashed.append("in a thread")
        return work(*args)

    monkeypatch.setattr(tiers, "cache_key", watched)
    cache = PredictionCache(open_lmdb(), None, clock=clock)
    inputs = x_of(1.0, width=HASH_HERE_BYTES)
    if kind == "BYTES":  # of which numpy sees eight bytes
        inputs = (Tensor("x", "BYTES", np.array([[b"x" * (HASH_HERE_BYTES + 1)]], object)),)
    cache.remember(model="m", signature_digest="s", version="v1", version_digest="d", inputs=inputs, outputs=x_of(5.0))
    write(cache)
    question: Any = {
        "model": "m",
        "signature_digest": "s",
        "inputs": inputs,
        "max_stale_s": 1.0,
        "withdrawn": lambda _: False,
    }
    assert cache.recall_here(**question) is None
    assert hashed == []
    monkeypatch.setattr(asyncio, "to_thread", in_a_thread)
    assert answer_of(await cache.recall(**question, timeout_s=1.0)) == 5.0
    assert hashed == ["in a thread", "hashed"]
    assert cache.stats().misses == 1


async def test_what_was_remembered_before_a_restart_is_recalled_after_it(tmp_path: Path, clock: FakeClock) -> None:
    for turn in range(2):
        cache = PredictionCache(LmdbStore(tmp_path / "cache", max_bytes=1 << 20), None, clock=clock)
        if turn == 0:
            remember(cache, 1.0, 10.0)
        else:
            assert answer_of(await recall(cache, 1.0)) == 10.0
        await cache.close()


async def test_a_gateway_that_ends_writes_what_waits(tmp_path: Path) -> None:
    from serving.clock import SystemClock

    cache = PredictionCache(LmdbStore(tmp_path / "cache", max_bytes=1 << 20), None, clock=SystemClock())
    cache.start()
    for value in range(100):
        remember(cache, value, 2.0 * value)
    await cache.close()
    store = LmdbStore(tmp_path / "cache", max_bytes=1 << 20)
    assert store.usage().entries == 100
    store.close()


def test_importing_the_cache_imports_neither_lmdb_nor_redis() -> None:
    modules = sorted(path.stem for path in (ROOT / "serving" / "cache").glob("*.py") if path.stem != "__init__")
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(f'serving.cache.{{name}}')\n"
        "sys.exit(any(name in sys.modules for name in ('lmdb', 'redis')))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, timeout=60)
    assert result.returncode == 0, result.stderr.decode()
