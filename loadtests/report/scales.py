"""From values to places on the paper, and where ticks belong. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """`low` is drawn at `start`, `high` at `end`; what lies beyond is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)


@dataclass(frozen=True)
class Log:
    """As `Linear`, by orders of magnitude. Both ends are positive."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if value <= 0:
            return self.start
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def decades(self) -> list[float]:
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]

    def between(self) -> list[float]:
        """The fainter ticks: 2 to 9 of every decade."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = (digit * 10.0**power for power in range(first, last) for digit in range(2, 10))
        return [value for value in values if self.low <= value <= self.high]


def zero_based(values: Iterable[float], *, start: float, end: float, at_least: float = 1.0) -> Linear:
    """From 0 to a round number above all values; from below 0 if some are."""
    known = [value for value in values if math.isfinite(value)]
    high = round_up(max([at_least, *known]))
    low = -round_up(-min(known)) if known and min(known) < 0 else 0.0
    return Linear(low, high, start, end)


def whole_decades(values: Iterable[float], *, start: float, end: float) -> Log:
    """Around all positive values, in whole decades; around 1 to 100 if there are none."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    if not known:
        return Log(1.0, 100.0, start, end)
    low = 10.0 ** math.floor(math.log10(min(known)))
    high = 10.0 ** math.ceil(math.log10(max(known)))
    return Log(low, high if high > low else low * 10, start, end)


def round_up(value: float) -> float:
    """The next 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next(step * unit for step in steps if step * unit >= value * (1 - 1e-9))


def ticks(low: float, high: float, *, at_most: int) -> list[float]:
    """Round values from low to high."""
    if high <= low:
        return [low]
    unit = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(factor * unit for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * unit) <= at_most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)


def time_ticks(until: float, *, at_most: int) -> list[float]:
    """Places on the time axis at which a clock's hand would be on a mark."""
    step = next((step for step in _TIME_STEPS if until / step <= at_most), until / at_most)
    return [round(number * step, 3) for number in range(math.floor(until / step + 1e-9) + 1)]
