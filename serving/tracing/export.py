"""Sends the spans of sampled requests to a collector: off their way, bounded, and without anyone waiting for it.

The loop only puts a request's marks into a queue; a thread makes spans of them and sends these. It shares the
interpreter with the loop, so it works for a tenth of the time at most. What doesn't fit into the queue, or can't be
sent, is dropped and counted. Not here: what the spans are (``serving.tracing.spans``), the wire
(``serving.tracing.otlp``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from serving.clock import Clock
from serving.request.pipeline import Ended
from serving.tracing.privacy import Quotable
from serving.tracing.spans import Finished, finished

log = logging.getLogger("holdfast.tracing")

QUEUE_MAX: Final = 2048
"""Requests that wait to be sent."""
BATCH: Final = 32
EVERY_S: Final = 0.5
REST_FACTOR: Final = 9.0
"""So many times as long as it computed the thread rests."""

NO_ROOM: Final = "queue"
UNSENT: Final = "export"
REASONS: Final = (NO_ROOM, UNSENT)
"""Why a request's spans were dropped, as the metrics say it."""


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
        self._computed_s = computed_s
        self._queue: deque[Finished] = deque()
        self._closing = threading.Event()
        self._failing = False
        self._told = False
        self._until = 0.0
        self._thread: threading.Thread | None = None

    # The event loop's side

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def ended(self, ended: Ended) -> None:
        context = ended.call.context
        if context is None or context.trace is None:
            return
        if self._closing.is_set() or len(self._queue) >= QUEUE_MAX:
            self.stats.dropped[NO_ROOM] += 1
            return
        try:
            model, now = ended.key[0], self._monotonic()
            rollout = self._rollout_of(model) if model else ""
            self._queue.append(finished(ended, context.trace, now=now, rollout=rollout, quotable=self._quotable))
        except Exception as error:  # noqa: BLE001  # a request is never lost because it couldn't be traced
            self._lost(error)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def close(self, *, within_s: float) -> bool:
        """Send what waits, for as long as ``within_s`` at most; whether the thread has ended. Blocks."""
        self._until = self._monotonic() + within_s
        self._closing.set()
        if self._thread is None:
            self._finish()
            return True
        self._thread.join(within_s)
        if self._thread.is_alive() and self._collector is not None:
            self._collector.close()
            self._thread.join(0.5)
        return not self._thread.is_alive()

    # The thread's side

    def send_waiting(self) -> int:
        """Send a batch of what waits; how many requests it was."""
        batch: list[Finished] = []
        while self._queue and len(batch) < BATCH:
            batch.append(self._queue.popleft())
        if not batch:
            return 0
        try:
            if self._collector is None:
                self._collector = self._connect()
            self.stats.spans += self._collector.send(batch)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next batch may do better
            self.stats.dropped[UNSENT] += len(batch)
            if not self._failing:
                log.warning("traces can't be sent: %s: %s", type(error).__name__, error)
            self._failing = True
        else:
            if self._failing:
                log.info("traces can be sent again")
            self._failing = False
        return len(batch)

    def _run(self) -> None:
        pause_s = EVERY_S
        while not self._closing.wait(pause_s):
            before_s = self._computed_s()
            self.send_waiting()
            rest_s = REST_FACTOR * (self._computed_s() - before_s)
            pause_s = rest_s if self._queue else max(rest_s, EVERY_S)
        self._finish()

    def _finish(self) -> None:
        while self._queue and self._monotonic() < self._until:
            self.send_waiting()
        self.stats.dropped[UNSENT] += len(self._queue)
        self._queue.clear()
        if self._collector is not None:
            self._collector.close()

    def _lost(self, error: Exception) -> None:
        """A defect of ours; told of once, not ten thousand times a second."""
        self.stats.dropped[UNSENT] += 1
        if not self._told:
            log.error("a request couldn't be traced", exc_info=error)
        self._told = True
