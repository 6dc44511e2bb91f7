"""What a lane knows of its version's pace: how long batches take, and how large they should be. Pure.

Not here: the pace of the model inside a replica (``serving.channel.pace``).
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.2
"""Of the newest batch, in the means."""

FIT_WEIGHT: Final = 0.1
"""Of the newest batch, in what tells fixed costs from those of a row: that needs batches of several sizes."""

SPREAD_MIN: Final = 0.1
"""How much recent sizes have to differ, as a share of their mean, for that to be told."""

BATCH_SHARE: Final = 1 / 16
"""How much of the time that a request was given its batch may be expected to take. Behind a batch that is under way and
beside another gateway's it takes four times as long, and there has to be time for another attempt. It is a share of
what was given, not of what is left: else a lane that is late would make its batches small, and be later still."""

OVERDUE_FACTOR: Final = 3.0
OVERDUE_MIN_S: Final = 0.01
"""What takes so many times as long as usual, and at least this, is the replica's doing and not its callers' haste."""


class BatchPace:
    """What recent batches say. Times in seconds, unless it says otherwise from sending a batch to its answer.

    The model's own time for a batch is taken to be ``base + rows * slope``: the line of least squares through recent
    batches, of which each newer one weighs more. Waiting behind other gateways' batches isn't in it: else the one with
    the smaller batches would think its rows the dearer ones.
    """

    __slots__ = ("_answered", "_batch_s", "_both", "_cap", "_last_rows", "_model_s", "_rows", "_squares")

    def __init__(self) -> None:
        self._answered = False
        self._batch_s = 0.0
        self._last_rows = 0
        self._rows = 0.0
        self._squares = 0.0
        self._model_s = 0.0
        self._both = 0.0
        """Means of the rows, of their squares, of the model's time, and of rows times time; together they fit."""
        self._cap: int | None = None

    def returned(self, seconds: float, *, good: bool) -> None:
        """A batch came back. How long a failed one took counts only while there is nothing better to go by.

        Failing may be quick: with that in the mean, a replica that computes would soon seem to hang.
        """
        if good and not self._answered:
            self._answered, self._batch_s = True, seconds
        elif good or not self._answered:
            self._batch_s += WEIGHT * (seconds - self._batch_s)

    def computed(self, rows: int, seconds: float) -> None:
        """The model has computed so many rows in so much time of its own."""
        weight = FIT_WEIGHT if self._last_rows else 1.0
        self._last_rows = rows
        self._rows += weight * (rows - self._rows)
        self._squares += weight * (rows * rows - self._squares)
        self._model_s += weight * (seconds - self._model_s)
        self._both += weight * (rows * seconds - self._both)

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
        if not self._model_s:
            return most
        surely = batch_s * self._rows / self._model_s  # even if all of the time were the rows'
        if surely >= most:
            return most
        slope_s = self._slope_s()
        base_s = self._model_s - slope_s * self._rows
        # To be twice as quick as the fixed costs allow makes nobody's answer come sooner: the others wait for it.
        batch_s = max(batch_s, 2.0 * base_s)
        # What is larger than what was seen is tried in steps, each of which tells of the next one.
        rows = 2.0 * max(self._last_rows, self._rows)
        if slope_s:
            rows = min(rows, (batch_s - base_s) / slope_s)
        return max(1, min(most, int(max(rows, surely) + 1e-6)))

    def _slope_s(self) -> float:
        """The model's time for one more row; 0 as long as the sizes don't tell."""
        spread = self._squares - self._rows * self._rows
        if spread < (SPREAD_MIN * self._rows) ** 2:
            return 0.0
        slope_s = (self._both - self._rows * self._model_s) / spread
        return min(max(slope_s, 0.0), self._model_s / self._rows)

    def overdue(self, seconds: float) -> bool:
        """Whether a batch that has been under way for so long takes unusually long."""
        return seconds >= OVERDUE_MIN_S and seconds >= OVERDUE_FACTOR * self._batch_s

    @property
    def patience_s(self) -> float:
        """How long a batch may be under way before it is overdue."""
        return max(OVERDUE_MIN_S, OVERDUE_FACTOR * self._batch_s)
