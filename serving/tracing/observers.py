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
        chosen = [hear for of_good in self._of_good if (hear := of_good(call)) is not None]
        if len(chosen) < 2:
            return chosen[0] if chosen else None

        def tell(ended: Ended) -> None:
            for hear in chosen:
                hear(ended)

        return tell
