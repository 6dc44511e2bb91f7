"""How many requests of a model shall be under way at once, and how long the next one would wait for its turn.

The limit is of the gradient family (Netflix concurrency-limits, Envoy's gradient controller). Those guess or probe for
the time that a request takes when nothing waits; here every request brings it, since the lane knows how long it waited.
Not here: the clock (times are handed in), and who is let in (``serving.request.admission``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TOLERANCE: Final = 2.0
"""A request may take so many times what is worked on it: one batch is computed while it waits for the next."""
GRADIENT_MIN: Final = 0.5
GROWTH: Final = 0.5
SMOOTHING: Final = 0.5
"""The share of every step that is taken. Without it, the limit swings with several replicas and long batches."""
OVERTAKEN_MAX: Final = 0.99


@dataclass(frozen=True, slots=True)
class Window:
    """What a stretch of time saw. The sums are over the requests that succeeded."""

    succeeded: int
    dropped: int
    took_s: float
    waited_s: float
    peak: int
    """The most that were under way at once."""


def next_limit(limit: float, window: Window, *, lowest: int, highest: int) -> float:
    """The limit after this window.

    Where requests wait no longer than they are worked on, more of them make fuller batches: it grows by a quarter, if
    it was reached. The longer they wait beyond that, and the more of them were dropped, the smaller it gets. In between
    a square root of headroom lets it find out, so it settles at two full batches for each replica and a little more.
    """
    gradient = gradient_of(window)
    wanted = limit * min(max(gradient, GRADIENT_MIN), 1.0)
    if window.peak >= int(limit):
        wanted += limit * GROWTH if gradient >= 1.0 else max(math.sqrt(limit), 1.0)
    return min(max(limit + SMOOTHING * (wanted - limit), lowest), highest)


def gradient_of(window: Window) -> float:
    """Below 1 more requests are under way than is of use; above, fewer."""
    if not window.succeeded:
        return 0.0 if window.dropped else 1.0
    useful = window.succeeded / (window.succeeded + window.dropped)
    if window.took_s <= 0.0:
        return useful
    return TOLERANCE * useful * max(window.took_s - window.waited_s, 0.0) / window.took_s


class Pace:
    """How fast requests get done while others wait, and who overtakes whom.

    What gets done while nobody waits says how much there was to do, not how much could be done; of that, only what is
    faster than was thought counts.
    """

    __slots__ = ("_begun", "_begun_done", "_full", "_full_done", "_granted", "_overtaken", "rate")

    def __init__(self, now: float, priorities: tuple[int, ...]) -> None:
        self.rate: float | None = None
        """Requests per second, once it is known."""
        self._begun = self._full = now
        self._begun_done = self._full_done = 0
        self._granted = dict.fromkeys(priorities, 0)
        self._overtaken = dict.fromkeys(priorities, 0.0)

    @property
    def request_s(self) -> float:
        """Seconds from one request that is done to the next; 0 while it isn't known: nobody is shed on a guess."""
        return 1.0 / self.rate if self.rate else 0.0

    def filled(self, now: float, done: int) -> None:
        """The first one is about to wait. ``done`` is how many ever succeeded."""
        self._full, self._full_done = now, done

    def granted(self, priority: int) -> None:
        """One that waited was let in."""
        self._granted[priority] += 1

    def window_ended(self, now: float, done: int, *, waiting: bool) -> None:
        """Learn from a window; ``waiting``: someone has been waiting since ``filled`` and still does."""
        lasted_s, got_done = now - self._begun, done - self._begun_done
        if lasted_s > 0.0 and got_done:
            measured = got_done / lasted_s
            full = waiting and self._full <= self._begun
            if self.rate is None:
                self.rate = measured if full else None
            elif full or measured > self.rate:
                self.rate = (self.rate + measured) / 2
        if waiting:
            self.filled(now, done)
        self._learn_overtaking()
        self._begun, self._begun_done = now, done

    def _learn_overtaking(self) -> None:
        total, higher = sum(self._granted.values()), 0
        for priority, count in self._granted.items():
            self._overtaken[priority] = (self._overtaken[priority] + (higher / total if total else 0.0)) / 2
            higher += count
            self._granted[priority] = 0

    def wait_s(self, priority: int, ahead: int, *, now: float, done: int, inflight: int) -> float:
        """How long a request that comes while all places are taken will wait for one, ``ahead`` others before it.

        Later ones of higher priority go before it too; as many as did lately. If nothing gets done any more, no window
        ends; but it can't go faster than if all that is under way were done by now.
        """
        at_best_s = (now - self._full) / max(done - self._full_done + inflight, 1)
        left_for_it = 1.0 - min(self._overtaken[priority], OVERTAKEN_MAX)
        return (ahead + 1) * max(self.request_s, at_best_s) / left_for_it
