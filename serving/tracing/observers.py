"""Several observers of requests as one.

Not here: what they make of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.request.pipeline import Ended, Hear, InferCall, Observer


class Observers:
    """Each hears of what it would hear of alone, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._each = tuple([observer.ended for observer in observers])
        self._of_good = tuple([observer.of_good for observer in observers])

    def ended(self, ended: Ended) -> None:
        for hear in self._each:
            hear(ended)

    def of_good(self, call: InferCall) -> Hear | None:
        chosen: Hear | None = None
        for of_good in self._of_good:
            if (hear := of_good(call)) is not None:
                chosen = hear if chosen is None else _both(chosen, hear)
        return chosen


def _both(one: Hear, other: Hear) -> Hear:
    def tell(ended: Ended) -> None:
        one(ended)
        other(ended)

    return tell
