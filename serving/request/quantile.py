"""How long all but a few requests take, estimated from a stream of durations. Pure.

Durations are counted in buckets whose bounds grow by a tenth each, so the estimate is at most a tenth too high and
never too low. Old counts fade, so it follows a version that becomes slower or faster.
"""

from __future__ import annotations

from math import log
from typing import Final

GROWTH: Final = 1.1
SMALLEST_S: Final = 1e-5
LARGEST_S: Final = 1e3
SEEN_MIN: Final = 50
"""Durations that must have been seen before there is an estimate."""

REMEMBERED: Final = 2000
"""Counts are halved when they add up to so many."""

_REFRESH: Final = 32
"""Durations after which an estimate is made anew: adding the buckets up for every request would be dear."""

_PER_LOG: Final = 1 / log(GROWTH)
_LAST: Final = int(log(LARGEST_S / SMALLEST_S) * _PER_LOG) + 1


class Quantiles:
    """Durations, in seconds, of which it is asked what share of them are below what."""

    __slots__ = ("_counts", "_estimates", "_fresh", "_total", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self._counts = [0.0] * (_LAST + 1)
        self._total = 0.0
        self._estimates: dict[float, float] = {}
        self._fresh = 0
        """Durations since the estimates were made."""

    def observed(self, seconds: float) -> None:
        """Anything below ``SMALLEST_S`` counts as that, anything above ``LARGEST_S`` likewise."""
        bucket = min(int(log(seconds / SMALLEST_S) * _PER_LOG) + 1, _LAST) if seconds > SMALLEST_S else 0
        self._counts[bucket] += 1.0
        self._total += 1.0
        self.seen += 1
        self._fresh += 1
        if self._total >= REMEMBERED:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2

    def quantile(self, share: float) -> float | None:
        """The duration that ``share`` of them (above 0, up to 1) don't exceed; None while too few were seen."""
        if self.seen < SEEN_MIN:
            return None
        if self._fresh >= _REFRESH:
            self._estimates.clear()
            self._fresh = 0
        estimate = self._estimates.get(share)
        if estimate is None:
            estimate = self._estimates[share] = self._estimate(share)
        return estimate

    def _estimate(self, share: float) -> float:
        """Counted from the slow end: the shares that are asked for are near to it."""
        above = self._total * (1 - share) + 1e-9 * self._total  # a hair more, against rounding
        for bucket in range(_LAST, 0, -1):
            above -= self._counts[bucket]
            if above < 0:
                return float(SMALLEST_S * GROWTH**bucket)
        return SMALLEST_S
