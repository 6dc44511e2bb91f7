"""What further attempts cost, so that a total outage can't double the load. Pure.

Every good answer earns a share of an attempt, every further attempt costs one. Not here: whether another attempt makes
sense (the failure's class says so).
"""

from __future__ import annotations

from typing import Final

START: Final = 10
"""Attempts that may be made before anything was earned: a fresh gateway has failures too."""

_ATTEMPT: Final = 1_000_000
"""Parts of an attempt that are counted, as whole numbers: a sum of floats drifts."""


class RetryBudget:
    """A bucket of tokens, one for each attempt; it never holds more than ``maximum``."""

    __slots__ = ("_earning", "_maximum", "_parts")

    def __init__(self, ratio: float, maximum: int) -> None:
        self._earning = int(ratio * _ATTEMPT + 0.5)
        self._maximum = maximum * _ATTEMPT
        self._parts = min(START, maximum) * _ATTEMPT

    @property
    def tokens(self) -> float:
        """The attempts that could be made now."""
        return self._parts / _ATTEMPT

    def earned(self) -> None:
        """An answer was good."""
        self._parts = min(self._parts + self._earning, self._maximum)

    def spend(self) -> bool:
        """Pay for one further attempt; False if there is nothing to pay with."""
        if self._parts < _ATTEMPT:
            return False
        self._parts -= _ATTEMPT
        return True
