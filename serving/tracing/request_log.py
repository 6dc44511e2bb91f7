"""A line in the log for every request that failed or was degraded, and for a share of the good ones if that is wanted.

Of one kind only so many are written in a second, and the next line says how many weren't: an outage fills no disk, and
writing costs it little. What is an incident leaves a line, and the other way round. Not here: how a line looks
(``serving.log_lines``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.clock import Clock
from serving.incidents.incident import failed_canary, failure_in, is_callers_own, last_failed
from serving.log_lines import fields, shortened
from serving.request.pipeline import CANCELLED, OK, Ended, Hear, InferCall
from serving.tracing.privacy import Quotable
from serving.tracing.rates import LineRates

LINES_PER_S: Final = 1.0
LINES_BURST: Final = 5
TEXT_MAX: Final = 500

GOOD: Final = ("good",)
GOOD_PER_S: Final = 1000.0
"""The bound of good requests' lines: whoever asks for all of them means all that a disk can take."""


@dataclass(slots=True)
class LogStats:
    """Lines of requests since the start: ``held_back`` were one too many of their kind."""

    written: int = 0
    held_back: int = 0


class RequestLog:
    """A ``serving.request.pipeline.Observer``. ``share`` of the good requests leave a line as well."""

    def __init__(
        self,
        log: logging.Logger,
        *,
        share: float,
        quotable: Quotable,
        rollout_of: Callable[[str], str],
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.stats = LogStats()
        self._log = log
        self._share = share
        self._quotable = quotable
        self._rollout_of = rollout_of
        self._monotonic = clock.monotonic
        self._random = random
        self._rates = LineRates(per_s=LINES_PER_S, burst=LINES_BURST)
        self._good_rates = LineRates(per_s=GOOD_PER_S, burst=int(GOOD_PER_S))
        self._told = False

    def ended(self, ended: Ended) -> None:
        if ended.outcome == CANCELLED:
            return
        try:
            well = ended.went_well
            failure = "" if well else failure_in(ended) or ""  # none if a further attempt has made it good
            if well or failure or self._random() < self._share:
                self._write(ended, failure)
        except Exception as error:  # noqa: BLE001  # a request is never lost because there is no line of it
            if not self._told:
                self._log.error("a request left no line", exc_info=error)
            self._told = True

    def of_good(self, call: InferCall) -> Hear | None:
        return self.ended if self._random() < self._share else None

    def _write(self, ended: Ended, failure: str) -> None:
        rates, kind = (self._rates, (*ended.key, ended.outcome, failure)) if failure else (self._good_rates, GOOD)
        held_back = rates.take(kind, self._monotonic())
        if held_back is None:
            self.stats.held_back += 1
            return
        self.stats.written += 1
        quiet = ended.outcome == OK or is_callers_own(ended)
        self._log.log(
            logging.INFO if quiet else logging.WARNING,
            "%s",
            self._message(ended, failure),
            extra=self._fields(ended, failure, held_back),
        )

    def _message(self, ended: Ended, failure: str) -> str:
        model, version = ended.key
        name = f"{model}@{version}" if version else model or ended.call.model[:128]
        if not failure:
            return f"{name}: {ended.outcome}"
        why = "" if failure == ended.outcome else f", because of {failure}"
        fault = fault_text(ended, self._quotable)
        return f"{name}: {ended.outcome}{why}{f': {fault}' if fault else ''}"

    def _fields(self, ended: Ended, failure: str, held_back: int) -> dict[str, dict[str, object]]:
        model, version = ended.key
        exchange, given = ended.exchange, ended.given
        last = last_failed(ended) if failure else None
        return fields(
            request_id=ended.request_id,
            trace_id=ended.trace_id,
            model=model or ended.call.model[:128],
            version=version,
            rollout=self._rollout_of(model) if model else "",
            outcome=ended.outcome,
            failure=failure,
            duration_ms=round(ended.seconds * 1000, 3),
            attempts=None if exchange is None else exchange.attempts,
            failed_version=None if last is None else last.version,
            replica=None if last is None else last.replica,
            answered_by=None if given is None or ended.error is not None else f"{given.model}@{given.version}",
            similar_held_back=held_back or None,
        )


def fault_text(ended: Ended, may_quote: Quotable) -> str:
    """What went wrong, in words, if they may be shown: of the request, else of its canary's or its last attempt."""
    if not may_quote(ended.key[0]):
        return ""
    if ended.error is not None:
        return shortened(ended.error.message, TEXT_MAX)
    attempt = failed_canary(ended) or last_failed(ended)
    return shortened(ended.doubts if attempt is None else attempt.message, TEXT_MAX)
