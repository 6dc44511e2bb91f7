"""What a circuit knows: the calls of its window, when it is to open, and for how long.

Not here: what happens in which state (``serving.request.circuit``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pybreaker import STATE_CLOSED, STATE_OPEN, CircuitBreakerStorage

from serving.clock import Clock
from serving.request.window import Window


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When it opens and for how long. Times in seconds, rates from 0 to 1."""

    enabled: bool
    window_s: float
    min_calls: int
    failure_rate: float
    slow_s: float
    """Infinite: no call is slow."""
    slow_rate: float
    open_s: float
    open_max_s: float
    probes: int
    probe_timeout_s: float


class Storage(CircuitBreakerStorage):
    """What the circuit knows. pybreaker sees a counter of failures that is 1 as soon as it is to open, else 0."""

    def __init__(self, name: str, limits: BreakerLimits, *, clock: Clock, random: Callable[[], float]) -> None:
        super().__init__(name)
        now = clock.monotonic()
        self.window = Window(limits.window_s, now=now)
        self.in_a_row = 0
        """Failures since the last call that came back well: a version that has stopped answering altogether shall not
        be judged by how well it did for most of the window."""
        self.trouble: str | None = None
        """Why it has to open now."""
        self.trouble_at: float | None = None
        """When that was, if it wasn't just now."""
        self.since = clock.wall()
        self.why = "it hasn't opened since it was made"
        self.opened = 0
        self.until = now
        """When the open interval is over."""
        self._limits = limits
        self._clock = clock
        self._random = random
        self._state = STATE_CLOSED
        self._state_since = now
        self._good_probes = 0
        self._longest_s = 0.0
        """The last open interval before jitter; 0 if the next one is the first again."""

    def called(self, seconds: float) -> None:
        """A call came back, well or not."""
        if seconds > self._limits.slow_s:
            self.window.add(self._clock.monotonic(), slow=1)
            self.trouble = self._judged()
        else:
            self.window.add(self._clock.monotonic())

    def _judged(self) -> str | None:
        limits, window = self._limits, self.window
        if not limits.enabled or window.calls < limits.min_calls:
            return None
        if window.failures / window.calls >= limits.failure_rate:
            return f"{window.failures} of {window.calls} calls failed within {limits.window_s:g} s"
        if window.slow / window.calls >= limits.slow_rate:
            return f"{window.slow} of {window.calls} calls within {limits.window_s:g} s took over {limits.slow_s:g} s"
        if self.in_a_row >= limits.min_calls:
            return f"the last {self.in_a_row} calls failed"
        return None

    def start_anew(self) -> None:
        """Empty the window."""
        self.window.clear(self._clock.monotonic())
        self.in_a_row = 0
        self.trouble = None

    def forgive(self) -> None:
        """The next open interval is a first one again."""
        self._longest_s = 0.0
        self.why = "closed by hand"

    # What pybreaker asks for

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        happened = self._happened()
        self._state = state
        self._state_since = happened
        self.since = self._clock.wall() - (self._clock.monotonic() - happened)
        self.trouble_at = None

    @property
    def counter(self) -> int:
        return 0 if self.trouble is None else 1

    def increment_counter(self) -> None:
        self.window.add(self._clock.monotonic(), calls=0, failures=1)
        self.in_a_row += 1
        self.trouble = self._judged()

    def reset_counter(self) -> None:
        """A good call between two bad ones undoes neither: the window forgets by time alone."""

    @property
    def success_counter(self) -> int:
        return self._good_probes

    def increment_success_counter(self) -> None:
        self._good_probes += 1

    def reset_success_counter(self) -> None:
        self._good_probes = 0

    @property
    def opened_at(self) -> datetime | None:
        return datetime.fromtimestamp(self.since, UTC) if self._state == STATE_OPEN else None

    @opened_at.setter
    def opened_at(self, _wall: datetime) -> None:
        """It opens: says until when, by our own clock."""
        limits = self._limits
        happened = self._happened()
        well_s = happened - self._state_since if self._state == STATE_CLOSED else 0.0
        if self._longest_s and well_s < max(limits.window_s, self._longest_s):
            self._longest_s *= 2
        else:
            self._longest_s = limits.open_s
        self._longest_s = min(self._longest_s, limits.open_max_s)
        self.until = happened + self._longest_s * (0.5 + 0.5 * self._random())
        self.opened += 1
        self.why = self.trouble or self.why

    def _happened(self) -> float:
        return self._clock.monotonic() if self.trouble_at is None else self.trouble_at
