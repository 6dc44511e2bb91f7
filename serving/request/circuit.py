"""pybreaker's state machine, with states of our own.

pybreaker counts failures in a row by the wall clock, lets everybody through half-open, and knows two outcomes. Here it
judges by a sliding window on a monotonic clock, half-open lets a few probes through, each with a deadline, and a call
may be ignored. The transitions (``open``, ``half_open``, ``close``), their listeners and the decisions to make them
stay pybreaker's. Its lock is taken only for transitions: everything here belongs to one thread.

Not here: when it opens and for how long (``serving.request.circuit_storage``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from math import inf

from pybreaker import (
    STATE_CLOSED,
    STATE_HALF_OPEN,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerState,
    CircuitClosedState,
    CircuitHalfOpenState,
    CircuitOpenState,
)

from serving.clock import Clock
from serving.errors import CircuitOpen
from serving.request.circuit_storage import BreakerLimits, Storage


class Ticket:
    """Leave for one call. Its first outcome counts, and only while the state that gave the leave lasts."""

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state: State | None = state

    def succeeded(self, seconds: float) -> None:
        state = self._state
        if state is not None:
            self._state = None
            state.succeeded(self, seconds)

    def failed(self, seconds: float) -> None:
        state = self._state
        if state is not None:
            self._state = None
            state.failed(self, seconds)

    def ignored(self) -> None:
        """The call says nothing about the version: it was cancelled, shed, or the caller's own fault."""
        state = self._state
        if state is not None:
            self._state = None
            state.ignored(self)


class _Failed(Exception):
    """What pybreaker's states are told went wrong; they raise it again when they open."""


class Closed(CircuitClosedState):
    """Every call is let through; a failure or a slow one may be one too many."""

    def __init__(self, circuit: Circuit, prev_state: CircuitBreakerState | None = None, notify: bool = False) -> None:
        self._circuit = circuit
        self._storage = circuit.storage
        self._storage.start_anew()
        super().__init__(circuit, prev_state, notify)

    def admit(self) -> Ticket:
        return Ticket(self)

    def settle(self, now: float) -> None:
        """Nothing changes by time alone."""

    def succeeded(self, ticket: Ticket, seconds: float) -> None:
        if self._circuit.live is self:
            self._storage.in_a_row = 0
            self._storage.called(seconds)
            self._handle_success()

    def failed(self, ticket: Ticket, seconds: float) -> None:
        if self._circuit.live is self:
            self._storage.called(seconds)
            with contextlib.suppress(_Failed):
                self._handle_error(_Failed(), reraise=False)

    def ignored(self, ticket: Ticket) -> None:
        """Counts for nothing."""

    def on_success(self) -> None:
        """It came back well, but perhaps late once too often."""
        if self._storage.trouble is not None:
            self._circuit.open()


class Open(CircuitOpenState):
    """Nothing is let through until the interval is over."""

    def __init__(self, circuit: Circuit, prev_state: CircuitBreakerState | None = None, notify: bool = False) -> None:
        self._circuit = circuit
        self._storage = circuit.storage
        self._clock = circuit.clock
        self._text = f"the circuit of {circuit.name} is open: {self._storage.why}"
        super().__init__(circuit, prev_state, notify)

    def admit(self) -> Ticket:
        left_s = self._storage.until - self._clock.monotonic()
        if left_s > 0:
            raise CircuitOpen(self._text, retry_after_s=left_s)
        self._circuit.half_open()
        return self._circuit.live.admit()

    def settle(self, now: float) -> None:
        """The next call it admits makes it half-open."""

    def succeeded(self, ticket: Ticket, seconds: float) -> None:
        """It admitted nothing, so there is nothing to hear."""

    def failed(self, ticket: Ticket, seconds: float) -> None:
        """As with ``succeeded``."""

    def ignored(self, ticket: Ticket) -> None:
        """As with ``succeeded``."""


