"""The second tier: a Redis that the nodes share, behind a breaker and a timeout of its own.

A Redis that is down, slow or talks nonsense is a miss, within the timeout, and is counted. Not here: what an entry
says (``serving.cache.entry``); whoever may write to this Redis decides what degraded answers say.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from serving.cache.store import Row
from serving.clock import Clock
from serving.errors import CircuitOpen

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("holdfast.cache")

PREFIX: Final = "holdfast:v1:"

WRITE_ROWS: Final = 64
"""Rows that are sent to Redis at one go."""


class Ticket(Protocol):
    """A question that the breaker let through; exactly one of these ends it."""

    def succeeded(self, seconds: float) -> None: ...

    def failed(self, seconds: float) -> None: ...

    def ignored(self) -> None: ...


class Admits(Protocol):
    """The part of a circuit breaker that is used here."""

    def admit(self) -> Ticket:
        """Raises ``CircuitOpen``."""
        ...


@dataclass(slots=True)
class RedisStats:
    errors: int = 0
    """Questions and writes that failed or took too long."""
    skipped: int = 0
    """Questions that weren't asked: the breaker is open, or too many are under way."""
    written: int = 0
    dropped: int = 0
    """Rows that weren't written."""


class RedisTier:
    """Reads and writes raw entries. Belongs to one event loop."""

    def __init__(
        self,
        client: Redis,
        *,
        breaker: Admits,
        clock: Clock,
        timeout_s: float,
        max_age_s: float,
        max_inflight: int,
        queue_max_bytes: int,
    ) -> None:
        self.stats = RedisStats()
        self._client: Any = client  # its own types say that every answer may be an awaitable or not
        self._breaker = breaker
        self._monotonic = clock.monotonic
        self._timeout_s = timeout_s
        self._max_age_s = max(1, int(max_age_s))
        self._max_inflight = max_inflight
        self._inflight = 0
        self._queue: deque[Row] = deque()
        self._queue_bytes = 0
        self._queue_max_bytes = queue_max_bytes
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    async def get(self, key: bytes, *, timeout_s: float) -> bytes | None:
        """What Redis has under this key, or None. Only cancellation is raised."""
        if self._inflight >= self._max_inflight:
            self.stats.skipped += 1
            return None
        self._inflight += 1
        try:
            raw = await self._ask(self._client.get(name_of(key)), within_s=timeout_s)
        finally:
            self._inflight -= 1
        return raw if isinstance(raw, bytes) else None

    def offer(self, rows: Sequence[Row]) -> None:
        """Write the rows some time soon; those that find no room are dropped."""
        for row in rows:
            if self._closed or self._queue_bytes + len(row.raw) > self._queue_max_bytes:
                self.stats.dropped += 1
            else:
                self._queue.append(row)
                self._queue_bytes += len(row.raw)
        if self._queue and self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def close(self, *, within_s: float) -> None:
        """Write what waits, for as long as ``within_s`` at most, and hang up."""
        self._closed = True
        if (writing := self._writing) is not None:  # which it takes away itself when it ends
            await asyncio.wait([writing], timeout=within_s)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        with suppress(Exception):
            async with asyncio.timeout(within_s):
                await self._client.aclose()

    async def _write(self) -> None:
        try:
            while self._queue:
                await self._write_some()
        finally:
            self.stats.dropped += len(self._queue)
            self._queue.clear()
            self._queue_bytes = 0
            self._writing = None

    async def _write_some(self) -> None:
        rows = [self._queue.popleft() for _ in range(min(len(self._queue), WRITE_ROWS))]
        self._queue_bytes -= sum(len(row.raw) for row in rows)
        pipeline = self._client.pipeline(transaction=False)
        for row in rows:
            pipeline.set(name_of(row.key), row.raw, ex=self._max_age_s)
        said = await self._ask(pipeline.execute(raise_on_error=False), within_s=self._timeout_s)
        written = sum(answer is True for answer in said or ())  # else Redis has its reasons: out of memory, read only
        self.stats.written += written
        self.stats.dropped += len(rows) - written

    async def _ask(self, question: Any, *, within_s: float) -> Any:
        """What Redis answers to ``question``, or None if it doesn't in time."""
        try:
            ticket = self._breaker.admit()
        except CircuitOpen:
            self.stats.skipped += 1
            question.close()
            return None
        since = self._monotonic()
        try:
            async with asyncio.timeout(min(within_s, self._timeout_s)):
                answer = await question
        except asyncio.CancelledError:
            ticket.ignored()
            raise
        except Exception as error:  # noqa: BLE001  # a peer that talks nonsense makes its parser raise anything
            self.stats.errors += 1
            if isinstance(error, TimeoutError) and within_s < self._timeout_s:
                ticket.ignored()  # the caller had no time; that says nothing about Redis
            else:
                ticket.failed(self._monotonic() - since)
            return None
        ticket.succeeded(self._monotonic() - since)
        return answer


def name_of(key: bytes) -> str:
    """Under which name an entry lies in Redis."""
    return PREFIX + key.hex()


def connect(url: str, *, max_connections: int) -> Redis:
    """A client for ``RedisTier``: nothing is dialled yet, no question is asked twice, connections are bounded.

    Timeouts are the tier's. A connection whose question was given up is closed, so that a late answer can't be taken
    for that to another question.
    """
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    pool = ConnectionPool.from_url(
        url,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # the plain one: no HELLO, no messages that nobody asked for
        driver_info=None,
        socket_timeout=None,
        socket_connect_timeout=None,
    )
    return Redis.from_pool(pool)
