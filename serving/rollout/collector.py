"""Turns what gateways tell again and again into observations: each first attempt counts once, whatever is lost. Pure.

Gateways tell sums since their start, so an answer that gets lost costs nothing: the next one says the same and more.
Every observation comes with a cursor, and whoever begins with the last one that was logged goes on exactly there.

What can't be known is what a gateway counted and hadn't told when it died. And after a restart of the collector the bad
keys that are counted are asked for anew; those of a gateway that is gone meanwhile are forgotten, so such a key may
count once more elsewhere. Not here: asking (``serving.rollout.controller``), one gateway's counts
(``serving.rollout.source``), what they mean (``serving.rollout.evidence``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from serving.rollout.cursor import GatewayCursor
from serving.rollout.evidence import Observation, VariantCounts
from serving.rollout.source import News, Source
from serving.routing.collected import Collected
from serving.routing.outcomes import BadKey, Counted, SplitOutcomes

MARKS_MAX: Final = 1 << 18
"""Bad keys that are remembered over all gateways. Of new ones after that the bad attempts are ``repeated`` ones."""
SILENT_MAX: Final = 64
"""Gateways that are remembered though they don't answer: the last that did."""
MISSED_S: Final = 2.0
"""After a restart: so long nothing is counted while a gateway is silent whose bad keys are counted, but not known."""
BUSY_S: Final = 1.0
IDLE_S: Final = 5.0


class Windowed(msgspec.Struct, frozen=True):
    """An observation, and how far everything is observed with it and those before it. To be logged together."""

    observation: Observation
    cursor: tuple[GatewayCursor, ...]


def worth_logging(*, bad: bool, changed: bool, attempts: bool, since_s: float) -> bool:
    """Whether what was counted in the last ``since_s`` is logged now, rather than together with what follows.

    At once if anything was ``bad``, or if the weight, the gateways or those that report have ``changed``.
    """
    return bad or changed or since_s >= (BUSY_S if attempts else IDLE_S)


class Collector:
    """Of one rollout. ``cursor`` is the last one that was logged of it, ``since`` when it began (wall clock).

    What the mirror of an older gateway had compared when it is first heard says nothing of this rollout.
    """

    def __init__(
        self, rollout: str, model: str, canary: str, cursor: tuple[GatewayCursor, ...] = (), *, since: float = 0.0
    ) -> None:
        self.rollout = rollout
        self.model = model
        self.canary = canary
        self.faults: dict[str, str] = {}
        """By gateway, why its last answer doesn't count as a report."""
        self._since = since
        self._sources = {one.gateway: Source(one) for one in cursor}
        self._missed = {one.gateway for one in cursor if any(row.keys for row in one.weights)}
        self._missed_s = 0.0
        self._marks: set[int] = set()
        self._logged: _View | None = None
        self._window: _Window | None = None

    @property
    def cursor(self) -> tuple[GatewayCursor, ...]:
        """How far everything is observed by the windows that were handed out."""
        return tuple(source.logged for source in self._sources.values())

    def keys_from(self) -> dict[str, int]:
        """For the question (``Asked``): by gateway, how many of its bad keys are known already."""
        return {name: source.next_key for name, source in self._sources.items() if source.next_key}

    def taken(
        self, answers: Sequence[Collected], *, gateways: int, at: float, seconds: float, weight: float
    ) -> list[Windowed]:
        """What is to be logged, in this order, now that these of the ``gateways`` have answered; often nothing yet.

        ``seconds`` have passed since the last time, in which this weight (a share) was in force. Attempts that were
        thrown at another weight are windows of 0 s. The last window has the weight in force, all of the time and what
        mirrors have compared. All windows say how many gateways report.
        """
        told = {answer.gateway: self._heard(answer) for answer in answers}
        self.faults = {name: news.fault for name, news in told.items() if news.fault}
        self._forget_silent(len(told))
        view = _View(weight, gateways, len(told) - len(self.faults))
        windows: list[Windowed] = []
        if self._window is not None and self._window.view != view:
            windows = self._closed(self._window)
        if self._window is None:
            self._window = _Window(view)
        window = self._window
        window.at, window.seconds = at, window.seconds + seconds
        if self._all_marks_known(told, seconds, complete=len(told) >= gateways):
            self._count(list(told.values()), window)
        changed = view != self._logged
        if worth_logging(bad=window.bad, changed=changed, attempts=window.attempts, since_s=window.seconds):
            windows += self._closed(window)
        return windows

    def _heard(self, answer: Collected) -> News:
        shadow = f"{self.model}@{self.canary}"
        mirror = next((one for one in answer.mirrors if (one.model, one.shadow) == (self.model, shadow)), None)
        compared, agreed = (0, 0) if mirror is None else (mirror.compared_requests, mirror.agreed_requests)
        source = self._sources.pop(answer.gateway, None)
        if source is None or source.logged.started != answer.started:
            before = (compared, agreed) if answer.started < self._since else (0, 0)
            source = Source(GatewayCursor(answer.gateway, answer.started, (), *before))
        self._sources[answer.gateway] = source  # the last of all to be forgotten
        outcomes = next((one for one in answer.outcomes if self._is_ours(one)), None)
        news = source.news(outcomes, compared=compared, agreed=agreed)
        for mark in news.known_marks:
            self._is_first(mark)
        return news

    def _is_ours(self, outcomes: SplitOutcomes) -> bool:
        return (outcomes.model, outcomes.epoch, outcomes.canary) == (self.model, self.rollout, self.canary)

    def _forget_silent(self, heard: int) -> None:
        for name in list(self._sources)[: max(len(self._sources) - heard - SILENT_MAX, 0)]:
            del self._sources[name]
            self._missed.discard(name)

    def _all_marks_known(self, told: dict[str, News], seconds: float, *, complete: bool) -> bool:
        """Whether every bad key that is counted is known, as far as it can be: else it would count once more."""
        self._missed -= {name for name, news in told.items() if news.rows or not news.fault}
        self._missed_s += seconds
        if complete or self._missed_s >= MISSED_S:
            self._missed.clear()
        return not self._missed

    def _count(self, told: list[News], window: _Window) -> None:
        """Weight by weight in the order in which they are logged."""
        weights = {weight for news in told for weight in news.rows}
        for weight in sorted(weights, key=lambda weight: (weight == window.view.weight, weight)):
            for news in told:
                if weight in news.rows:
                    window.add(weight, *self._more(weight, news))
                    news.source.count(weight, news)
        for news in told:
            window.compared += news.compared - news.source.compared
            window.agreed += news.agreed - news.source.agreed
            news.source.count_rest(news)

    def _more(self, weight: float, news: News) -> tuple[VariantCounts, VariantCounts]:
        """The canary's and the stable version's attempts that aren't counted yet."""
        row, now = news.source.rows.get(weight), news.rows[weight]
        canary = _difference(now.canary, Counted() if row is None else row.canary)
        stable = _difference(now.stable, Counted() if row is None else row.stable)
        for key in news.keys.get(weight, ()):
            if self._is_first(key.mark):
                continue
            if key.canary:
                canary = _repeated(canary, key)
            else:
                stable = _repeated(stable, key)
        return canary, stable

    def _is_first(self, mark: int) -> bool:
        if mark in self._marks or len(self._marks) >= MARKS_MAX:
            return False
        self._marks.add(mark)
        return True

    def _closed(self, window: _Window) -> list[Windowed]:
        """The window's observations. After each, the cursor is what a restart between them would need."""
        self._window, self._logged = None, window.view
        windows: list[Windowed] = []
        for weight in sorted(window.counts.keys() - {window.view.weight}):
            for source in self._sources.values():
                source.log(weight)
            windows.append(Windowed(window.elsewhere(weight), self.cursor))
        for source in self._sources.values():
            source.log_all()
        return [*windows, Windowed(window.here(), self.cursor)]


