"""Snapshots for everybody who looks: made once a second however many look, and not at all while nobody does.

Who watches is given the newest snapshot when it has read the one before: nobody is waited for, and nothing is kept for
anybody. Not here: what a snapshot is made of (``serving.live.gathering``), sending (``serving.ingress.streaming``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Final, Protocol

import msgspec

from serving.clock import Clock
from serving.live.snapshot import Snapshot

log = logging.getLogger("holdfast.live")

PERIOD_S: Final = 1.0
REST_MIN_S: Final = 0.2
HEARTBEAT_S: Final = 5.0
VIEWERS_MAX: Final = 64
RETRY_MS: Final = 1000

_HELLO: Final = b"retry: %d\n\n" % RETRY_MS
_HEARTBEAT: Final = b": still here\n\n"


class Source(Protocol):
    """Where snapshots come from."""

    @property
    def last(self) -> int:
        """The newest second of the series."""
        ...

    async def gather(self) -> Snapshot: ...

    def with_series(self, snapshot: Snapshot, *, after: int = 0) -> Snapshot: ...


class Hub:
    """One for each gateway."""

    def __init__(self, source: Source, *, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._latest: Snapshot | None = None
        self._made = float("-inf")
        self._number = 0
        self._frames: dict[int, bytes] = {}
        self._news = asyncio.Event()
        self._gathering: asyncio.Task[Snapshot] | None = None
        self._turns: asyncio.Task[None] | None = None
        self._closed = False
        self.viewers = 0

    @property
    def full(self) -> bool:
        """Whether no more may watch."""
        return self.viewers >= VIEWERS_MAX

    async def overview(self) -> bytes:
        """A snapshot with all of the series, as JSON; not more than a second old. Raises what gathering raises."""
        snapshot = self._latest if self._latest is not None and self._fresh() else await self._gather()
        return msgspec.json.encode(self._source.with_series(snapshot))

    async def watch(self) -> AsyncGenerator[bytes]:
        """Server-sent events: a snapshot now, with all of the series, and then one after the other with what is new."""
        self.viewers += 1
        if self._turns is None and not self._closed:
            self._turns = asyncio.ensure_future(self._run())
        seen = self._number if not self._fresh() else -1
        after = 0
        try:
            yield _HELLO
            while not self._closed:
                if self._latest is None or seen == self._number:
                    if not await self._newer():
                        yield _HEARTBEAT
                    continue
                seen, before, after = self._number, after, self._source.last
                yield self._frame(self._latest, before)
        finally:
            self.viewers -= 1
            if not self.viewers and self._turns is not None:
                self._turns.cancel()
                self._turns = None

    def close(self) -> None:
        """End what everybody watches. A snapshot that is being made is made to its end: somebody may wait for it."""
        self._closed = True
        self._news.set()
        if self._turns is not None:
            self._turns.cancel()

    def _fresh(self) -> bool:
        return self._clock.monotonic() - self._made < PERIOD_S

    async def _newer(self) -> bool:
        """Wait for the next snapshot, but not for ever; whether there is something new."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _frame(self, snapshot: Snapshot, after: int) -> bytes:
        """The event for whoever has had the series up to this second; most viewers have had the same."""
        frame = self._frames.get(after)
        if frame is None:
            data = msgspec.json.encode(self._source.with_series(snapshot, after=after))
            frame = self._frames[after] = b"event: snapshot\nid: %.3f\ndata: %b\n\n" % (snapshot.time, data)
        return frame

    async def _run(self) -> None:
        """While somebody watches."""
        while True:
            began = self._clock.monotonic()
            try:
                await self._gather()
            except Exception:
                log.exception("no snapshot could be made")
            await asyncio.sleep(max(began + PERIOD_S - self._clock.monotonic(), REST_MIN_S))

    async def _gather(self) -> Snapshot:
        """One at a time: whoever comes while one is made gets that one, and no one who goes stops it for the others."""
        if self._gathering is None:
            self._gathering = asyncio.ensure_future(self._make())
            self._gathering.add_done_callback(_seen)
        return await asyncio.shield(self._gathering)

    async def _make(self) -> Snapshot:
        try:
            snapshot = await self._source.gather()
        finally:
            self._gathering = None
        self._latest, self._made = snapshot, self._clock.monotonic()
        self._number += 1
        self._frames.clear()
        news, self._news = self._news, asyncio.Event()
        news.set()
        return snapshot


def _seen(gathering: asyncio.Task[Snapshot]) -> None:
    """Its error is told to who waits for it; if all of them have gone, it is told to nobody."""
    if not gathering.cancelled():
        gathering.exception()
