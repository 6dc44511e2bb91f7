"""The attempts at one version: breaker, lane, and further tries out of a budget.

Retry goes around the breaker, so retries stop when it opens. The first attempt runs outside tenacity, which costs
more than all the rest. Not here: what happens when no attempt succeeds (``fallbacks``), and the lane itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tenacity import AsyncRetrying, RetryCallState

from models.inference import InferenceRequest, Tensors
from serving.clock import Clock
from serving.errors import AttemptTimeout, DeadlineExceeded, Internal, InvalidAnswer, RequestError
from serving.model_settings import RetrySettings
from serving.request.breaker import Breaker, Ticket
from serving.request.budget import RetryBudget
from serving.request.failures import failure_of
from serving.request.lane import Lane, Pending, Share
from serving.request.quantile import Quantiles
from serving.request.trial import Trial
from serving.tracing.trace import Trace

BACKOFF_MIN_S: Final = 0.01
BACKOFF_MAX_S: Final = 0.25
SMALLEST_ATTEMPT_S: Final = 0.001
"""Time below which another attempt isn't worth its costs."""
HEDGE_QUANTILE: Final = 0.95
FALLBACK_SHARE: Final = 0.2
"""How much of the time that is left when the version is asked first all attempts leave to the fallbacks behind it."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """``attempts`` counts the first one; ``attempt_timeout_s`` None means half the time left.

    An attempt is bounded only if another replica could have the request after it.
    """

    attempts: int = 3
    attempt_timeout_s: float | None = None
    hedge: bool = False


def retry_limits(settings: RetrySettings) -> RetryLimits:
    timeout_ms = settings.attempt_timeout_ms
    return RetryLimits(
        attempts=settings.attempts if settings.enabled else 1,
        attempt_timeout_s=None if timeout_ms is None else timeout_ms / 1000,
        hedge=settings.hedge,
    )


class FailedAttempt(NamedTuple):
    """An attempt at ``version`` (``model@version``) that failed, and how; ``seconds`` from when it was begun.

    ``outputs`` are those of an invalid answer. The error itself isn't kept: it would keep everything under way.
    """

    version: str
    replica: str
    code: str
    message: str
    seconds: float
    outputs: Tensors = ()


class Exchange:
    """One request on its way: what it asks, until when, and what has happened to it so far."""

    __slots__ = (
        "attempts",
        "deadline",
        "failed",
        "has_fallback",
        "held_against",
        "overdue",
        "pause_s",
        "request",
        "shared",
        "since",
        "sticky_key",
        "suspect",
        "trace",
        "trial",
        "unheard",
        "until",
        "waited_s",
    )

    def __init__(
        self,
        request: InferenceRequest,
        deadline: float,
        *,
        has_fallback: bool = False,
        sticky_key: bytes | None = None,
        suspect: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.has_fallback = has_fallback
        self.sticky_key = sticky_key
        self.suspect = suspect
        """Whether a version has failed at it in a way that may be its own doing: then the next one that does so, too,
        isn't blamed for it."""
        self.trace = trace
        self.since = 0.0
        """When the version was asked first."""
        self.until = 0.0
        """When the attempts at the version have to be over; 0 as long as nobody has said so."""
        self.shared = True
        """Whether one replica may have only a share of that time, if another one could have the request after it."""
        self.attempts = 0
        self.waited_s = 0.0
        self.pause_s = 0.0
        """Before the next attempt."""
        self.failed: tuple[FailedAttempt, ...] = ()
        """Every attempt that failed so far, whichever version it was at."""
        self.overdue = False
        """Whether the last attempt took unusually long: not only longer than its caller could wait."""
        self.held_against = False
        """Whether the version's breaker has heard of a failure of this request: it hears of one at most, so that a
        request that no model can answer doesn't count as many times as it was tried."""
        self.unheard: tuple[Ticket, float] | None = None
        """A failed attempt of which the breaker hears only if no further one succeeds, and how long it took: where one
        replica of several is bad, it is for ejection to judge, and the version still answers."""
        self.trial: Trial | None = None
        """Wants to hear how the next attempt ends."""

    def start_again(self, now: float) -> None:
        """Another version will be asked, for all of the time that is left."""
        self.until = 0.0
        self.shared = True
        self.since = now
        self.waited_s = 0.0
        self.trial = None


@dataclass(slots=True)
class AttemptStats:
    """What became of a version's attempts since it was first served here."""

    outcomes: Counter[str]
    retries: int = 0
    hedges: int = 0
    budget_exhausted: int = 0
    under_way: int = 0
    """Requests that are being answered, also those that pause before another attempt."""


