"""Work that is taken off the event loop: handed over in a moment, done in batches by a thread that rests between them.

The thread shares the interpreter with the loop, so it works for a tenth of the time at most. What waits is bounded in
number and in bytes, and a close has an end; what isn't done is handed back to be counted. Not here: what the work is.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from serving.clock import Clock

T = TypeVar("T")

REST_FACTOR: Final = 9.0
"""So many times as long as it worked the thread rests."""
REST_MAX_S: Final = 5.0
"""But not longer: a disk that hung for a minute kept the interpreter from nobody."""

_SWITCH_S: Final = 0.001
_GRACE_S: Final = 0.5


class Limits(NamedTuple):
    """How much is done at one go, how long the thread lets it gather, and how much may wait."""

    batch: int
    gather_s: float
    number_max: int
    bytes_max: float = math.inf


class Offload(Generic[T]):
    """``put`` and ``full`` are for one thread, the event loop's; they never wait and never raise."""

    def __init__(
        self,
        name: str,
        work: Callable[[Iterator[T]], object],
        limits: Limits,
        *,
        not_done: Callable[[int], None],
        trouble: str,
        log: logging.Logger,
        clock: Clock,
        worked_s: Callable[[], float] | None = None,
        cut: Callable[[], object] = lambda: None,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        """``work`` is given batches, which leave the queue piece by piece; the first one, at the start, may be empty.

        ``not_done`` counts what came to nothing, and ``trouble`` tells of a defect. ``worked_s`` is the clock by which
        the thread rests. It calls ``end`` at last; ``close`` calls ``cut`` if that isn't in time.
        """
        self.closed = False
        self._batch, self._gather_s, self._number_max, self._bytes_max = limits
        self._work = work
        self._not_done = not_done
        self._trouble = trouble
        self._log = log
        self._monotonic = clock.monotonic
        self._worked_s = worked_s or clock.monotonic
        self._cut = cut
        self._end = end
        self._queue: deque[tuple[T, int]] = deque()
        self._bytes_in = 0  # counted by the loop alone
        self._bytes_out = 0  # counted by the thread alone: a sum that two threads changed would drift
        self._taken = 0
        self._told = False
        self._awake = True  # as it is when it starts
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._until = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # The event loop's side

    def start(self) -> None:
        self._thread.start()

    def full(self) -> bool:
        """Whether ``put`` would refuse anything, so that there is no use in making it."""
        return len(self._queue) >= self._number_max

    def put(self, item: T, size: int = 0) -> bool:
        """Whether there was room for it; ``size`` is the memory that it keeps, in bytes."""
        queue = self._queue
        if len(queue) >= self._number_max or self._bytes_in - self._bytes_out + size > self._bytes_max:
            return False
        self._bytes_in += size
        queue.append((item, size))
        if not self._awake:
            self._awake = True
            self._wake.set()
        return True

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes_in - self._bytes_out

    def close(self, *, within_s: float) -> bool:
        """Do what waits, for as long as ``within_s`` at most; whether the thread has ended. Blocks."""
        self._until = self._monotonic() + within_s
        self.closed = True
        self._number_max = 0  # nothing is taken any more; ``put`` needn't ask for both
        self._closing.set()
        self._wake.set()
        if self._thread.ident is None:  # it was never started
            self._finish()
            return True
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._cut()
            self._thread.join(_GRACE_S)
        return not self._thread.is_alive()

    # Either side's

    def lost(self, error: Exception, number: int = 1) -> None:
        """A defect of ours; told of once, not ten thousand times a second."""
        self._not_done(number)
        if not self._told:
            self._log.error(self._trouble, exc_info=error)
        self._told = True

    # The thread's side

    def turn(self) -> int:
        """Do a batch of what waits; how much it was."""
        before = self._taken
        try:
            self._work(self._taking(self._batch))
        except Exception as error:  # noqa: BLE001  # the next batch may do better
            self.lost(error, self._taken - before)
        return self._taken - before

    def _taking(self, at_most: int) -> Iterator[T]:
        for _ in range(min(len(self._queue), at_most)):
            item, size = self._queue.popleft()
            self._taken += 1
            self._bytes_out += size
            yield item

    def _run(self) -> None:
        pause_s = rested_at = 0.0
        while not self._closing.wait(max(pause_s, rested_at - self._monotonic())):
            since_s = self._worked_s()
            self.turn()
            rest_s = REST_FACTOR * (self._worked_s() - since_s)
            rested_at = self._monotonic() + min(rest_s, REST_MAX_S)
            pause_s = _SWITCH_S
            if not self._queue:
                self._sleep()
                pause_s = self._gather_s
        self._finish()

    def _sleep(self) -> None:
        self._wake.clear()
        self._awake = False  # from here on whoever puts something wakes us, and what was put before is seen below
        if not self._queue and not self._closing.is_set():
            self._wake.wait()
        self._awake = True

    def _finish(self) -> None:
        while self._queue and self._monotonic() < self._until and self.turn():
            pass
        self._not_done(sum([1 for _ in self._taking(len(self._queue))]))
        self._end()
