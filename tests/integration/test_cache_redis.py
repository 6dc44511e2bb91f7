"""The Redis tier on a real Redis that is killed, made slow, made to talk nonsense, and started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from models.inference import Tensor, Tensors
from serving.cache.entry import Entry, encode_entry
from serving.cache.key import cache_key
from serving.cache.redis_tier import RedisTier, connect, name_of
from serving.cache.store import LmdbStore, Row
from serving.cache.tiers import Hit, PredictionCache
from serving.clock import SystemClock
from tests.redis_server import FakeBreaker, Proxy, RedisServer, until

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.2
KEY = b"k" * 32
MOST_CONNECTIONS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    yield made
    made.kill()


@asynccontextmanager
async def tier_at(url: str, breaker: FakeBreaker | None = None, *, max_inflight: int = 3) -> AsyncIterator[RedisTier]:
    tier = RedisTier(
        connect(url, max_connections=MOST_CONNECTIONS),
        breaker=breaker or FakeBreaker(),
        clock=SystemClock(),
        timeout_s=TIMEOUT_S,
        max_age_s=100,
        max_inflight=max_inflight,
        queue_max_bytes=1 << 20,
    )
    try:
        yield tier
    finally:
        await tier.close(within_s=1.0)


def row(raw: bytes, key: bytes = KEY) -> Row:
    return Row(key, 1.0, "d", raw)


async def written(tier: RedisTier, *rows: Row) -> None:
    before = tier.stats.written + tier.stats.dropped
    tier.offer(rows)
    await until(lambda: tier.stats.written + tier.stats.dropped == before + len(rows))


async def ask(tier: RedisTier, key: bytes = KEY) -> tuple[bytes | None, float]:
    """The answer, and how many seconds it took."""
    since = time.monotonic()
    answer = await tier.get(key, timeout_s=10.0)
    return answer, time.monotonic() - since


async def until_it_answers(tier: RedisTier, expected: bytes) -> None:
    async def answers() -> bool:
        return await tier.get(KEY, timeout_s=10.0) == expected

    await until(answers)


async def test_what_was_written_is_read_and_does_not_stay_for_ever(server: RedisServer) -> None:
    await server.start()
    async with tier_at(server.url) as tier:
        assert await tier.get(KEY, timeout_s=1.0) is None
        await written(tier, row(b"\x00\xffraw"))
        assert await tier.get(KEY, timeout_s=1.0) == b"\x00\xffraw"
        assert 90 < await tier._client.ttl(name_of(KEY)) <= 100
        assert await tier._client.keys("*") == [f"holdfast:v1:{KEY.hex()}".encode()]
        assert (tier.stats.written, tier.stats.errors, tier.stats.skipped) == (1, 0, 0)


async def test_a_killed_redis_is_a_miss_and_one_that_came_back_answers_again(server: RedisServer) -> None:
    await server.start()
    breaker = FakeBreaker()
    async with tier_at(server.url, breaker) as tier:
        await written(tier, row(b"one"))
        server.kill()
        for _ in range(5):
            answer, seconds = await ask(tier)
            assert answer is None
            assert seconds < TIMEOUT_S + 0.2
        assert tier.stats.errors == 5
        assert breaker.ends[-5:] == ["failed"] * 5
        await written(tier, row(b"lost"))
        assert tier.stats.dropped == 1
        await server.start()
        await written(tier, row(b"two"))
        await until_it_answers(tier, b"two")
        assert breaker.ends[-1] == "succeeded"


async def test_a_redis_that_was_never_there_is_a_miss(server: RedisServer) -> None:
    async with tier_at(server.url) as tier:
        assert (await ask(tier))[0] is None
        assert tier.stats.errors == 1


@pytest.mark.parametrize("slow", ["delayed", "silent"])
async def test_a_slow_redis_is_a_miss_within_the_timeout_and_connections_stay_bounded(
    server: RedisServer, slow: str
) -> None:
    await server.start()
    async with Proxy(server.port).running() as proxy, tier_at(proxy.url) as tier:
        await written(tier, row(b"one"))
        assert (await ask(tier))[0] == b"one"
        proxy.delay_s, proxy.silent = (5.0, False) if slow == "delayed" else (0.0, True)
        for _ in range(3):
            for answer, seconds in await asyncio.gather(*(ask(tier) for _ in range(10))):
                assert answer is None
                assert seconds < TIMEOUT_S + 0.3
        assert tier.stats.errors == 9, "three at a time"
        assert tier.stats.skipped == 21
        assert len(tier._client.connection_pool._in_use_connections) == 0
        assert len(tier._client.connection_pool._available_connections) <= MOST_CONNECTIONS
        proxy.delay_s, proxy.silent = 0.0, False
        await until_it_answers(tier, b"one")


async def test_a_late_answer_is_never_taken_for_that_to_another_question(server: RedisServer) -> None:
    await server.start()
    other = b"l" * 32
    async with Proxy(server.port).running() as proxy, tier_at(proxy.url, max_inflight=1) as tier:
        await written(tier, row(b"one"), row(b"other", other))
        proxy.delay_s = TIMEOUT_S * 1.5
        assert (await ask(tier))[0] is None
        proxy.delay_s = 0.0
        for _ in range(20):
            assert (await ask(tier, other))[0] in (None, b"other")


@pytest.mark.parametrize(
    "garbage", [b"this is no redis\r\n", b"$5\r\nab", b"$-7\r\n", b":x\r\n", b"*2\r\n+a\r\n+b\r\n", b"\xff" * 99]
)
async def test_a_redis_that_talks_nonsense_is_a_miss_and_recovers(server: RedisServer, garbage: bytes) -> None:
    await server.start()
    async with Proxy(server.port).running() as proxy, tier_at(proxy.url) as tier:
        await written(tier, row(b"one"))
        proxy.garbage = garbage
        for _ in range(3):
            answer, seconds = await ask(tier)
            assert not answer, "no entry is empty"
            assert seconds < TIMEOUT_S + 0.2
        proxy.garbage = b""
        await until_it_answers(tier, b"one")


async def test_a_redis_that_takes_no_writes_is_still_read(server: RedisServer) -> None:
    await server.start()
    breaker = FakeBreaker()
    async with tier_at(server.url, breaker) as tier:
        await written(tier, row(b"one"))
        await tier._client.config_set("maxmemory", "1")
        await written(tier, row(b"two", b"l" * 32))
        assert (tier.stats.written, tier.stats.dropped) == (1, 1)
        assert (await ask(tier))[0] == b"one"
        assert set(breaker.ends) == {"succeeded"}


async def test_an_open_breaker_leaves_redis_alone(server: RedisServer) -> None:
    await server.start()
    breaker = FakeBreaker()
    async with Proxy(server.port).running() as proxy, tier_at(proxy.url, breaker) as tier:
        breaker.is_open = True
        assert (await ask(tier))[0] is None
        await written(tier, row(b"one"))
        assert (tier.stats.skipped, tier.stats.dropped, tier.stats.errors) == (2, 1, 0)
        assert proxy.connections == 0


async def test_a_caller_without_time_says_nothing_about_redis(server: RedisServer) -> None:
    await server.start()
    breaker = FakeBreaker()
    async with Proxy(server.port).running() as proxy, tier_at(proxy.url, breaker) as tier:
        proxy.silent = True
        assert await tier.get(KEY, timeout_s=0.01) is None
        asking = asyncio.create_task(tier.get(KEY, timeout_s=10.0))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert breaker.ends == ["ignored", "ignored"]
        assert tier._inflight == 0


async def test_closing_waits_for_a_slow_redis_no_longer_than_it_may(server: RedisServer) -> None:
    await server.start()
    async with Proxy(server.port).running() as proxy, tier_at(proxy.url) as tier:
        proxy.silent = True
        tier.offer([row(b"one"), row(b"two", b"l" * 32)])
        since = time.monotonic()
        await tier.close(within_s=0.05)
        assert time.monotonic() - since < 1.0
        tier.offer([row(b"three")])
        assert tier.stats.written == 0
        assert tier._writing is None


# Both tiers together, on two nodes.


def x_of(value: float) -> Tensors:
    return (Tensor("x", "FP32", np.array([[value]], np.float32)),)


def remember(cache: PredictionCache, value: float) -> None:
    cache.remember(
        model="m", signature_digest="s", version="v1", version_digest="d1", inputs=x_of(value), outputs=x_of(2 * value)
    )


def recall(
    cache: PredictionCache, value: float, *, withdrawn: Callable[[str], bool] = lambda _: False
) -> Coroutine[None, None, Hit | None]:
    return cache.recall(
        model="m", signature_digest="s", inputs=x_of(value), max_stale_s=60.0, withdrawn=withdrawn, timeout_s=5.0
    )


@asynccontextmanager
async def node(folder: Path, url: str) -> AsyncIterator[PredictionCache]:
    tier = RedisTier(
        connect(url, max_connections=MOST_CONNECTIONS),
        breaker=FakeBreaker(),
        clock=SystemClock(),
        timeout_s=TIMEOUT_S,
        max_age_s=100,
        max_inflight=3,
        queue_max_bytes=1 << 20,
    )
    cache = PredictionCache(LmdbStore(folder, max_bytes=1 << 20), tier, clock=SystemClock())
    cache.start()
    try:
        yield cache
    finally:
        await cache.close()


async def test_what_one_node_was_answered_another_one_recalls_and_keeps(server: RedisServer, tmp_path: Path) -> None:
    await server.start()
    async with node(tmp_path / "a", server.url) as one, node(tmp_path / "b", server.url) as other:
        remember(one, 3.0)
        await until(lambda: one.stats().redis_written == 1)
        hit = await recall(other, 3.0)
        assert hit is not None
        assert (hit.tier, hit.version, hit.outputs[0].array.tolist()) == ("redis", "v1", [[6.0]])
        assert 0 <= hit.age_s < 20
        await until(lambda: other.stats().entries == 1)
        server.kill()
        again = await recall(other, 3.0)
        assert again is not None
        assert (again.tier, again.stored_wall) == ("node", hit.stored_wall), "it doesn't get younger on the way"
        assert await recall(other, 4.0) is None
        stats = other.stats()
        assert (stats.hits_redis, stats.hits_node, stats.misses, stats.redis_errors) == (1, 1, 1, 1)
        assert stats.redis_written == 0, "what came from Redis doesn't go back there"


async def test_a_withdrawn_or_damaged_value_in_redis_is_a_miss_and_is_not_kept(
    server: RedisServer, tmp_path: Path
) -> None:
    await server.start()
    key = cache_key("m", "s", x_of(3.0))
    good = encode_entry(Entry("m", "s", "v1", "d1", time.time() - 1, x_of(6.0)), key)
    async with node(tmp_path / "a", server.url) as cache, tier_at(server.url) as raw:
        await written(raw, row(good, key))
        assert await recall(cache, 3.0, withdrawn=lambda digest: digest == "d1") is None
        for torn in (good[:-1], good[1:], b"", b"garbage", good.replace(b"v1", b"v2")):
            await written(raw, row(torn, key))
            assert await recall(cache, 3.0) is None
        await written(raw, row(good, cache_key("m", "s", x_of(4.0))))
        assert await recall(cache, 4.0) is None, "another question's answer"
        stats = cache.stats()
        assert (stats.withdrawn, stats.damaged, stats.hits_redis, stats.entries) == (1, 6, 0, 0)
