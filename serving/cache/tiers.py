"""Cached predictions as a gateway uses them: remember good answers, recall them when nothing else can answer.

Node first, then Redis; what Redis knew is kept on the node. Not here: when an answer may come from the cache (the
model's chain of fallbacks), and which versions are deterministic and so may be remembered at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, NamedTuple

import msgspec

from models.inference import Tensors
from serving.cache.entry import Entry, Verdict, decode_entry, judge
from serving.cache.key import cache_key
from serving.cache.redis_tier import RedisStats, RedisTier
from serving.cache.store import NodeStore, Row, Usage
from serving.cache.writer import CacheWriter
from serving.clock import Clock

QUEUE_MAX: Final = 1024
QUEUE_MAX_BYTES: Final = 64 << 20
HASH_HERE_BYTES: Final = 1 << 20
"""Larger inputs are hashed in a thread: on the loop everybody would wait, two milliseconds per megabyte."""

Tier = Literal["node", "redis"]


class Hit(msgspec.Struct, frozen=True):
    """An answer from before, whose it was, and how old it is."""

    model: str
    version: str
    version_digest: str
    stored_wall: float
    outputs: Tensors
    age_s: float
    tier: Tier


class CacheStats(NamedTuple):
    """What happened since the start; ``waiting``, ``bytes`` and ``entries`` are now."""

    written: int
    """Answers written to the node's store."""
    dropped: int
    """Answers that found no room in the queue."""
    write_errors: int
    """Answers that couldn't be encoded, and questions and rows that the store failed at."""
    hits_node: int
    hits_redis: int
    misses: int
    stale: int
    """Entries that were found but too old, or from the future."""
    withdrawn: int
    """Entries that were found but whose version was taken back."""
    damaged: int
    """Entries that were found but can't be read, or are something else."""
    redis_written: int
    redis_dropped: int
    redis_errors: int
    redis_skipped: int
    waiting: int
    waiting_bytes: int
    bytes: int
    entries: int


