"""Sends the spans of sampled requests to a collector: off their way, bounded, and without anyone waiting for it.

The loop only puts a request's marks into a queue; a thread makes spans of them and sends these. What doesn't fit into
the queue, or can't be sent, is dropped and counted. Not here: the queue and the thread (``serving.offload``), what the
spans are (``serving.tracing.spans``), the wire (``serving.tracing.otlp``).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from serving.clock import Clock
from serving.offload import Limits, Offload
from serving.request.pipeline import Ended, Hear, InferCall
from serving.tracing.privacy import Quotable
from serving.tracing.spans import Finished, finished

log = logging.getLogger("holdfast.tracing")

QUEUE_MAX: Final = 2048
"""Requests that wait to be sent."""
BATCH: Final = 64
EVERY_S: Final = 1.0

NO_ROOM: Final = "queue"
UNSENT: Final = "export"
OVER_RATE: Final = "rate"
REASONS: Final = (NO_ROOM, UNSENT, OVER_RATE)
"""Why a request's spans were dropped, or never made, as the metrics say it."""


class Collector(Protocol):
    """The way to whoever keeps traces."""

    def send(self, requests: Sequence[Finished]) -> int:
        """The spans of these requests; how many they were. Blocks. Raises whatever goes wrong."""
        ...

    def close(self) -> None:
        """May come from another thread while ``send`` is under way, and cuts it short as far as it can."""
        ...


@dataclass(slots=True)
class ExportStats:
    """Since the start: ``spans`` were sent, ``dropped`` are requests by reason."""

    spans: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def one_too_many(self) -> None:
        """A request isn't traced, because so many others are."""
        self.dropped[OVER_RATE] += 1


class SpanExport:
    """A ``serving.request.pipeline.Observer``: ``ended`` is for the event loop's thread."""

    def __init__(
        self,
        connect: Callable[[], Collector],
        *,
        rollout_of: Callable[[str], str],
        quotable: Quotable,
        clock: Clock,
        computed_s: Callable[[], float] = time.thread_time,
    ) -> None:
        """``connect`` is called in the thread: it imports what only those need who trace."""
        self.stats = ExportStats()
        self._connect = connect
        self._collector: Collector | None = None
        self._rollout_of = rollout_of
        self._quotable = quotable
        self._monotonic = clock.monotonic
        self._failing = False
        self._offload: Offload[Finished] = Offload(
            "traces",
            self._send,
            Limits(BATCH, EVERY_S, QUEUE_MAX),
            not_done=self._unsent,
            trouble="a request couldn't be traced",
            log=log,
            clock=clock,
            worked_s=computed_s,
            cut=self._hang_up,
            end=self._hang_up,
        )

    # The event loop's side

    def start(self) -> None:
        self._offload.start()

    def ended(self, ended: Ended) -> None:
        context = ended.call.context
        if context is None or context.trace is None:
            return
        if self._offload.full():
            self.stats.dropped[NO_ROOM] += 1
            return
        try:
            model, now = ended.key[0], self._monotonic()
            rollout = self._rollout_of(model) if model else ""
            self._offload.put(finished(ended, context.trace, now=now, rollout=rollout, quotable=self._quotable))
        except Exception as error:  # noqa: BLE001  # a request is never lost because it couldn't be traced
            self._offload.lost(error)

    def of_good(self, call: InferCall) -> Hear | None:
        return self.ended if call.context is not None and call.context.trace is not None else None

    @property
    def waiting(self) -> int:
        return self._offload.waiting

    def close(self, *, within_s: float) -> bool:
        """Send what waits, for as long as ``within_s`` at most; whether the thread has ended. Blocks."""
        return self._offload.close(within_s=within_s)

    def _unsent(self, number: int) -> None:
        self.stats.dropped[UNSENT] += number

    # The thread's side

    def send_waiting(self) -> int:
        """Send a batch of what waits; how many requests it was."""
        return self._offload.turn()

    def _send(self, batch: Iterator[Finished]) -> None:
        if not (requests := list(batch)):
            return
        try:
            if self._collector is None:
                self._collector = self._connect()
            self.stats.spans += self._collector.send(requests)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next batch may do better
            self._unsent(len(requests))
            if not self._failing:
                log.warning("traces can't be sent: %s: %s", type(error).__name__, error)
            self._failing = True
        else:
            if self._failing:
                log.info("traces can be sent again")
            self._failing = False

    def _hang_up(self) -> None:
        if self._collector is not None:
            self._collector.close()
