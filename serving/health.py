"""What a model replica answers when Serve asks after its health.

Not here: parts that hang (``serving.watchdog``); a replica that is merely busy is healthy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from zlib import crc32

from serving.channel.reports import Reports
from serving.clock import Clock

SPREAD: Final = 0.2
"""Of what they may hold: siblings that leak alike reach limits of their own, one after the other."""

PATIENCE_S: Final = 1.0
"""How long a check waits for its turn behind the requests. Serve's own patience is longer."""


class Unhealthy(Exception):
    """The replica should be replaced. The text says why."""


def own_memory_mb() -> float:
    """What this process alone has in memory: neither files nor what it shares with others."""
    _, resident, shared = Path("/proc/self/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_limit_mb(most: int, replica: str) -> float:
    """What this replica may hold of what its version's may, the same whenever it is asked: from 80 to 100 %."""
    return most * (1.0 - SPREAD * crc32(replica.encode()) / 2**32)


class ReplicaHealth:
    """A golden prediction in time, gateways that send it work, and no more memory than it may have."""

    def __init__(
        self,
        golden: Callable[[], Awaitable[None]],
        reports: Reports,
        *,
        busy: Callable[[], bool],
        replace_after_s: float,
        clock: Clock,
        max_memory_mb: float | None = None,
        memory_mb: Callable[[], float] = own_memory_mb,
    ) -> None:
        self._golden = golden
        self._busy = busy
        self._reports = reports
        self._replace_after_s = replace_after_s
        self._clock = clock
        self._max_memory_mb = max_memory_mb
        self._memory_mb = memory_mb
        self._checking: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raises ``Unhealthy``, or what the golden prediction raised.

        A check that has to wait behind long runs of the model goes on, and tells its result when it is asked again.
        """
        ejected_s = self._reports.ejected_s(self._clock.monotonic())
        if ejected_s > self._replace_after_s:
            raise Unhealthy(f"every gateway has had this replica ejected for {ejected_s:.1f} s")
        if self._max_memory_mb is not None and (mb := self._memory_mb()) > self._max_memory_mb:
            raise Unhealthy(f"it holds {mb:.0f} MB, more than its {self._max_memory_mb:.0f} of max_memory_mb")
        if self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(self._check_golden())
        done, _ = await asyncio.wait([self._checking], timeout=PATIENCE_S)
        if not done and not self._busy():
            raise Unhealthy("the model rests, and yet the golden prediction waits for it")
        if done:
            checked, self._checking = self._checking, None
            await checked

    async def close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def _check_golden(self) -> None:
        await self._golden()
