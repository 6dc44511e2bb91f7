"""Whether a version's replicas die again and again, as far as that can be told from who lives. Pure.

A replica that ends alone says little: autoscaling ends some, and Serve replaces one that has died. Only one that was
replaced, and soon, counts as a crash: one that comes later comes because there is more to do. Not here: who lives (Ray
Serve tells the routers, ``serving.channel.watchers``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

CRASHES: Final = 3
WITHIN_S: Final = 120.0
"""So many in such a time are a crash loop."""
GONE_S: Final = 20.0
"""A version that has had no replica for so long isn't coming back by itself."""


class Crashes:
    """One version, from when it was ready. Times in monotonic seconds."""

    def __init__(self) -> None:
        self._alive: frozenset[str] | None = None
        self._lost: deque[float] = deque()
        """When those were lost that nothing has replaced yet."""
        self._replaced: deque[float] = deque(maxlen=CRASHES)
        self._none_since: float | None = None

    def seen(self, replicas: Iterable[str], now: float) -> None:
        """These replicas live. What lives the first time is where it begins; nobody there doesn't begin anything."""
        alive = frozenset(replicas)
        if self._alive is None:
            self._alive = alive or None
            return
        while self._lost and now - self._lost[0] > WITHIN_S:
            self._lost.popleft()
        self._lost.extend([now] * len(self._alive - alive))
        replacing = min(len(alive - self._alive), len(self._lost))
        for _ in range(replacing):
            self._lost.popleft()
        self._replaced.extend([now] * replacing)
        if alive:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = now
        self._alive = alive

    def breakdown(self, now: float) -> str:
        """What is wrong, as the end of a sentence about the version, or nothing."""
        if len(self._replaced) == CRASHES and now - self._replaced[0] <= WITHIN_S:
            return f"crashes again and again: {CRASHES} replicas died within {now - self._replaced[0]:.0f} s"
        if self._none_since is not None and now - self._none_since >= GONE_S:
            return f"has had no replica for {now - self._none_since:.0f} s"
        return ""
