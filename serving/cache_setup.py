"""Puts a gateway's cache of predictions together from the settings.

Not here: the parts themselves, and which answers go into it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from serving.cache.opening import open_store
from serving.cache.redis_tier import RedisTier, connect
from serving.cache.tiers import PredictionCache
from serving.clock import Clock
from serving.deployments.folders import cache_dir
from serving.model_settings import BreakerSettings, UseCache
from serving.request.breaker import Breaker, breaker_limits
from serving.settings import Settings

log = logging.getLogger("holdfast.cache")

REDIS_CONNECTIONS: Final = 16
REDIS_QUEUE_BYTES: Final = 8 << 20
REDIS_BREAKER: Final = BreakerSettings(
    window_s=5.0, min_calls=5, failure_rate=0.5, open_s=0.5, open_max_s=10.0, probes=1
)
"""Redis is only ever a second chance: a few failures are enough to leave it alone for a while."""


async def open_cache(settings: Settings, *, clock: Clock, random: Callable[[], float]) -> PredictionCache | None:
    """The node's cache, or None if no model's settings ask for one. A store that can't be opened costs only itself."""
    if not any(model.caches for model in settings.models):
        return None
    folder = cache_dir(settings)
    store = await asyncio.to_thread(open_store, folder, max_bytes=settings.cache.max_bytes)
    cache = PredictionCache(store, _redis(settings, clock=clock, random=random), clock=clock)
    cache.start()
    return cache


def _redis(settings: Settings, *, clock: Clock, random: Callable[[], float]) -> RedisTier | None:
    url, timeout_s = settings.cache.redis_url, settings.cache.redis_timeout_ms / 1000
    if url is None:
        return None
    try:
        connection = connect(url, max_connections=REDIS_CONNECTIONS + 1)  # one is the writer's
    except (ValueError, TypeError):  # not its text: that may repeat the password
        log.error("cache.redis_url: the Redis library can't read it, so only the node's own store is used")
        return None
    return RedisTier(
        connection,
        breaker=Breaker("redis", breaker_limits(REDIS_BREAKER, timeout_s=timeout_s), clock=clock, random=random),
        clock=clock,
        timeout_s=timeout_s,
        max_age_s=_longest_use_s(settings),
        max_inflight=REDIS_CONNECTIONS,
        queue_max_bytes=REDIS_QUEUE_BYTES,
    )


def _longest_use_s(settings: Settings) -> float:
    """How old an answer may be and still be given, by any model."""
    stale = [entry.max_stale_s for model in settings.models for entry in model.fallback if isinstance(entry, UseCache)]
    return max([1.0, *stale, *(model.cache_fresh_ms / 1000 for model in settings.models)])
