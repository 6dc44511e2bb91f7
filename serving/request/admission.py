"""Who is let in to a model now, who waits for it and in which order, and who is sent away at once.

Requests beyond the limit wait here, by priority, and only as long as that makes sense: what can't be served in time is
shed when it comes. The limit follows what the requests meet (``serving.request.limits``). Not here: batches and
replicas (``serving.request.lane``).
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

from serving.clock import Clock
from serving.errors import DeadlineExceeded, Overloaded
from serving.model_settings import ModelSettings
from serving.request.deadline import Deadlines
from serving.request.limits import Pace, Window, next_limit
from serving.request.priority import HIGH, LOW, NORMAL, PRIORITIES

WINDOW_S: Final = 0.1
WINDOW_SAMPLES: Final = 10
"""A window lasts until both are reached, and as long as its requests took: what it sees is what its limit did."""
SHARES: Final = {HIGH: 1.0, NORMAL: 0.75, LOW: 0.5}
"""How much of the longest wait, and of the places to wait in, a priority may use, so that a higher one finds some."""
MARGIN: Final = 1.25
"""So many times the expected time must be left to the deadline."""
RETRY_AFTER_MIN_S: Final = 1.0
RETRY_AFTER_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """How many at once, how long and how many may wait. Not ``enabled``: all are let in, and only counted."""

    enabled: bool = True
    limit_min: int = 16
    limit_max: int = 2048
    limit_start: int = 0
    """Where it starts, between these two. One full batch is a fair guess."""
    max_wait_s: float = 0.5
    max_waiting: int = 4096


def admission_limits(settings: ModelSettings) -> AdmissionLimits:
    admission = settings.admission
    return AdmissionLimits(
        enabled=admission.enabled,
        limit_min=admission.limit_min,
        limit_max=admission.limit_max,
        limit_start=settings.max_batch_rows,
        max_wait_s=admission.max_wait_ms * 1e-3,
        max_waiting=settings.max_waiting,
    )


class Permit:
    """A place among those that are let in. The first call of the three gives it back; any further one does nothing."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Admission) -> None:
        self._gate: Admission | None = gate

    def succeeded(self, *, took_s: float, waited_s: float) -> None:
        """It was answered, ``took_s`` after it was let in; ``waited_s`` of that passed before it was sent."""
        if (gate := self._gate) is not None:
            self._gate = None
            gate.succeeded(took_s, waited_s)

    def dropped(self) -> None:
        """It wasn't answered, and too much load may be why: its time ran out, or its replica was lost."""
        if (gate := self._gate) is not None:
            self._gate = None
            gate.dropped()

    def ignored(self) -> None:
        """How it ended says nothing about the load: it was cancelled, or its content was wrong."""
        if (gate := self._gate) is not None:
            self._gate = None
            gate.ended()


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits to be let in."""

    gate: Admission
    priority: int
    deadline: float
    since: float
    permit: asyncio.Future[Permit]

    def expire(self) -> None:
        self.gate.expired(self)


class Admission:
    """The gate of one model in one gateway."""

    __slots__ = (
        "_began",
        "_deadlines",
        "_done",
        "_dropped",
        "_exact_limit",
        "_limits",
        "_monotonic",
        "_open_to",
        "_pace",
        "_peak",
        "_queues",
        "_request_s",
        "_succeeded",
        "_took_s",
        "_waited_s",
        "_waiting",
        "inflight",
        "name",
        "shed",
    )

    def __init__(self, name: str, limits: AdmissionLimits, *, clock: Clock, deadlines: Deadlines) -> None:
        self.name = name
        self.inflight = 0
        self.shed = dict.fromkeys(PRIORITIES, 0)
        self._limits = limits
        self._monotonic = clock.monotonic
        self._deadlines = deadlines
        self._queues: dict[int, OrderedDict[Waiter, None]] = {priority: OrderedDict() for priority in PRIORITIES}
        self._waiting = 0
        self._exact_limit = float(min(max(limits.limit_start, limits.limit_min), limits.limit_max))
        self._open_to = int(self._exact_limit) if limits.enabled else sys.maxsize
        self._pace = Pace(self._monotonic(), PRIORITIES)
        self._request_s = 0.0  # the pace, with the margin, for the quick way in
        self._done = 0  # how many ever succeeded
        # The window that is open
        self._began = self._monotonic()
        self._succeeded = 0
        self._dropped = 0
        self._took_s = 0.0
        self._waited_s = 0.0
        self._peak = 0

    @property
    def limit(self) -> int:
        """How many are let in at once, or would be if it were enabled."""
        return int(self._exact_limit)

    @property
    def waiting(self) -> dict[int, int]:
        """How many wait, by priority."""
        return {priority: len(queue) for priority, queue in self._queues.items()}

    def status(self) -> dict[str, Any]:
        """What there is to see, as JSON. ``rate`` is in requests per second, null while it isn't known."""
        rate = self._pace.rate
        return {
            "enabled": self._limits.enabled,
            "limit": self.limit,
            "inflight": self.inflight,
            "waiting": {str(priority): len(queue) for priority, queue in self._queues.items()},
            "shed": {str(priority): count for priority, count in self.shed.items()},
            "rate": None if rate is None else round(rate, 3),
        }

    # Coming in

    def try_admit(self, priority: int, deadline: float) -> Permit | None:
        """A permit, or ``None`` when the request has to wait for one.

        Raises ``Overloaded`` when it would wait too long or be answered too late, ``DeadlineExceeded`` when its time is
        over already.
        """
        left_s = deadline - self._monotonic()
        # Whoever waits is let in as soon as there is room; so while there is room, nobody waits.
        if self.inflight < self._open_to and self.inflight * self._request_s < left_s:
            return self._let_in()
        self._judge(priority, left_s)
        return None

    async def admit(self, priority: int, deadline: float) -> Permit:
        """A permit, after waiting for it if need be. Raises as ``try_admit``, also when time runs out meanwhile."""
        if (permit := self.try_admit(priority, deadline)) is not None:
            return permit
        waiter = self._queue(priority, deadline)
        try:
            return await waiter.permit
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def _let_in(self) -> Permit:
        self.inflight = inflight = self.inflight + 1
        if inflight > self._peak:  # noqa: PLR1730  # calling `max` costs four times as much here
            self._peak = inflight
        return Permit(self)

    def _judge(self, priority: int, left_s: float) -> None:
        """Return if it makes sense to wait, else raise."""
        if left_s <= 0.0:
            raise DeadlineExceeded("the deadline passed before the request was let in")
        served_s = self.inflight * self._request_s
        if self.inflight < self._open_to:
            reason = f"an answer may take {served_s:.3f} s, {left_s:.3f} s are left"
            raise self._overloaded(priority, served_s, reason)
        now = self._monotonic()
        if not self._waiting:
            self._pace.filled(now, self._done)
        share = SHARES[priority]
        ahead = sum(len(queue) for other, queue in self._queues.items() if other <= priority)
        wait_s = self._pace.wait_s(priority, ahead, now=now, done=self._done, inflight=self.inflight)
        if self._waiting >= self._limits.max_waiting * share:
            raise self._overloaded(priority, wait_s, f"{self._waiting} requests wait already")
        if wait_s > self._limits.max_wait_s * share or wait_s + served_s > left_s:
            raise self._overloaded(priority, wait_s, f"the request would wait {wait_s:.3f} s for its turn")

    def _overloaded(self, priority: int, wait_s: float, reason: str) -> Overloaded:
        self.shed[priority] += 1
        retry_after_s = min(max(wait_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)
        return Overloaded(f"{self.name} is overloaded: {reason}", retry_after_s=retry_after_s)

    # Waiting

    def _queue(self, priority: int, deadline: float) -> Waiter:
        permit: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        waiter = Waiter(self, priority, deadline, self._monotonic(), permit)
        self._queues[priority][waiter] = None
        self._waiting += 1
        self._deadlines.watch(waiter)
        return waiter

    def _unqueue(self, waiter: Waiter) -> None:
        queue = self._queues[waiter.priority]
        if waiter in queue:
            del queue[waiter]
            self._waiting -= 1
            self._deadlines.forget(waiter)

    def _abandon(self, waiter: Waiter) -> None:
        """Nobody waits for this permit any more. If it was granted in the same moment, it goes back."""
        self._unqueue(waiter)
        permit = waiter.permit
        if permit.done() and not permit.cancelled() and permit.exception() is None:
            permit.result().ignored()

    def expired(self, waiter: Waiter) -> None:
        """The deadline of a waiter has passed."""
        self._unqueue(waiter)
        if not waiter.permit.done():
            given_s = waiter.deadline - waiter.since
            text = f"the deadline of {given_s:.3f} s passed while the request waited to be let in"
            waiter.permit.set_exception(DeadlineExceeded(text))

    def _let_in_who_waits(self) -> None:
        for priority, queue in self._queues.items():
            while queue:
                if self.inflight >= self._open_to:
                    return
                waiter = next(iter(queue))
                self._unqueue(waiter)
                if not waiter.permit.done():
                    waiter.permit.set_result(self._let_in())
                    self._pace.granted(priority)

    # Going out; called by permits only

    def succeeded(self, took_s: float, waited_s: float) -> None:
        self._done += 1
        self._succeeded += 1
        self._took_s += took_s
        self._waited_s += waited_s
        self.ended()

    def dropped(self) -> None:
        self._dropped += 1
        self.ended()

    def ended(self) -> None:
        self.inflight -= 1
        samples = self._succeeded + self._dropped
        if samples >= WINDOW_SAMPLES:
            now = self._monotonic()
            lasted_s = now - self._began
            if lasted_s >= WINDOW_S and lasted_s * samples >= self._took_s:
                self._end_window(now)
        if self._waiting:
            self._let_in_who_waits()

    def _end_window(self, now: float) -> None:
        limits = self._limits
        window = Window(self._succeeded, self._dropped, self._took_s, self._waited_s, self._peak)
        self._exact_limit = next_limit(self._exact_limit, window, lowest=limits.limit_min, highest=limits.limit_max)
        self._pace.window_ended(now, self._done, waiting=self._waiting > 0)
        if limits.enabled:
            self._open_to = int(self._exact_limit)
            self._request_s = self._pace.request_s * MARGIN
        self._began = now
        self._succeeded = self._dropped = 0
        self._took_s = self._waited_s = 0.0
        self._peak = self.inflight
