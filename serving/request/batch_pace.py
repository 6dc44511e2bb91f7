"""What a lane knows of its version's pace: how long batches take, and how large they should be. Pure.

Not here: the pace of the model inside a replica (``serving.channel.pace``).
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.2
"""Of the newest batch, in the means."""

BATCH_SHARE: Final = 1 / 16
"""How much of the time that a request was given its batch may be expected to take. Behind a batch that is under way and
beside another gateway's it takes four times as long, and there has to be time for another attempt. It is a share of
what was given, not of what is left: else a lane that is late would make its batches small, and be later still."""

OVERDUE_FACTOR: Final = 3.0
OVERDUE_MIN_S: Final = 0.01
"""What takes so many times as long as usual, and at least this, is the replica's doing and not its callers' haste."""


class BatchPace:
    """Means of the last batches. Times in seconds, unless it says otherwise from sending a batch to its answer."""

    __slots__ = ("_batch_s", "_cap", "_row_s")

    def __init__(self) -> None:
        self._batch_s = 0.0
        self._row_s = 0.0
        """That the model computes for a row, together with its share of what a batch needs anyway. Waiting behind other
        gateways' batches isn't in it: else the one with the smaller batches would think its rows the dearer ones."""
        self._cap: int | None = None

    def returned(self, seconds: float) -> None:
        """A batch was answered, well or not."""
        self._batch_s += WEIGHT * (seconds - self._batch_s)

    def computed(self, rows: int, seconds: float) -> None:
        """The model has computed so many rows in so much time of its own."""
        self._row_s += WEIGHT * (seconds / rows - self._row_s)

    def went_well(self) -> None:
        """A batch was answered without having to be taken apart."""
        if self._cap is not None:
            self._cap += max(1, self._cap >> 3)

    def fell_apart(self, rows: int) -> None:
        """A batch failed because of what some of its requests hold.

        All others of it have to be run again, so batches are halved while that happens, and grow again when it doesn't.
        """
        self._cap = max(1, (rows if self._cap is None else min(rows, self._cap)) >> 1)

    def rows_for(self, given_s: float, *, most: int) -> int:
        """How many rows a batch shall have whose first request was given so much time."""
        if self._cap is not None:
            if self._cap >= most:
                self._cap = None
            else:
                most = self._cap
        batch_s = given_s * BATCH_SHARE
        if not self._row_s or most * self._row_s <= batch_s:
            return most
        return max(1, int(batch_s / self._row_s))

    def overdue(self, seconds: float) -> bool:
        """Whether a batch that has been under way for so long takes unusually long."""
        return seconds >= OVERDUE_MIN_S and seconds >= OVERDUE_FACTOR * self._batch_s

    @property
    def patience_s(self) -> float:
        """How long a batch may be under way before it is overdue."""
        return max(OVERDUE_MIN_S, OVERDUE_FACTOR * self._batch_s)
