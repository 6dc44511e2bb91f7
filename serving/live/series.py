"""What one gateway's requests came to, second by second, for the last five minutes. Pure.

It is made of what is collected for the metrics anyway, so a request costs nothing more. A collection rarely begins and
ends with a second: its counts are shared out among the seconds that it spans, so they are no whole numbers. Not here:
adding gateways up (``serving.live.history``), the wall clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import takewhile
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

    Empty buckets at the end are left out. ``weight`` is the canary's in this gateway at the end of the second.
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
        buckets = [round(count, 3) for count in self.buckets]
        while buckets and not buckets[-1]:
            buckets.pop()
        return Second(t, _rounded(self.outcomes), _rounded(self.reasons), buckets, self.weight)


class _OfModel:
    """The seconds of one model: those that are over, the oldest first, and those that may not be."""

    __slots__ = ("growing", "over")

    def __init__(self) -> None:
        self.over: deque[Second] = deque(maxlen=KEPT_S)
        self.growing: dict[int, _Growing] = {}

    def at(self, t: int, buckets: int) -> _Growing:
        growing = self.growing.get(t)
        if growing is None:
            growing = self.growing[t] = _Growing(buckets)
        return growing

    def settle(self, now: int) -> None:
        """Put down what is over, once; forget what is too old, or what a clock that was set back will count again."""
        for t in sorted(t for t in self.growing if t < now):
            self.over.append(self.growing.pop(t).second(t))
        while self.over and self.over[0].t < now - KEPT_S:
            self.over.popleft()
        while self.over and self.over[-1].t >= now:
            self.over.pop()


class Recording:
    """The series of one gateway. ``buckets`` is how many the recorder has; ``now`` in wall clock seconds."""

    def __init__(self, gateway: str, *, buckets: int, now: float) -> None:
        self._gateway = gateway
        self._buckets = buckets
        self._since = floor(now) + 1
        self._collected = now
        self._models: dict[str, _OfModel] = {}

    def add(self, tallies: Mapping[tuple[str, str], Tally], *, weights: Mapping[str, float], now: float) -> None:
        """What has ended since the last call, by model and version, and the weights of the canaries that there are."""
        shares = _shares(self._collected, now)
        for (model, _), tally in tallies.items():
            if model and (found := self._of(model)) is not None:
                for t, share in shares:
                    found.at(t, self._buckets).add(tally, share)
        for model, weight in weights.items():
            if weight and (found := self._of(model)) is not None:
                for t, _ in shares:
                    found.at(t, self._buckets).weight = weight
        self._collected = now
        self._since = min(self._since, floor(now))  # another only if the clock was set back
        for model, found in list(self._models.items()):
            found.settle(floor(now))
            if not found.over and not found.growing:
                del self._models[model]

    def page(self, after: int = 0) -> SeriesPage:
        """The seconds after this one that are over."""
        until = floor(self._collected)
        since = max(self._since, until - KEPT_S)
        first = max(after + 1, since)
        models = {model: _from(found.over, first) for model, found in self._models.items()}
        return SeriesPage(
            gateway=self._gateway,
            since=since,
            until=max(until, since),
            models={model: seconds for model, seconds in models.items() if seconds},
        )

    def _of(self, model: str) -> _OfModel | None:
        found = self._models.get(model)
        if found is None and len(self._models) < MODELS_MAX:
            found = self._models[model] = _OfModel()
        return found


def _from(seconds: deque[Second], first: int) -> list[Second]:
    """The last of them, back to the first that is wanted."""
    found = list(takewhile(lambda second: second.t >= first, reversed(seconds)))
    found.reverse()
    return found


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
