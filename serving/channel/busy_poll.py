"""Keeps a loop awake for the short moment after which its next event is due.

A core that goes to sleep runs the next hundred microseconds several times slower: it has to be woken, and its caches
are cold; on a virtual machine all the more. While requests come one at a time, that is most of their latency. So
where the last events came soon after the loop had nothing more to do, it looks for the next one again and again, for
a bounded time, letting every other process go first. It is what network drivers call busy polling, and what KVM does
under the name of halt polling. Not here: who calls it when.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from serving.clock import Clock

WEIGHT: Final = 0.25
"""Of the newest gap, in the average that decides whether polling is worth while."""


class BusyPoll:
    """Polls for at most ``limit_s`` seconds at a time; with 0 it never does. All times are monotonic seconds."""

    def __init__(self, clock: Clock, *, limit_s: float) -> None:
        self._monotonic = clock.monotonic
        self._limit_s = limit_s
        self._usual_s = 2 * limit_s
        self._rest_since: float | None = None
        self._turning = False

    def rest(self) -> None:
        """From now on the loop has nothing to do until the event that ``woken`` will tell of."""
        if not self._limit_s:
            return
        self._rest_since = self._monotonic()
        if self._usual_s < self._limit_s and not self._turning:
            self._turning = True
            self._turn()

    def woken(self) -> None:
        """The event has come. How long it took tells whether the next is worth polling for."""
        if self._rest_since is not None:
            gap_s = min(self._monotonic() - self._rest_since, 4 * self._limit_s)
            self._usual_s += WEIGHT * (gap_s - self._usual_s)
            self._rest_since = None

    def _turn(self) -> None:
        if self._rest_since is None or self._monotonic() - self._rest_since > self._limit_s:
            self._turning = False
            return
        os.sched_yield()
        asyncio.get_running_loop().call_soon(self._turn)
