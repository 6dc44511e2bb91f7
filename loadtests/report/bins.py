"""Requests and series by the second, or coarser in a long run, so that a page never grows beyond bounds. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtests.report.record import OUTCOMES, Sample, Series

BINS_MAX = 400
SHORT_S = 10.0
"""A run that is shorter is looked at more closely than by the second."""
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)
ANSWERED = frozenset({"ok", "degraded"})
"""Whose latency counts. A quick refusal would flatter it, a cancelled request tells of the client's patience."""


@dataclass
class Bin:
    """The requests that were due in it."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    latencies_ms: list[float] = field(default_factory=list)
    """Of the answered ones, ascending."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def degraded_share(self) -> float:
        """Of the answers; NaN without any."""
        answers = self.counts["ok"] + self.counts["degraded"]
        return self.counts["degraded"] / answers if answers else math.nan


@dataclass(frozen=True)
class Binned:
    step_s: float
    seconds: float
    bins: Sequence[Bin]

    def start(self, number: int) -> float:
        return number * self.step_s

    def end(self, number: int) -> float:
        return min(self.seconds, (number + 1) * self.step_s)

    def rate(self, number: int, *outcomes: str) -> float:
        """Requests a second with these outcomes. The last bin may be shorter than the others."""
        length = self.end(number) - self.start(number)
        return sum(self.bins[number].counts[outcome] for outcome in outcomes) / length

    def quantiles(self, wanted: float) -> list[float]:
        """Of each bin, NaN where nothing was answered."""
        return [quantile(each.latencies_ms, wanted) for each in self.bins]


def step(seconds: float) -> float:
    """How long a bin is: a second where that is neither too fine nor too coarse."""
    if seconds <= SHORT_S:
        return 0.1 if seconds <= 2 else 0.5
    return float(next((each for each in _STEPS if seconds / each <= BINS_MAX), math.ceil(seconds / BINS_MAX)))


def binned(samples: Sequence[Sample], seconds: float) -> Binned:
    step_s = step(seconds)
    number = max(1, math.ceil(seconds / step_s - 1e-6))
    bins = [Bin() for _ in range(number)]
    for sample in samples:
        found = bins[min(number - 1, int(sample.due_s / step_s + 1e-9))]
        found.counts[sample.outcome] += 1
        if sample.outcome in ANSWERED and not math.isnan(sample.done_s):
            found.latencies_ms.append(sample.latency_ms)
    for each in bins:
        each.latencies_ms.sort()
    return Binned(step_s, seconds, bins)


def quantile(ascending: Sequence[float], wanted: float) -> float:
    """The smallest value that at least this share doesn't exceed (nearest rank); NaN of nothing."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(wanted * len(ascending) - 1e-9) - 1)]


def at(series: Series, moment: float) -> float:
    """The value last seen by then, NaN before the first."""
    place = bisect_right(series.times, moment)
    return series.values[place - 1] if place else math.nan


def worst(series: Series, start: float, end: float) -> float:
    """The highest value that held at some time from start to end."""
    first, last = bisect_left(series.times, start), bisect_left(series.times, end)
    seen = [at(series, start), *series.values[first:last]]
    return max((value for value in seen if not math.isnan(value)), default=math.nan)


def thinned(series: Series, *, at_most: int) -> list[tuple[float, float]]:
    """The series with no more than about `at_most` points: of each stretch its lowest and its highest value stay."""
    points = list(zip(series.times, series.values, strict=True))
    if len(points) <= at_most:
        return points
    size = math.ceil(2 * len(points) / at_most)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [point for point in stretch if not math.isnan(point[1])]
        if not known:
            kept.append(stretch[0])
            continue
        ends = {min(known, key=lambda point: point[1]), max(known, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def stretches(series: Series, until: float) -> list[tuple[float, float, float]]:
    """From, to and the value, for each time in which it stayed the same; unknown times are left out.

    The last value is believed for as long as there was between the last two looks.
    """
    gap = series.times[-1] - series.times[-2] if len(series.times) > 1 else until
    found: list[tuple[float, float, float]] = []
    for number, (start, value) in enumerate(zip(series.times, series.values, strict=True)):
        end = series.times[number + 1] if number + 1 < len(series.times) else max(start, min(until, start + gap))
        if math.isnan(value):
            continue
        if found and found[-1][2] == value and found[-1][1] == start:
            found[-1] = (found[-1][0], end, value)
        else:
            found.append((start, end, value))
    return found