class Attempts:
    """Asks one version, as often as is worth while."""

    def __init__(
        self,
        lane: Lane,
        breaker: Breaker,
        *,
        limits: RetryLimits,
        budget: RetryBudget,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.lane = lane
        self.breaker = breaker
        self.budget = budget
        self.stats = AttemptStats(Counter())
        self._limits = limits
        self._monotonic = clock.monotonic
        self._random = random
        self._share = Share(limits.attempt_timeout_s)
        self._usual = Quantiles() if limits.hedge else None

    async def answer(self, exchange: Exchange) -> Tensors:
        """The version's outputs. Raises the ``RequestError`` of the last attempt, always by the deadline."""
        exchange.attempts = 0
        exchange.held_against = False
        if not exchange.until:
            exchange.until = self._until(exchange)
        self.stats.under_way += 1
        try:
            try:
                if exchange.trial is not None:
                    return await self._tried(exchange, exchange.trial)
                return await self._attempt(exchange, None)
            except _Failed as failed:
                if self._limits.attempts == 1 or not failure_of(failed.error).retryable:
                    raise failed.error from None
                first = failed
            return await self._retry(exchange, first)
        except RequestError as error:
            exchange.suspect = exchange.suspect or failure_of(error).by_input
            if exchange.unheard is not None and not exchange.held_against:
                ticket, seconds = exchange.unheard
                ticket.failed(seconds)
            raise
        finally:
            self.stats.under_way -= 1
            exchange.until = 0.0
            if exchange.unheard is not None:
                self._hear_no_more(exchange)

    def _hear_no_more(self, exchange: Exchange) -> None:
        if exchange.unheard is not None:
            exchange.unheard[0].ignored()  # has no effect on one that has been told already
            exchange.unheard = None

    async def _tried(self, exchange: Exchange, trial: Trial) -> Tensors:
        """The first attempt, and word of how it ended to those who compare versions."""
        exchange.trial = None
        try:
            outputs = await self._attempt(exchange, None)
        except _Failed as failed:
            trial.failed(failed.error)
            raise
        except asyncio.CancelledError:
            trial.cancelled(self._monotonic())
            raise
        trial.answered(self._monotonic())
        return outputs

    async def _retry(self, exchange: Exchange, first: _Failed) -> Tensors:
        """Further attempts. tenacity is shown the first failure as its own first attempt's."""
        retrying = AsyncRetrying(
            stop=lambda state: self._enough(exchange, state),
            wait=lambda state: self._pause_s(exchange, state),
            retry=_worth_another,
            sleep=asyncio.sleep,
            reraise=True,
        )
        failed = first
        try:
            async for attempt in retrying:
                with attempt:
                    if exchange.attempts == 1 and attempt.retry_state.attempt_number == 1:
                        raise first
                    self.stats.retries += 1
                    try:
                        return await self._attempt(exchange, failed.replica_id)
                    except _Failed as error:
                        failed = error
                        raise
        except _Failed as last:
            raise last.error from None
        raise AssertionError("tenacity ends with a result or an exception")

    def _enough(self, exchange: Exchange, state: RetryCallState) -> bool:
        """Whether to give up. Only what isn't given up for another reason costs the budget a token."""
        if state.attempt_number >= self._limits.attempts:
            return True
        if self._monotonic() + exchange.pause_s + SMALLEST_ATTEMPT_S >= exchange.until:
            return True
        if self.budget.spend():
            return False
        self.stats.budget_exhausted += 1
        return True

    def _pause_s(self, exchange: Exchange, state: RetryCallState) -> float:
        """None if another replica can take over at once, else one that grows, with jitter.

        tenacity asks for it before it asks whether it is ``_enough``.
        """
        failed = _failure_in(state)
        if failed is not None and failed.replica_id is not None and self.lane.has_other(failed.replica_id):
            exchange.pause_s = 0.0
        else:
            longest_s = min(BACKOFF_MIN_S * 4.0 ** (state.attempt_number - 1), BACKOFF_MAX_S)
            exchange.pause_s = longest_s * (0.5 + self._random())
        return exchange.pause_s

    def _until(self, exchange: Exchange) -> float:
        """At the deadline, or a little before if something else may answer then."""
        if not exchange.has_fallback:
            return exchange.deadline
        now = self._monotonic()
        return now + (1.0 - FALLBACK_SHARE) * (exchange.deadline - now)

    async def _attempt(self, exchange: Exchange, avoid: str | None) -> Tensors:
        """One attempt. When the caller goes away, so does the work."""
        exchange.attempts += 1
        pending: Pending | None = None
        ticket: Ticket | None = None
        outcome = Internal.code
        share = self._share if exchange.shared and exchange.attempts < self._limits.attempts else None
        try:
            ticket = self.breaker.admit()
            pending = self.lane.submit(exchange.request, exchange.until, avoid=avoid, share=share)
            if self._usual is None:
                outputs = await pending.answer
            else:
                pending, outputs = await self._hedged(pending, self._usual)
        except asyncio.CancelledError:
            outcome = "cancelled"
            if pending is not None:
                self._let_go(pending)
            raise
        except RequestError as raised:
            error = self._as_attempt(raised, exchange)
            outcome = error.code
            exchange.failed += (self._failed(error, pending),)
            if pending is not None and ticket is not None:
                exchange.overdue = pending.overdue
                ticket = self._hold_against(exchange, ticket, error, self._seconds(pending))
            raise _Failed(error, None if pending is None else pending.replica_id) from None
        else:
            outcome = "ok"
            ticket.succeeded(self._seconds(pending))
            self.budget.earned()
            return outputs
        finally:
            if ticket is not None:
                ticket.ignored()  # has no effect on one that has been told already
            if pending is not None:
                exchange.waited_s += pending.waited_s
            self.stats.outcomes[outcome] += 1
            if exchange.trace is not None:
                exchange.trace.attempted(self.lane.name, outcome, pending)

    def _hold_against(self, exchange: Exchange, ticket: Ticket, error: RequestError, seconds: float) -> Ticket | None:
        """Let the breaker hear of a failed attempt: now, when the request has failed altogether, or never.

        It hears of what took unusually long at once, because that has cost the caller time in any case; not of a caller
        who was only in a hurry, nor of a request that is ``suspect``. The ticket, unless it is kept for later.
        """
        failure = failure_of(error)
        if not failure.counts or exchange.held_against or (exchange.suspect and failure.by_input):
            return ticket
        if isinstance(error, DeadlineExceeded | AttemptTimeout):
            if exchange.overdue:
                exchange.held_against = True
                ticket.failed(seconds)
            return ticket
        self._hear_no_more(exchange)
        exchange.unheard = (ticket, seconds)
        return None

    def _as_attempt(self, error: RequestError, exchange: Exchange) -> RequestError:
        """An attempt that ran out of its own share of the time isn't the end of the request."""
        if isinstance(error, DeadlineExceeded) and self._monotonic() < exchange.deadline:
            return AttemptTimeout(error.message)
        return error

    def _failed(self, error: RequestError, pending: Pending | None) -> FailedAttempt:
        seconds, replica = 0.0, ""
        if pending is not None:
            seconds, replica = self._monotonic() - pending.since, pending.replica_id or ""
        outputs = error.outputs if isinstance(error, InvalidAnswer) else ()
        return FailedAttempt(self.lane.name, replica, error.code, error.message, seconds, outputs)

    def _seconds(self, pending: Pending | None) -> float:
        """How long the replica had the request: waiting for its turn says nothing about the version."""
        if pending is None or not pending.sent:
            return 0.0
        return self._monotonic() - pending.sent

    async def _hedged(self, pending: Pending, usual: Quantiles) -> tuple[Pending, Tensors]:
        """As the first attempt, and if that takes unusually long, a second one on another replica beside it."""
        after_s = usual.quantile(HEDGE_QUANTILE)
        if after_s is not None:
            await asyncio.wait((pending.answer,), timeout=after_s)
        if (
            after_s is None
            or pending.answer.done()
            or pending.batch is None  # it waits for its turn, and would only wait twice
            or not self.lane.has_room_beside(pending.replica_id)
            or not self.budget.spend()
        ):
            outputs = await pending.answer
            usual.observed(self._monotonic() - pending.since)
            return pending, outputs
        return await self._first_good(pending, usual)

    async def _first_good(self, first: Pending, usual: Quantiles) -> tuple[Pending, Tensors]:
        try:
            second = self.lane.submit(first.request, first.deadline, avoid=first.replica_id or "")
        except RequestError:  # nobody can take it any more; the first one is still under way
            return first, await first.answer
        self.stats.hedges += 1
        both = {first.answer: first, second.answer: second}
        try:
            waiting = set(both)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for answer in done:
                    if answer.exception() is None:
                        usual.observed(self._monotonic() - first.since)
                        return both[answer], answer.result()
            return first, first.answer.result()
        finally:
            for pending in both.values():
                self._let_go(pending)

    def _let_go(self, pending: Pending) -> None:
        """Nobody waits for this answer, whether it has come or not."""
        pending.answer.cancel()
        if pending.answer.cancelled():
            self.lane.abandon(pending)
        else:
            pending.answer.exception()  # looked at, so that nobody complains that it wasn't


class _Failed(Exception):
    """Carries an attempt's error and who had it, through tenacity."""

    def __init__(self, error: RequestError, replica_id: str | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.replica_id = replica_id


def _failure_in(state: RetryCallState) -> _Failed | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, _Failed) else None


def _worth_another(state: RetryCallState) -> bool:
    failed = _failure_in(state)
    return failed is not None and failure_of(failed.error).retryable
