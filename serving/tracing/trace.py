"""The marks that a sampled request leaves on its way: moments, and what became of its attempts.

A stage leaves one by a single call, behind a single comparison with None: only sampled requests have a ``Trace``. What
is marked keeps nothing alive. Not here: spans, which are made of the marks later and elsewhere
(``serving.tracing.spans``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from serving.tracing.w3c import TraceParent

if TYPE_CHECKING:
    from serving.clock import Clock
    from serving.request.lane import Pending

ATTEMPTS_MAX: Final = 64


class AttemptMark(NamedTuple):
    """An attempt at ``version`` (``model@version``). Moments in monotonic seconds; 0 of what never was.

    ``outcome`` is ``ok``, ``cancelled``, or the code of an error. ``compute_s`` is what the replica says that the model
    took for all of the batch, None if it said nothing; ``requests`` and ``rows`` were in the batch.
    """

    version: str
    outcome: str
    began: float
    ended: float
    replica: str = ""
    sent: float = 0.0
    returned: float = 0.0
    compute_s: float | None = None
    requests: int = 0
    rows: int = 0


class Trace:
    """Moments in monotonic seconds, 0 as long as they haven't come. ``parent`` is the caller's span, if it has one."""

    __slots__ = (
        "_monotonic",
        "admitted_at",
        "answered_at",
        "attempts",
        "began",
        "decoded_at",
        "fallback_from",
        "fell_back_at",
        "parent",
        "span_id",
        "state",
        "trace_id",
        "wall",
    )

    def __init__(
        self, trace_id: int, span_id: int, *, parent: TraceParent | None, state: bytes | None, clock: Clock
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.state = state
        self._monotonic = clock.monotonic
        self.began = clock.monotonic()
        self.wall = clock.wall()
        """The wall clock when it began."""
        self.decoded_at = 0.0
        self.admitted_at = 0.0
        self.answered_at = 0.0
        """When there was an answer, not encoded yet."""
        self.fell_back_at = 0.0
        self.attempts: list[AttemptMark] = []
        self.fallback_from = 0
        """How many attempts there were before something else was asked."""

    def decoded(self) -> None:
        self.decoded_at = self._monotonic()

    def admitted(self) -> None:
        self.admitted_at = self._monotonic()

    def fell_back(self) -> None:
        """The fallbacks are asked from here on, and so are the attempts that come."""
        self.fell_back_at = self._monotonic()
        self.fallback_from = len(self.attempts)

    def answered(self) -> None:
        self.answered_at = self._monotonic()

    def attempted(self, version: str, outcome: str, pending: Pending | None) -> None:
        """An attempt has ended; ``pending`` is None if it never came to the version's lane."""
        if len(self.attempts) >= ATTEMPTS_MAX:
            return
        now = self._monotonic()
        if pending is None:
            self.attempts.append(AttemptMark(version, outcome, now, now))
        elif (batch := pending.batch) is None:
            self.attempts.append(AttemptMark(version, outcome, pending.since, now))
        else:
            rows = sum([member.request.rows for member in batch.members])
            self.attempts.append(
                AttemptMark(
                    version,
                    outcome,
                    pending.since,
                    now,
                    batch.client.replica_id,
                    pending.sent,
                    batch.returned,
                    batch.compute_s,
                    len(batch.members),
                    rows,
                )
            )
