"""The series of all gateways as one: heard page by page, merged second by second. Pure.

A second is merged once, when every gateway that answers has told of it; one that has fallen silent is waited for
``PATIENCE_S``. What a gateway counted stays when it is gone. Not here: asking them (``serving.live.siblings``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from math import floor
from typing import Final, NamedTuple

from serving.errors import CallerError, Overloaded
from serving.live.series import KEPT_S, Second, SeriesPage
from serving.live.snapshot import Series
from serving.request.failures import FAILURES
from serving.request.pipeline import CANCELLED, DEGRADED, OK

PATIENCE_S: Final = 3.0
RECENT_S: Final = 10
_OTHER: Final = frozenset({CANCELLED, *(error.code for error in FAILURES if issubclass(error, CallerError))})


class Rates(NamedTuple):
    """What requests came to, in requests per second; ``other`` is what callers got wrong or gave up."""

    ok: float = 0.0
    errors: float = 0.0
    degraded: float = 0.0
    shed: float = 0.0
    other: float = 0.0


class Point(NamedTuple):
    """One merged second of a model."""

    t: int
    rates: Rates
    p50_ms: float | None
    p99_ms: float | None
    weight: float


class Recent(NamedTuple):
    """The last seconds of a model as one."""

    rates: Rates
    p50_ms: float | None
    p99_ms: float | None
    degraded_by_reason: dict[str, float]
    errors_by_reason: dict[str, float]


class _Track:
    """What one gateway has told."""

    def __init__(self, page: SeriesPage) -> None:
        self.since = page.since
        self.until = page.until
        self.heard = 0.0
        self.seconds: dict[int, dict[str, Second]] = {}

    def hear(self, page: SeriesPage, now: float) -> None:
        for model, seconds in page.models.items():
            for second in seconds:
                self.seconds.setdefault(second.t, {})[model] = second
        self.until = max(self.until, page.until)
        self.heard = now


class History:
    """``bounds_s`` are the upper bounds of the recorders' buckets."""

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = tuple(bounds_s)
        self._tracks: dict[str, _Track] = {}
        self._points: dict[str, deque[Point]] = {}
        self._sums: dict[str, deque[Second]] = {}
        self._merged = 0
        """All seconds before this one are merged."""
        self._until = 0
        """All seconds before this one can be."""

    @property
    def last(self) -> int:
        """The newest second that is merged."""
        return self._merged - 1

    def after(self, gateway: str) -> int:
        """The second after which this gateway has yet to tell."""
        track = self._tracks.get(gateway)
        return 0 if track is None else track.until - 1

    def hear(self, pages: Iterable[SeriesPage], *, now: float) -> None:
        """What gateways told just now; it isn't merged yet."""
        for page in pages:
            track = self._tracks.get(page.gateway)
            if track is None or page.until < track.until:  # a new one, or its clock was set back
                track = self._tracks[page.gateway] = _Track(page)
            track.hear(page, now)
        heard = [track for track in self._tracks.values() if track.heard > now - PATIENCE_S]
        self._until = min((track.until for track in heard), default=self._merged)
        if self._merged > now + PATIENCE_S:  # the clock was set back: what it will count again begins anew
            self._points, self._sums, self._merged = {}, {}, 0
        began = min((track.since for track in self._tracks.values()), default=self._until)
        self._merged = max(self._merged, min(max(floor(now) - KEPT_S, began), self._until))

    def merge(self, *, most: int = KEPT_S) -> bool:
        """Merge what can be, at most so many seconds; whether there is more to do."""
        until = max(min(self._until, self._merged + most), self._merged)
        for t in range(self._merged, until):
            self._merge_second(t)
        self._merged = until
        self._forget()
        return self._merged < self._until

    def series(self, model: str, *, after: int = 0) -> Series:
        """All seconds after this one, also those in which nothing was asked."""
        first = max(after + 1, self._merged - KEPT_S, min((track.since for track in self._tracks.values()), default=0))
        found = {point.t: point for point in self._points.get(model, ()) if point.t >= first}
        points = [found.get(t) or Point(t, Rates(), None, None, 0.0) for t in range(first, self._merged)]
        return Series(
            t=[point.t for point in points],
            ok=[point.rates.ok for point in points],
            errors=[point.rates.errors for point in points],
            degraded=[point.rates.degraded for point in points],
            shed=[point.rates.shed for point in points],
            p50_ms=[point.p50_ms for point in points],
            p99_ms=[point.p99_ms for point in points],
            weight=[point.weight for point in points],
        )

    def recent(self, model: str) -> Recent:
        """The last ten seconds, or as many as there have been."""
        began = min((track.since for track in self._tracks.values()), default=self._merged)
        seconds = max(min(RECENT_S, self._merged - began), 1)
        total = added(second for second in self._sums.get(model, ()) if second.t >= self._merged - RECENT_S)
        return Recent(
            Rates(*(_per(count, seconds) for count in rates(total.outcomes))),
            _ms(quantile(total.buckets, self._bounds_s, 0.5)),
            _ms(quantile(total.buckets, self._bounds_s, 0.99)),
            {reason: _per(count, seconds) for reason, count in sorted(total.reasons.items())},
            {name: _per(n, seconds) for name, n in sorted(total.outcomes.items()) if kind_of(name) == "errors"},
        )

    def _merge_second(self, t: int) -> None:
        told = [track for track in self._tracks.values() if track.since <= t < track.until]
        for model in sorted({model for track in told for model in track.seconds.get(t, {})}):
            parts = [track.seconds[t][model] for track in told if model in track.seconds.get(t, {})]
            total = added(parts)
            weight = round(sum(part.weight for part in parts) / len(told), 4)
            p50, p99 = (_ms(quantile(total.buckets, self._bounds_s, q)) for q in (0.5, 0.99))
            rounded = Rates(*(round(count, 3) for count in rates(total.outcomes)))
            self._points.setdefault(model, deque(maxlen=KEPT_S)).append(Point(t, rounded, p50, p99, weight))
            self._sums.setdefault(model, deque(maxlen=RECENT_S)).append(
                Second(t, total.outcomes, total.reasons, total.buckets, weight)
            )

    def _forget(self) -> None:
        for gateway, track in list(self._tracks.items()):
            track.seconds = {t: told for t, told in track.seconds.items() if t >= self._merged}
            if track.until < self._merged - KEPT_S:
                del self._tracks[gateway]
        for model, points in list(self._points.items()):
            if points[-1].t < self._merged - KEPT_S:
                del self._points[model], self._sums[model]


