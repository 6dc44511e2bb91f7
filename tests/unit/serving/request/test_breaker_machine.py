"""Hypothesis does whatever it likes to a breaker and compares it with a plain model of its promises after each step.

All times are sums of powers of two, so that the model and the breaker reckon the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from serving.errors import CircuitOpen
from serving.request.breaker import Breaker, BreakerLimits, BreakerStatus, Ticket
from serving.request.window import Window
from tests.fakes import FakeClock

LIMITS = BreakerLimits(
    enabled=True,
    window_s=2.5,
    min_calls=4,
    failure_rate=0.5,
    slow_s=0.5,
    slow_rate=0.75,
    open_s=1.0,
    open_max_s=4.0,
    probes=3,
    probe_timeout_s=2.0,
)
KINDS = st.sampled_from(["good", "good", "slow", "failed", "failed", "ignored"])


@dataclass(eq=False)
class Leave:
    """A ticket, and what the model remembers of it."""

    ticket: Ticket
    round: int
    """The number of transitions before it was given."""
    deadline: float
    used: bool = False


@dataclass
class Model:
    """What the breaker has to be. Its window is tested by itself."""

    now: float
    jitter: float = 0.5
    state: str = "closed"
    round: int = 0
    until: float = 0.0
    longest: float = 0.0
    since: float = 0.0
    opened: int = 0
    good: int = 0
    slow: int = 0
    in_a_row: int = 0
    probes: list[Leave] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.since = self.now
        self.window = Window(LIMITS.window_s, now=self.now)

    def become(self, state: str, at: float) -> None:
        if state == "open":
            fresh = not self.longest or (
                self.state == "closed" and at - self.since >= max(LIMITS.window_s, self.longest)
            )
            self.longest = min(LIMITS.open_s if fresh else 2 * self.longest, LIMITS.open_max_s)
            self.until = at + self.longest * (0.5 + 0.5 * self.jitter)
            self.opened += 1
        else:
            self.window.clear(self.now)
            self.in_a_row = 0
        self.state, self.since = state, at
        self.round += 1
        self.good = self.slow = 0
        self.probes = []

    def time_passed(self) -> None:
        if self.state == "half_open" and (over := [leave.deadline for leave in self.probes]) and min(over) <= self.now:
            self.become("open", min(over))

    def admits(self) -> bool:
        if self.state == "open":
            return self.now >= self.until
        return self.state == "closed" or self.good + len(self.probes) < LIMITS.probes

    def admit(self, ticket: Ticket) -> Leave:
        if self.state == "open":
            self.become("half_open", self.now)
        leave = Leave(ticket, self.round, self.now + LIMITS.probe_timeout_s)
        if self.state == "half_open":
            self.probes.append(leave)
        return leave

    def outcome(self, leave: Leave, kind: str) -> None:
        if leave.used or leave.round != self.round:
            leave.used = True
            return
        leave.used = True
        if self.state == "half_open":
            self.probes.remove(leave)
            self.probe_back(kind)
        elif kind != "ignored":
            self.window.add(self.now, failures=kind == "failed", slow=kind == "slow")
            self.in_a_row = self.in_a_row + 1 if kind == "failed" else 0
            judged = self.window.calls >= LIMITS.min_calls
            bad = self.window.failures >= LIMITS.failure_rate * self.window.calls
            slow = self.window.slow >= LIMITS.slow_rate * self.window.calls
            if judged and kind != "good" and (bad or slow or self.in_a_row >= LIMITS.min_calls):
                self.become("open", self.now)

    def probe_back(self, kind: str) -> None:
        if kind == "failed":
            self.become("open", self.now)
        elif kind != "ignored":
            self.good += 1
            self.slow += kind == "slow"
            if self.good == LIMITS.probes:
                slow = self.slow >= LIMITS.slow_rate * LIMITS.probes
                self.become("open" if slow else "closed", self.now)


def report(ticket: Ticket, kind: str) -> None:
    if kind == "ignored":
        ticket.ignored()
    elif kind == "failed":
        ticket.failed(0.25)
    else:
        ticket.succeeded(1.0 if kind == "slow" else 0.25)


class BreakerMachine(RuleBasedStateMachine):
    leaves: Bundle[Leave] = Bundle("leaves")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.model = Model(self.clock.now)
        self.told: list[BreakerStatus] = []
        self.breaker = Breaker(
            "m@v1", LIMITS, clock=self.clock, random=lambda: self.model.jitter, on_change=self.told.append
        )

    @rule(seconds=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0]), jitter=st.sampled_from([0.0, 0.25, 0.75]))
    def time_passes(self, seconds: float, jitter: float) -> None:
        self.clock.advance(seconds)
        self.model.now = self.clock.now
        self.model.time_passed()
        assert self.breaker.state == self.model.state  # what time alone does, it does with the old jitter
        self.model.jitter = jitter

    def admitted(self) -> Leave | None:
        if self.model.admits():
            return self.model.admit(self.breaker.admit())
        with pytest.raises(CircuitOpen) as refused:
            self.breaker.admit()
        assert refused.value.retry_after_s > 0
        return None

    @rule(target=leaves)
    def a_call_begins(self) -> Leave | MultipleResults[Leave]:
        leave = self.admitted()
        return multiple() if leave is None else leave

    @rule(kind=KINDS, calls=st.integers(1, 6))
    def calls_come_back_at_once(self, kind: str, calls: int) -> None:
        for _ in range(calls):
            if (leave := self.admitted()) is not None:
                self.comes_back(leave, kind)

    @rule(leave=leaves, kind=KINDS)
    def comes_back(self, leave: Leave, kind: str) -> None:
        """Perhaps for the second time, perhaps long after nobody cares any more."""
        report(leave.ticket, kind)
        self.model.outcome(leave, kind)

    @rule(leave=consumes(leaves))
    def a_call_is_lost(self, leave: Leave) -> None:
        """Nobody ever reports it."""

    @precondition(lambda self: self.model.state != "closed")
    @rule()
    def a_person_closes_it(self) -> None:
        self.breaker.reset()
        self.model.longest = 0.0
        self.model.become("closed", self.clock.now)

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        status, model = self.breaker.status(), self.model
        assert (status.state, status.opened) == (model.state, model.opened)
        assert status.since == model.since + self.clock.wall() - self.clock.now
        assert status.retry_after_s == (max(0.0, model.until - model.now) if model.state == "open" else 0.0)
        if model.state == "closed":
            model.window.roll(model.now)
            expected = (model.window.calls, model.window.failures, model.window.slow)
            assert (status.calls, status.failures, status.slow) == expected

    @invariant()
    def every_change_was_told_once(self) -> None:
        assert len(self.told) == self.model.round
        assert not self.told or self.told[-1].state == self.model.state

    @invariant()
    def no_more_probes_are_out_than_may_be(self) -> None:
        assert len(self.model.probes) <= LIMITS.probes

    def teardown(self) -> None:
        """Whatever happened: after enough time one good round of probes closes it."""
        self.clock.advance(LIMITS.probe_timeout_s + LIMITS.open_max_s)
        for _ in range(LIMITS.probes):
            self.breaker.admit().succeeded(0.25)
        assert self.breaker.state == "closed"


TestAnyOrderOfThings = BreakerMachine.TestCase
TestAnyOrderOfThings.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
