"""How many lines of a kind may be written: a token bucket for each, and a count of those that weren't. Pure.

Not here: what a kind is.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

KINDS_MAX: Final = 256
"""So many kinds have a rate of their own; all others share one."""

_OTHERS: Final = ("others",)


class _Bucket:
    __slots__ = ("at", "held_back", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at
        self.held_back = 0


class LineRates:
    """Each kind may have ``burst`` at once after it was quiet, and ``per_s`` in a second."""

    def __init__(self, *, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._buckets: dict[Hashable, _Bucket] = {}

    def take(self, kind: Hashable, now: float) -> int | None:
        """None if this one is one too many; else how many of its kind were held back since the last one that wasn't."""
        bucket = self._buckets.get(kind)
        if bucket is None:
            if len(self._buckets) >= KINDS_MAX:
                kind = _OTHERS
            bucket = self._buckets.setdefault(kind, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.tokens < 1.0:
            bucket.held_back += 1
            return None
        bucket.tokens -= 1.0
        held_back, bucket.held_back = bucket.held_back, 0
        return held_back