def kind_of(outcome: str) -> str:
    """The field of ``Rates`` that a recorded outcome counts for."""
    if outcome in (OK, DEGRADED):
        return outcome
    if outcome == Overloaded.code:
        return "shed"
    return "other" if outcome in _OTHER else "errors"


def rates(outcomes: dict[str, float]) -> Rates:
    """Outcomes by what they mean for the caller."""
    counts = dict.fromkeys(Rates._fields, 0.0)
    for outcome, count in outcomes.items():
        counts[kind_of(outcome)] += count
    return Rates(**counts)


def added(seconds: Iterable[Second]) -> Second:
    """The counts of all of them in one, of the last one's time and weight."""
    t, weight = 0, 0.0
    outcomes: dict[str, float] = {}
    reasons: dict[str, float] = {}
    buckets: list[float] = []
    for second in seconds:
        t, weight = second.t, second.weight
        for into, counts in ((outcomes, second.outcomes), (reasons, second.reasons)):
            for name, count in counts.items():
                into[name] = into.get(name, 0.0) + count
        buckets = [a + b for a, b in zip_longest(buckets, second.buckets, fillvalue=0.0)]
    return Second(t, outcomes, reasons, buckets, weight)


def quantile(buckets: Sequence[float], bounds_s: Sequence[float], q: float) -> float | None:
    """As Prometheus' ``histogram_quantile``: linear within a bucket, the last bound above all; None without counts."""
    total = sum(buckets)
    if total <= 0:
        return None
    rank, seen, lower = q * total, 0.0, 0.0
    for count, upper in zip(buckets, bounds_s, strict=False):
        if count and seen + count >= rank:
            return lower + (upper - lower) * (rank - seen) / count
        seen, lower = seen + count, upper
    return lower


def _per(count: float, seconds: int) -> float:
    return round(count / seconds, 3)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
