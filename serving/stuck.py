"""Tells what hangs from what is slow because everything is. Pure.

Not here: what may hang, and looking at it (``serving.watchdog``).
"""

from __future__ import annotations


class Stuck:
    """How long one and the same thing has been under way, in the turns of whoever looks."""

    def __init__(self, limit_s: float, *, turn_max_s: float) -> None:
        self._limit_s = limit_s
        self._turn_max_s = turn_max_s
        self._thing: object | None = None
        self._seen_s = 0.0

    def turn(self, thing: object | None, elapsed_s: float) -> bool:
        """Whether ``thing``, which is under way now, has been so for longer than the limit.

        ``elapsed_s`` has passed since the last turn; of a turn that came late, only ``turn_max_s`` count, because who
        looks late was held up by the same machine as what it looks at.
        """
        if thing is None or thing != self._thing:
            self._thing, self._seen_s = thing, 0.0
            return False
        self._seen_s += min(elapsed_s, self._turn_max_s)
        return self._seen_s > self._limit_s