class PredictionCache:
    """One for each gateway. Everything but the writer's thread happens on one event loop."""

    def __init__(
        self,
        store: NodeStore | None,
        redis: RedisTier | None,
        *,
        clock: Clock,
        queue_max: int = QUEUE_MAX,
        queue_max_bytes: int = QUEUE_MAX_BYTES,
    ) -> None:
        self._store = store
        self._redis = redis
        self._wall = clock.wall
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer = CacheWriter(
            store,
            clock=clock,
            queue_max=queue_max,
            queue_max_bytes=queue_max_bytes,
            on_written=None if redis is None else self._to_redis,
        )
        self._hits_node = 0
        self._hits_redis = 0
        self._misses = 0
        self._found = dict.fromkeys(Verdict, 0)
        self._damaged = 0

    def start(self) -> None:
        """Begin to write what is remembered. On the event loop."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    def remember(
        self,
        *,
        model: str,
        signature_digest: str,
        version: str,
        version_digest: str,
        inputs: Tensors,
        outputs: Tensors,
    ) -> None:
        """Keep a good answer of a deterministic version. Never waits, never raises.

        Nobody may change the memory of ``inputs`` and ``outputs`` after this.
        """
        self._writer.add(
            model=model,
            signature_digest=signature_digest,
            version=version,
            version_digest=version_digest,
            inputs=inputs,
            outputs=outputs,
        )

    async def recall(
        self,
        *,
        model: str,
        signature_digest: str,
        inputs: Tensors,
        max_stale_s: float,
        withdrawn: Callable[[str], bool],
        timeout_s: float,
    ) -> Hit | None:
        """What the model answered to these inputs before; ``withdrawn`` is asked with a version's digest."""
        if _quickly_hashed(inputs):
            key = cache_key(model, signature_digest, inputs)
        else:
            key = await asyncio.to_thread(cache_key, model, signature_digest, inputs)
        question = _Question(key, model, signature_digest, max_stale_s, withdrawn)
        hit = self._in_node(question)
        if hit is None and self._redis is not None:
            hit = await self._in_redis(self._redis, question, timeout_s)
        if hit is None:
            self._misses += 1
        return hit

    def recall_here(
        self,
        *,
        model: str,
        signature_digest: str,
        inputs: Tensors,
        max_stale_s: float,
        withdrawn: Callable[[str], bool],
    ) -> Hit | None:
        """As ``recall``, at once and from the node's store alone. Large inputs are a miss."""
        if not _quickly_hashed(inputs):
            self._misses += 1
            return None
        key = cache_key(model, signature_digest, inputs)
        hit = self._in_node(_Question(key, model, signature_digest, max_stale_s, withdrawn))
        if hit is None:
            self._misses += 1
        return hit

    def stats(self) -> CacheStats:
        store, writer = self._store, self._writer
        usage = Usage(0, 0) if store is None else store.usage()
        redis = RedisStats() if self._redis is None else self._redis.stats
        return CacheStats(
            written=writer.written,
            dropped=writer.dropped,
            write_errors=writer.unencodable + (0 if store is None else store.errors),
            hits_node=self._hits_node,
            hits_redis=self._hits_redis,
            misses=self._misses,
            stale=self._found[Verdict.STALE],
            withdrawn=self._found[Verdict.WITHDRAWN],
            damaged=self._damaged + self._found[Verdict.FOREIGN],
            redis_written=redis.written,
            redis_dropped=redis.dropped,
            redis_errors=redis.errors,
            redis_skipped=redis.skipped,
            waiting=writer.waiting,
            waiting_bytes=writer.waiting_bytes,
            bytes=usage.bytes,
            entries=usage.entries,
        )

    async def close(self, *, within_s: float = 2.0) -> None:
        """Write what waits, for as long as ``within_s`` at most in each tier."""
        ended = await asyncio.to_thread(self._writer.close, within_s=within_s)
        await asyncio.sleep(0)  # the thread's last rows for Redis arrive
        if self._redis is not None:
            await self._redis.close(within_s=within_s)
        if ended and self._store is not None:  # else the thread still uses it, until the process ends
            self._store.close()

    def _in_node(self, question: _Question) -> Hit | None:
        if self._store is None or (raw := self._store.get(question.key)) is None:
            return None
        hit = self._judged(raw, question, "node")
        self._hits_node += hit is not None
        return hit

    async def _in_redis(self, redis: RedisTier, question: _Question, timeout_s: float) -> Hit | None:
        raw = await redis.get(question.key, timeout_s=timeout_s)
        if raw is None or (hit := self._judged(raw, question, "redis")) is None:
            return None
        self._hits_redis += 1
        self._writer.add_row(Row(question.key, hit.stored_wall, hit.version_digest, raw))
        return hit

    def _judged(self, raw: bytes | memoryview, question: _Question, tier: Tier) -> Hit | None:
        entry = decode_entry(raw, question.key)
        if entry is None:
            self._damaged += 1
            return None
        now = self._wall()
        verdict = judge(
            entry,
            model=question.model,
            signature_digest=question.signature_digest,
            now_wall=now,
            max_stale_s=question.max_stale_s,
            withdrawn=question.withdrawn,
        )
        if verdict is not Verdict.USABLE:
            self._found[verdict] += 1
            return None
        return _hit(entry, now - entry.stored_wall, tier)

    def _to_redis(self, rows: list[Row]) -> None:
        """Called by the writer's thread."""
        if self._redis is None or self._loop is None:
            return
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._redis.offer, rows)


def _quickly_hashed(inputs: Tensors) -> bool:
    """Whether the event loop may do it."""
    if sum([tensor.array.nbytes for tensor in inputs]) > HASH_HERE_BYTES:
        return False
    texts = [tensor.array for tensor in inputs if tensor.datatype == "BYTES"]  # of which numpy counts the references
    return not texts or sum([sum(map(len, array.flat)) for array in texts]) <= HASH_HERE_BYTES


class _Question(msgspec.Struct, frozen=True):
    key: bytes
    model: str
    signature_digest: str
    max_stale_s: float
    withdrawn: Callable[[str], bool]


def _hit(entry: Entry, age_s: float, tier: Tier) -> Hit:
    return Hit(entry.model, entry.version, entry.version_digest, entry.stored_wall, entry.outputs, age_s, tier)
