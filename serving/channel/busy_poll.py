"""Keeps the loop awake for the moment in which a lone request's answer is due.

A core that falls asleep while a small model computes takes longer to wake than the model took; when nothing else is
in flight, that is most of the request's latency. So while a batch of one is out whose kind was answered quickly
before, the loop looks for the answer again and again, for a bounded time, and lets every other process go first.
The term is the field's: busy polling, as in network drivers. Not here: sockets.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from serving.clock import Clock

FADE: Final = 0.5
"""Weight of the newest round trip in the average that decides whether polling is worth while."""


class BusyPoll:
    """Polls for at most ``limit_s`` seconds at a time; 0 switches it off. All times are monotonic seconds."""

    def __init__(self, clock: Clock, *, limit_s: float) -> None:
        self._monotonic = clock.monotonic
        self._limit_s = limit_s
        self._usual_s = limit_s
        self._sent_at: float | None = None
        self._turning = False

    def sent(self) -> None:
        """A batch of one has left, and nothing else is in flight."""
        if not self._limit_s:
            return
        self._sent_at = self._monotonic()
        if self._usual_s < self._limit_s and not self._turning:
            self._turning = True
            self._turn()

    def answered(self) -> None:
        """An answer has come; if it was the awaited one, its time tells whether the next is worth polling for."""
        if self._sent_at is not None:
            self._usual_s += FADE * (self._monotonic() - self._sent_at - self._usual_s)
            self._sent_at = None

    def _turn(self) -> None:
        if self._sent_at is None or self._monotonic() - self._sent_at > self._limit_s:
            self._turning = False
            return
        os.sched_yield()
        asyncio.get_running_loop().call_soon(self._turn)
