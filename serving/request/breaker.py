"""The circuit breaker of one model version: when most of its calls fail or are slow, it is spared them for a while.

This is the door: limits, tickets, and what people see. The state machine is in ``serving.request.circuit``. Not here:
which errors count as failures, and who asks instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

from serving.clock import Clock
from serving.model_settings import BreakerSettings
from serving.request.circuit import Circuit, Ticket
from serving.request.circuit_storage import BreakerLimits

State = Literal["closed", "open", "half_open"]

_STATES: dict[str, State] = {"closed": "closed", "open": "open", "half-open": "half_open"}
"""pybreaker's words and ours."""


def breaker_limits(settings: BreakerSettings, *, timeout_s: float) -> BreakerLimits:
    """The settings in seconds. A probe has as long as any request of the model: ``timeout_s``."""
    return BreakerLimits(
        enabled=settings.enabled,
        window_s=settings.window_s,
        min_calls=settings.min_calls,
        failure_rate=settings.failure_rate,
        slow_s=inf if settings.slow_call_ms is None else settings.slow_call_ms / 1000,
        slow_rate=settings.slow_call_rate,
        open_s=settings.open_s,
        open_max_s=settings.open_max_s,
        probes=settings.probes,
        probe_timeout_s=timeout_s,
    )


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """How it stands, for people and metrics."""

    state: State
    since: float
    """Wall clock."""
    why: str
    calls: int
    """In the window, as ``failures`` and ``slow``; while half-open, of the probes."""
    failures: int
    slow: int
    opened: int
    """How often, since the breaker was made."""
    retry_after_s: float
    """0.0 unless it's open."""


class Breaker:
    """Admits calls, hears how they went, and refuses them while most go wrong. For one event loop's thread.

    ``random`` gives numbers from 0 up to 1. ``on_change`` is told after each change of state.
    """

    def __init__(
        self,
        name: str,
        limits: BreakerLimits,
        *,
        clock: Clock,
        random: Callable[[], float],
        on_change: Callable[[BreakerStatus], None] | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._on_change = on_change
        self._circuit = Circuit(name, limits, clock=clock, random=random, changed=self._changed)

    def admit(self) -> Ticket:
        """A ticket to report the call's outcome with, exactly once; raises ``CircuitOpen`` if it's not to be made."""
        return self._circuit.live.admit()

    @property
    def state(self) -> State:
        self._circuit.live.settle(self._clock.monotonic())
        return _STATES[self._circuit.live.name]

    def status(self) -> BreakerStatus:
        now = self._clock.monotonic()
        self._circuit.live.settle(now)
        storage, window = self._circuit.storage, self._circuit.storage.window
        window.roll(now)
        state = _STATES[self._circuit.live.name]
        return BreakerStatus(
            state=state,
            since=storage.since,
            why=storage.why,
            calls=window.calls,
            failures=window.failures,
            slow=window.slow,
            opened=storage.opened,
            retry_after_s=max(0.0, storage.until - now) if state == "open" else 0.0,
        )

    def reset(self) -> None:
        """A person closes it. What it knew is forgotten; outcomes of earlier calls aren't heard any more."""
        self._circuit.storage.forgive()
        self._circuit.close()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self.status())


__all__ = ["Breaker", "BreakerLimits", "BreakerStatus", "State", "Ticket", "breaker_limits"]
