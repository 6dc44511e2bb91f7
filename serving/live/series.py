"""What one gateway's requests came to, second by second, for the last five minutes. Pure.

It is made of what is collected for the metrics anyway, so a request costs nothing more. A collection rarely begins and
ends with a second: its counts are shared out among the seconds that it spans, so they are no whole numbers. Not here:
adding gateways up (``serving.live.history``), the wall clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Final

import msgspec

from serving.request.record import Tally

KEPT_S: Final = 300
MODELS_MAX: Final = 256
"""Models of which there is a series. Of one that comes when there are so many, nothing is kept."""
_SPREAD_MAX_S: Final = 10.0
"""What is collected after a longer time, or by a clock that was set back, is put down as of now."""


class Second(msgspec.Struct, array_like=True, frozen=True):
    """One second of a model: outcomes by name, degraded answers by reason, durations by the recorder's buckets.

    ``weight`` is the canary's in this gateway at the end of the second.
    """

    t: int
    outcomes: dict[str, float]
    reasons: dict[str, float]
    buckets: list[float]
    weight: float


class SeriesPage(msgspec.Struct, frozen=True, kw_only=True):
    """Whole seconds of one gateway, from ``since`` to before ``until``; those that aren't there had no requests.

    ``gateway`` is another one after a restart.
    """

    gateway: str
    since: int
    until: int
    models: dict[str, list[Second]] = {}


class _Growing:
    """A second that may not be over."""

    __slots__ = ("buckets", "outcomes", "reasons", "weight")

    def __init__(self, buckets: int) -> None:
        self.outcomes: dict[str, float] = {}
        self.reasons: dict[str, float] = {}
        self.buckets = [0.0] * buckets
        self.weight = 0.0

    def add(self, tally: Tally, share: float) -> None:
        for outcome, count in tally.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0.0) + share * count
        for (_, reason), count in tally.origins.items():
            if reason:
                self.reasons[reason] = self.reasons.get(reason, 0.0) + share * count
        for index, count in enumerate(tally.buckets):
            if count:
                self.buckets[index] += share * count

    def second(self, t: int) -> Second:
        return Second(
            t, _rounded(self.outcomes), _rounded(self.reasons), [round(n, 3) for n in self.buckets], self.weight
        )


class Recording:
    """The series of one gateway. ``buckets`` is how many the recorder has; ``now`` in wall clock seconds."""

    def __init__(self, gateway: str, *, buckets: int, now: float) -> None:
        self._gateway = gateway
        self._buckets = buckets
        self._since = floor(now) + 1
        self._collected = now
        self._models: dict[str, dict[int, _Growing]] = {}

    def add(self, tallies: Mapping[tuple[str, str], Tally], *, weights: Mapping[str, float], now: float) -> None:
        """What has ended since the last call, by model and version, and the weights of the canaries that there are."""
        shares = _shares(self._collected, now)
        for (model, _), tally in tallies.items():
            if model and (seconds := self._seconds(model)) is not None:
                for t, share in shares:
                    self._growing(seconds, t).add(tally, share)
        for model, weight in weights.items():
            if weight and (seconds := self._seconds(model)) is not None:
                for t, _ in shares:
                    self._growing(seconds, t).weight = weight
        self._collected = now
        self._forget(now)

    def page(self, after: int = 0) -> SeriesPage:
        """The seconds after this one that are over."""
        until = floor(self._collected)
        since = max(self._since, until - KEPT_S)
        models = {
            model: [growing.second(t) for t, growing in sorted(seconds.items()) if max(after + 1, since) <= t < until]
            for model, seconds in self._models.items()
        }
        return SeriesPage(
            gateway=self._gateway,
            since=since,
            until=max(until, since),
            models={model: seconds for model, seconds in models.items() if seconds},
        )

    def _seconds(self, model: str) -> dict[int, _Growing] | None:
        seconds = self._models.get(model)
        if seconds is None and len(self._models) < MODELS_MAX:
            seconds = self._models[model] = {}
        return seconds

    def _growing(self, seconds: dict[int, _Growing], t: int) -> _Growing:
        growing = seconds.get(t)
        if growing is None:
            growing = seconds[t] = _Growing(self._buckets)
        return growing

    def _forget(self, now: float) -> None:
        """What is too old, and what a clock that was set back will count again."""
        for model, seconds in list(self._models.items()):
            for t in [t for t in seconds if not now - KEPT_S - 1 <= t <= now]:
                del seconds[t]
            if not seconds:
                del self._models[model]


def _shares(since: float, until: float) -> Sequence[tuple[int, float]]:
    """The seconds between two moments, and the share of that time which lies in each."""
    if not 0 < until - since <= _SPREAD_MAX_S:
        return ((floor(until), 1.0),)
    return [
        (t, (min(until, t + 1) - max(since, t)) / (until - since))
        for t in range(floor(since), floor(until) + 1)
        if min(until, t + 1) > max(since, t)
    ]


def _rounded(counts: Mapping[str, float]) -> dict[str, float]:
    return {name: round(count, 3) for name, count in counts.items()}
