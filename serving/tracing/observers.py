"""Several observers of requests as one.

Not here: what they make of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.request.pipeline import Ended, Observer


class Observers:
    """Each hears of every request, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._each = tuple([observer.ended for observer in observers])

    def ended(self, ended: Ended) -> None:
        for hear in self._each:
            hear(ended)
