"""Counts how requests end, cheaply, until somebody collects the counts. Pure.

Not here: metric names and where they go (``serving.metrics``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.request.pipeline import Origin


@dataclass(slots=True)
class Tally:
    """What happened to one version's requests since the last collection.

    ``buckets[i]`` counts durations up to the i-th bound, the last one those above all bounds; not cumulative.
    """

    buckets: list[int]
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    origins: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What answered in the version's place and for which error; ("cache", "") is an answer that counts as fresh."""


class RequestRecorder:
    """A ``Recorder`` that adds up in memory; ``collect`` hands the sums over and starts anew."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = tuple(bounds_s)
        self._tallies: dict[tuple[str, str], Tally] = {}

    def record(self, key: tuple[str, str], outcome: str, *, seconds: float, origin: Origin | None = None) -> None:
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally([0] * (len(self._bounds_s) + 1))
        tally.outcomes[outcome] += 1
        tally.buckets[bisect_left(self._bounds_s, seconds)] += 1
        tally.seconds += seconds
        if origin is not None:
            tally.origins[origin.kind, origin.reason or ""] += 1

    def collect(self) -> dict[tuple[str, str], Tally]:
        """Everything recorded since the last call, by (model, version); unknown models under ``NO_VERSION``."""
        tallies, self._tallies = self._tallies, {}
        return tallies
