"""What one run does, in which order, and how much of its time is left. Nothing is started here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from loadtests.bench.systems import Place, System
from loadtests.bench.workloads import Payload

WARM_UP_S = 1
START_AND_STOP_S = 10  # a guess, for the estimate: Ray takes twice as long


@dataclass(frozen=True)
class Plan:
    """One run: `repeat` rounds, in each of them every system with every payload that it takes."""

    place: Place
    systems: Sequence[System]
    repeat: int
    seconds: int
    payloads: Sequence[Payload]

    def measured_with(self, system: System) -> list[Payload]:
        return [payload for payload in self.payloads if payload.name in system.paths]

    def in_round(self, number: int) -> list[list[System]]:
        """In the order of the table, and the other way round in every second round.

        So a machine that grows slower during a round does as much harm to the first as to the last. Systems that are
        the same server, asked in another way, are together: they share its start.
        """
        order = [system for system in self.systems if self.measured_with(system)]
        if number % 2 == 0:
            order.reverse()
        return [list(sharing) for _, sharing in groupby(order, key=lambda system: system.launch)]

    def seconds_of(self, sharing: Sequence[System]) -> int:
        """About how long it takes to start one server, to measure those that share it, and to stop it."""
        return START_AND_STOP_S + sum(
            WARM_UP_S + self.seconds * len(payload.connections)
            for system in sharing
            for payload in self.measured_with(system)
        )

    @property
    def expected_s(self) -> int:
        """About how long the run takes."""
        return self.repeat * sum(self.seconds_of(sharing) for sharing in self.in_round(1))


class Progress:
    """How much is done, and how much time the rest takes if the estimate errs there as it did so far."""

    def __init__(self, expected_s: float, clock: Callable[[], float]) -> None:
        self._expected_s = expected_s
        self._done_s = 0.0
        self._clock = clock
        self._started = clock()

    def done(self, expected_s: float) -> None:
        """What was expected to take so long is over."""
        self._done_s += expected_s

    @property
    def minutes_left(self) -> float:
        """By the estimate alone as long as nothing is done."""
        took_s = self._clock() - self._started
        pace = took_s / self._done_s if self._done_s else 1.0
        return max(0.0, self._expected_s - self._done_s) * pace / 60
