"""How the first attempt of a thrown request ended: what is bad when two versions are compared. Pure.

Both variants are judged alike, or chance wouldn't be the only difference between them. So an answer of the stable
version counts as failed if it took longer than a canary's first attempt may take, though its caller gets it; and an
attempt that a breaker refused, or that waited its time away in the lane, is bad, for it was thrown and failed. What
says nothing of a version (cancelled, the caller's own mistake, a defect of ours) counts for nothing, not as an attempt
either. Not here: retries, hedges apart (a hedge is at the same version, so it is part of how that version answers).
"""

from __future__ import annotations

from typing import Final

from serving.errors import CircuitOpen, InvalidAnswer, QueueTimeout, RequestError
from serving.request.failures import failure_of
from serving.routing.outcomes import Ledger, Variant
from serving.routing.split import mark

_BAD_FOR_WHO_WAS_THROWN: Final = (CircuitOpen, QueueTimeout)


class Trial:
    """Hears once how a first attempt ended; times in monotonic seconds.

    ``within_s`` is how long a canary's may take, ``slow_s`` the latency objective, ``inf`` without one. ``key`` is what
    was thrown, None if it was the request itself.
    """

    __slots__ = ("_began", "_key", "_ledger", "_slow_s", "_variant", "_within_s")

    def __init__(
        self, ledger: Ledger, variant: Variant, key: bytes | None, *, began: float, within_s: float, slow_s: float
    ) -> None:
        self._ledger = ledger
        self._variant = variant
        self._key = key
        self._began = began
        self._within_s = within_s
        self._slow_s = slow_s

    def answered(self, now: float) -> None:
        self._variant.attempts += 1
        took_s = now - self._began
        if took_s > self._within_s:
            self._ledger.bad(self._variant, "failed", self._mark())
        elif took_s > self._slow_s:
            self._ledger.bad(self._variant, "slow", self._mark())

    def failed(self, error: RequestError) -> None:
        if not failure_of(error).bad and not isinstance(error, _BAD_FOR_WHO_WAS_THROWN):
            return
        self._variant.attempts += 1
        self._ledger.bad(self._variant, "invalid" if isinstance(error, InvalidAnswer) else "failed", self._mark())

    def cancelled(self, now: float) -> None:
        """The caller has gone. Only if a canary's attempt would have failed before that does it count, as bad."""
        if now - self._began > self._within_s:
            self._variant.attempts += 1
            self._ledger.bad(self._variant, "failed", self._mark())

    def _mark(self) -> int | None:
        return None if self._key is None else mark(self._key, self._ledger.epoch)