class _View(NamedTuple):
    """What holds for a whole window."""

    weight: float
    gateways: int
    reporting: int


class _Window:
    """What was counted since something was logged."""

    def __init__(self, view: _View) -> None:
        self.view = view
        self.at = self.seconds = 0.0
        self.counts: dict[float, tuple[VariantCounts, VariantCounts]] = {}
        self.compared = self.agreed = 0

    def add(self, weight: float, canary: VariantCounts, stable: VariantCounts) -> None:
        if canary == stable == _NOTHING:
            return
        before = self.counts.get(weight, (_NOTHING, _NOTHING))
        self.counts[weight] = (before[0].plus(canary), before[1].plus(stable))

    @property
    def attempts(self) -> bool:
        return bool(self.counts) or self.compared > 0

    @property
    def bad(self) -> bool:
        return any(variant.bad or variant.repeated for both in self.counts.values() for variant in both)

    def elsewhere(self, weight: float) -> Observation:
        canary, stable = self.counts[weight]
        return Observation(self.at, 0.0, weight, canary, stable, 0, 0, self.view.gateways, self.view.reporting)

    def here(self) -> Observation:
        weight, gateways, reporting = self.view
        canary, stable = self.counts.get(weight, (_NOTHING, _NOTHING))
        return Observation(
            self.at, self.seconds, weight, canary, stable, self.compared, self.agreed, gateways, reporting
        )


_NOTHING: Final = VariantCounts()


def _difference(now: Counted, before: Counted) -> VariantCounts:
    return VariantCounts(
        now.attempts - before.attempts,
        now.bad - before.bad,
        now.slow - before.slow,
        now.invalid - before.invalid,
        now.repeated - before.repeated,
    )


def _repeated(counts: VariantCounts, key: BadKey) -> VariantCounts:
    """One of the bad attempts isn't the first of its key."""
    return replace(
        counts,
        bad=counts.bad - 1,
        slow=counts.slow - (key.kind == "slow"),
        invalid=counts.invalid - (key.kind == "invalid"),
        repeated=counts.repeated + 1,
    )
