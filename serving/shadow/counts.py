"""What a mirror has done since it was made, as plain data, and whether it is heard of at all. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from serving.shadow.compare import Comparison

EXPECTED_MIN: Final = 10
"""Requests that should have been mirrored before silence means anything; by chance none is, once in 20 000 times."""


class MirrorCounts(msgspec.Struct, frozen=True):
    """One mirror of one gateway. Numbers only ever grow; who wants what happened lately takes differences.

    ``answered``: good answers of the model that it was offered. ``mirrored``: the shadow was asked. ``dropped``: by
    reason, chosen but never asked. ``failed``: by the error's code, asked but without an answer. ``cancelled``: the
    mirror was stopped meanwhile. Every answer is compared, also an invalid one, which agrees in no row; ``disagreed``
    counts requests by the reason for the first row that didn't.
    """

    model: str
    shadow: str
    answered: int = 0
    mirrored: int = 0
    cancelled: int = 0
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    compared_requests: int = 0
    agreed_requests: int = 0
    compared_rows: int = 0
    agreed_rows: int = 0
    disagreed: dict[str, int] = {}


@dataclass(slots=True)
class Tally:
    """The same, while it is counted."""

    answered: int = 0
    mirrored: int = 0
    cancelled: int = 0
    compared_requests: int = 0
    agreed_requests: int = 0
    compared_rows: int = 0
    agreed_rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    disagreed: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    last_disagreement: str = ""

    def compared(self, found: Comparison, *, reason: str | None = None) -> None:
        """Add a comparison; ``reason`` if it has one that comparing doesn't know of."""
        self.compared_requests += 1
        self.compared_rows += found.rows
        self.agreed_rows += found.agreed
        self.worst = max(self.worst, found.worst)
        if found.agreed == found.rows:
            self.agreed_requests += 1
        else:
            self.disagreed[reason or found.reason] += 1
            self.last_disagreement = found.why

    def counts(self, model: str, shadow: str) -> MirrorCounts:
        return MirrorCounts(
            model=model,
            shadow=shadow,
            answered=self.answered,
            mirrored=self.mirrored,
            cancelled=self.cancelled,
            dropped=dict(self.dropped),
            failed=dict(self.failed),
            compared_requests=self.compared_requests,
            agreed_requests=self.agreed_requests,
            compared_rows=self.compared_rows,
            agreed_rows=self.agreed_rows,
            disagreed=dict(self.disagreed),
        )


class Silence:
    """Whether a mirror that should see traffic sees none: an alarm, because its agreement then says nothing.

    It judges a window that lasts ``window_s`` and until enough requests should have been mirrored; what it found holds
    until the next one is over. Times in monotonic seconds.
    """

    __slots__ = ("_answered", "_heard", "_since", "_window_s", "silent")

    def __init__(self, window_s: float, *, now: float) -> None:
        self._window_s = window_s
        self.silent = False
        self._since = now
        self._answered = self._heard = 0

    def begin(self, tally: Tally, *, now: float) -> None:
        """Forget what was found, and look from now on."""
        self.silent = False
        self._open(tally, now)

    def look(self, tally: Tally, *, share: float, now: float) -> bool:
        """Judge, if there is enough to go by; whether that has changed what is known."""
        expected = (tally.answered - self._answered) * share
        if now - self._since < self._window_s or expected < EXPECTED_MIN:
            return False
        before, self.silent = self.silent, tally.compared_requests == self._heard
        self._open(tally, now)
        return self.silent is not before

    def _open(self, tally: Tally, now: float) -> None:
        self._since, self._answered, self._heard = now, tally.answered, tally.compared_requests
