"""Counts what happened in the last few seconds, for whoever judges by it. Pure.

A ring of buckets over time: the oldest one goes when a new one begins, so the window covers between nine and ten
tenths of its length. A call costs a comparison and a few additions, and allocates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BUCKETS: Final = 10


class Sums:
    """What was counted. ``timed``, ``seconds`` and ``slowest`` are the number, sum and maximum of what took time."""

    __slots__ = ("calls", "failures", "seconds", "slow", "slowest", "timed")

    calls: int
    failures: int
    slow: int
    timed: int
    seconds: float
    slowest: float

    def __init__(self) -> None:
        self.empty()

    def empty(self) -> None:
        self.calls = self.failures = self.slow = self.timed = 0
        self.seconds = self.slowest = 0.0

    def become_sum(self, parts: Sequence[Sums]) -> None:
        self.calls = sum([part.calls for part in parts])
        self.failures = sum([part.failures for part in parts])
        self.slow = sum([part.slow for part in parts])
        self.timed = sum([part.timed for part in parts])
        self.seconds = sum([part.seconds for part in parts])
        self.slowest = max([part.slowest for part in parts])


class Window(Sums):
    """Sums over the last ``window_s`` seconds of a monotonic clock.

    They are as of the last ``add``, ``took`` or ``roll``; whoever reads them later rolls first.
    """

    __slots__ = ("_at", "_bucket", "_ends", "_ring", "_step")

    def __init__(self, window_s: float, *, now: float) -> None:
        super().__init__()
        self._step = window_s / BUCKETS
        self._ring = tuple(Sums() for _ in range(BUCKETS))
        self.clear(now)

    def clear(self, now: float) -> None:
        """Forget everything; what comes next is all there is."""
        for bucket in self._ring:
            bucket.empty()
        self._at = 0
        self._bucket = self._ring[0]
        self._ends = now + self._step
        self.empty()

    def add(self, now: float, *, calls: int = 1, failures: int = 0, slow: int = 0) -> None:
        if now >= self._ends:
            self.roll(now)
        bucket = self._bucket
        bucket.calls += calls
        self.calls += calls
        if failures:
            bucket.failures += failures
            self.failures += failures
        if slow:
            bucket.slow += slow
            self.slow += slow

    def took(self, now: float, seconds: float) -> None:
        """Something took ``seconds``."""
        if now >= self._ends:
            self.roll(now)
        bucket = self._bucket
        bucket.timed += 1
        self.timed += 1
        bucket.seconds += seconds
        self.seconds += seconds
        if seconds > bucket.slowest:
            bucket.slowest = seconds
            self.slowest = max(self.slowest, seconds)

    def roll(self, now: float) -> None:
        """Let go of what is too old by now."""
        if now < self._ends:
            return
        steps = int((now - self._ends) / self._step) + 1
        if steps >= BUCKETS:
            self.clear(now)
            return
        for _ in range(steps):
            self._at = (self._at + 1) % BUCKETS
            self._bucket = self._ring[self._at]
            self._bucket.empty()
        self._ends += steps * self._step
        # Added up anew, not subtracted from, so that rounding doesn't pile up over the days.
        self.become_sum(self._ring)

    def recent(self) -> Sums:
        """What happened in the last tenth or two, to see a change that the whole window still hides."""
        sums = Sums()
        sums.become_sum((self._bucket, self._ring[self._at - 1]))
        return sums