class HalfOpen(CircuitHalfOpenState):
    """A round of probes: if all go well it closes, at the first that doesn't it opens again.

    A probe that isn't heard of in time has failed. An ignored one gives its place back.
    """

    def __init__(self, circuit: Circuit, prev_state: CircuitBreakerState | None = None, notify: bool = False) -> None:
        self._circuit = circuit
        self._storage = circuit.storage
        self._clock = circuit.clock
        self._limits = circuit.limits
        self._deadlines: dict[Ticket, float] = {}
        """Of the probes under way, the oldest first."""
        self._slow = 0
        self._trouble = ""
        self._storage.start_anew()
        super().__init__(circuit, prev_state, notify)

    def admit(self) -> Ticket:
        now = self._clock.monotonic()
        self.settle(now)
        if self._circuit.live is not self:
            return self._circuit.live.admit()
        if self._storage.success_counter + len(self._deadlines) >= self._limits.probes:
            raise self._full(now)
        ticket = Ticket(self)
        self._deadlines[ticket] = now + self._limits.probe_timeout_s
        return ticket

    def _full(self, now: float) -> CircuitOpen:
        """Once the probes are back there is an answer, at the latest when the first one's time is over."""
        left_s = min(self._limits.open_s, next(iter(self._deadlines.values())) - now)
        text = f"the circuit of {self._circuit.name} is half-open and its {self._limits.probes} probes aren't back"
        return CircuitOpen(text, retry_after_s=left_s)

    def settle(self, now: float) -> None:
        """Notice a probe whose time is over: the circuit has been open again since then."""
        oldest = next(iter(self._deadlines.values()), inf)
        if now >= oldest:
            timeout_s = self._limits.probe_timeout_s
            self._storage.trouble_at = oldest
            self._fail(timeout_s, f"a probe didn't come back within {timeout_s:g} s")

    def succeeded(self, ticket: Ticket, seconds: float) -> None:
        if self._back(ticket):
            self._storage.called(seconds)
            self._slow += seconds > self._limits.slow_s
            self._handle_success()

    def failed(self, ticket: Ticket, seconds: float) -> None:
        if self._back(ticket):
            self._fail(seconds, "a probe failed")

    def ignored(self, ticket: Ticket) -> None:
        self._back(ticket)

    def _back(self, ticket: Ticket) -> bool:
        """Take a probe back; False if the round is over and nobody asks any more."""
        if self._circuit.live is self:
            self.settle(self._clock.monotonic())
        return self._circuit.live is self and self._deadlines.pop(ticket, None) is not None

    def _fail(self, seconds: float, trouble: str) -> None:
        self._storage.called(seconds)
        self._trouble = trouble
        with contextlib.suppress(_Failed):
            self._handle_error(_Failed(), reraise=False)

    def on_failure(self, exc: BaseException) -> None:  # type: ignore[override]  # pybreaker's never returns: it raises
        self._storage.trouble = self._trouble
        super().on_failure(exc)

    def on_success(self) -> None:
        probes = self._limits.probes
        last = self._storage.success_counter + 1 >= probes
        if last and self._slow / probes >= self._limits.slow_rate:
            self._storage.trouble = f"{self._slow} of {probes} probes took over {self._limits.slow_s:g} s"
            self._circuit.open()
            return
        if last:
            self._storage.why = f"{probes} probes went well"
        super().on_success()


State = Closed | Open | HalfOpen

_STATES: dict[str, type[State]] = {STATE_CLOSED: Closed, STATE_OPEN: Open, STATE_HALF_OPEN: HalfOpen}


class Circuit(CircuitBreaker):
    """pybreaker's breaker with our states. ``changed`` is called when a transition is done, not within it."""

    def __init__(
        self,
        name: str,
        limits: BreakerLimits,
        *,
        clock: Clock,
        random: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.storage = Storage(name, limits, clock=clock, random=random)
        self.live: State
        """The state of now. A new object at each transition, so that only it hears of what it admitted."""
        self._name = name
        self._changed = changed
        super().__init__(
            fail_max=1,
            success_threshold=limits.probes,
            state_storage=self.storage,
            name=name,
            throw_new_error_on_trip=False,
        )

    def _create_new_state(
        self, new_state: str, prev_state: CircuitBreakerState | None = None, notify: bool = False
    ) -> State:
        self.live = _STATES[new_state](self, prev_state, notify)
        return self.live

    def open(self) -> bool:
        raises_new_error = super().open()
        self._changed()
        return raises_new_error

    def half_open(self) -> None:
        self.storage.why = f"its interval is over; {self.limits.probes} probes decide"
        super().half_open()
        self._changed()

    def close(self) -> None:
        super().close()
        self._changed()
