"""One gateway as a collector knows it: what is counted of it already, and what an answer says beyond that. Pure.

Not here: adding gateways up (``serving.rollout.collector``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import astuple

from serving.rollout.cursor import CountedAt, GatewayCursor
from serving.routing.outcomes import AtWeight, BadKey, SplitOutcomes

LOST = "its counts have become less than they were"
PARTIAL = "it has left out bad keys that aren't known yet"


class News:
    """What an answer says beyond what is counted. With a ``fault`` it doesn't count as a report, though it may count.

    ``known_marks`` are of bad keys that have been counted, ``keys`` are the others by weight.
    """

    __slots__ = ("agreed", "compared", "fault", "keys", "known_marks", "rows", "source")

    def __init__(self, source: Source, *, fault: str = "") -> None:
        self.source = source
        self.fault = fault
        self.rows: dict[float, AtWeight] = {}
        self.known_marks: list[int] = []
        self.keys: dict[float, list[BadKey]] = {}
        self.compared = source.compared
        self.agreed = source.agreed


class Source:
    """A gateway from its start to its end. ``rows`` is what is counted of it, ``logged`` how far that is logged."""

    __slots__ = ("_astray", "_counted_keys", "agreed", "compared", "logged", "next_key", "rows")

    def __init__(self, cursor: GatewayCursor) -> None:
        self.logged = cursor
        self.rows = {row.weight: row for row in cursor.weights}
        self.compared = cursor.compared
        self.agreed = cursor.agreed
        self.next_key = 0
        """So many of its bad keys have been heard."""
        self._counted_keys: dict[float, int] = {row.weight: row.keys for row in cursor.weights if row.keys}
        """By weight, how many of those that haven't been heard are counted."""
        self._astray = False

    def news(self, outcomes: SplitOutcomes | None, *, compared: int, agreed: int) -> News:
        """What these sums say. Nothing is counted by that."""
        if outcomes is None:
            return self._without_outcomes(compared, agreed)
        first = outcomes.next_key - len(outcomes.bad_keys)
        if first > self.next_key:
            return News(self, fault=PARTIAL)
        if self._astray:
            return self._begun_again(outcomes, compared, agreed)
        news = News(self, fault="" if outcomes.ended else outcomes.fault)
        news.rows = {row.weight: row for row in outcomes.weights}
        news.compared, news.agreed = compared, agreed
        counted = dict(self._counted_keys)
        for key in outcomes.bad_keys[self.next_key - first :]:
            if counted.get(key.weight):
                counted[key.weight] -= 1
                news.known_marks.append(key.mark)
            else:
                news.keys.setdefault(key.weight, []).append(key)
        if any(counted.values()) or outcomes.next_key < self.next_key or not self._only_grown(news):
            return self._gone_astray()
        return news

    def count(self, weight: float, news: News) -> None:
        """What is told at this weight is counted."""
        row, now = self.rows.get(weight), news.rows[weight]
        keys = (0 if row is None else row.keys) + len(news.keys.get(weight, ()))
        self.rows[weight] = CountedAt(weight, now.canary, now.stable, keys)

    def count_rest(self, news: News) -> None:
        """All weights are counted: what is left is the mirror's, and not to hear the same keys again."""
        self.compared, self.agreed = news.compared, news.agreed
        if news.rows:
            self.next_key += len(news.known_marks) + sum(map(len, news.keys.values()))
            self._counted_keys = {}

    def log(self, weight: float) -> None:
        """What is counted at this weight is logged."""
        if (row := self.rows.get(weight)) is not None:
            others = [other for other in self.logged.weights if other.weight != weight]
            rows = tuple(sorted((*others, row), key=lambda row: row.weight))
            self.logged = GatewayCursor(
                self.logged.gateway, self.logged.started, rows, self.logged.compared, self.logged.agreed
            )

    def log_all(self) -> None:
        rows = tuple(row for _, row in sorted(self.rows.items()))
        self.logged = GatewayCursor(self.logged.gateway, self.logged.started, rows, self.compared, self.agreed)

    def _without_outcomes(self, compared: int, agreed: int) -> News:
        """It has no counts of the rollout: not yet, or not any more."""
        news = News(self)
        if compared < self.compared or agreed < self.agreed:
            return self._gone_astray()
        news.compared, news.agreed = compared, agreed
        return news

    def _only_grown(self, news: News) -> bool:
        if news.compared < self.compared or news.agreed < self.agreed:
            return False
        for row in self.rows.values():
            now = news.rows.get(row.weight)
            if now is None or _less(astuple(now.canary), astuple(row.canary)):
                return False
            if _less(astuple(now.stable), astuple(row.stable)):
                return False
        return True

    def _gone_astray(self) -> News:
        """Its keys are asked for from the first on; when they are there, it is counted from what it tells then."""
        self._astray = True
        self.next_key = 0
        return News(self, fault=LOST)

    def _begun_again(self, outcomes: SplitOutcomes, compared: int, agreed: int) -> News:
        self._astray = False
        self.compared, self.agreed = compared, agreed
        self._counted_keys = Counter(key.weight for key in outcomes.bad_keys)
        self.rows = {
            row.weight: CountedAt(row.weight, row.canary, row.stable, self._counted_keys.get(row.weight, 0))
            for row in outcomes.weights
        }
        news = News(self, fault=LOST)
        news.known_marks = [key.mark for key in outcomes.bad_keys]
        return news


def _less(now: Sequence[int], before: Sequence[int]) -> bool:
    return any(one < other for one, other in zip(now, before, strict=True))
