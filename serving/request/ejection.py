"""Outlier ejection: a replica that does clearly worse than its siblings gets no work for a while. Pure.

It's about one replica among those of one version, seen from one gateway. A version that is bad as a whole is the
breaker's business: then all its replicas are alike, and none is ejected. Not here: who gets the work instead, and the
replacing of a replica that stays bad. What stands out, ``serving.request.outlier`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from serving.clock import Clock
from serving.request.outlier import TRIAL_CALLS, EjectionLimits, Record, findings, mean_s
from serving.request.window import Window

PING_CALLS: Final = 5
"""A lost ping weighs as much as so many bad calls: it stands for all that the replica left unanswered meanwhile."""

JUDGE_S: Final = 0.05
JUDGE_CALLS: Final = 16
"""Replicas are compared when so much time went by or so many calls came back, whichever is first."""

JUDGE_CALLS_EACH: Final = 2
"""Where there are many replicas, it's so many calls for each: comparing them costs more, too."""


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One replica, for people."""

    replica_id: str
    ejected: bool
    why: str
    """Of the last ejection; empty if there was none."""
    back_in_s: float
    ejections: int
    ejected_for_s: float
    calls: int
    """In the window, as ``bad``. While it's ejected: when it was."""
    bad: int
    batch_s: float | None
    """Mean time of a batch, the slowest one left out; None if there were too few."""


class _Replica(Record):
    __slots__ = ("back_at", "ejected", "ejections", "growth", "out_s", "replica_id", "since", "why")

    def __init__(self, replica_id: str, window: Window) -> None:
        super().__init__(window)
        self.replica_id = replica_id
        self.ejected = False
        self.since = -inf
        """When it was ejected, or came back."""
        self.back_at = inf
        self.out_s = 0.0
        """How long it has been ejected since it was last well, without the present ejection."""
        self.growth = 0
        self.ejections = 0
        self.why = ""


class Outliers:
    """The replicas of one version. Who is ejected is a preference: with nobody else left, they can be asked too."""

    def __init__(self, limits: EjectionLimits, *, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}
        self._out = 0
        self._next_back = inf
        self._judge_at = -inf
        self._judge_calls = JUDGE_CALLS
        self._unjudged = 0

    # Who is there

    def joined(self, replica_id: str) -> None:
        if replica_id not in self._replicas:
            window = Window(self._limits.window_s, now=self._clock.monotonic())
            self._replicas[replica_id] = _Replica(replica_id, window)
            self._judge_calls = max(JUDGE_CALLS, JUDGE_CALLS_EACH * len(self._replicas))

    def left(self, replica_id: str) -> None:
        """It's gone for good, and so is what was known of it. (Not for a connection that comes back.)"""
        replica = self._replicas.pop(replica_id, None)
        if replica is None or not self._out:
            return
        now = self._clock.monotonic()
        self._out -= replica.ejected
        while self._room() < 0:  # the rest is too small to do without so many
            self._let_back(min(self._ejected(), key=lambda other: other.back_at), now)
        self._next_back = min([other.back_at for other in self._ejected()], default=inf)

    # What they did

    def observed(self, replica_id: str, *, good: int, bad: int, seconds: float, timed: bool = True) -> None:
        """A batch came back: so many requests went well and badly, and it took ``seconds`` from sending on.

        Not ``timed``: it hasn't come back yet, and was given up after these seconds.
        """
        replica = self._replicas.get(replica_id)
        calls = good + bad
        if replica is None or not calls:
            return
        now = self._clock.monotonic()
        if replica.ejected or now - seconds < replica.since:
            return  # it was sent before the ejection, and tells nothing new
        replica.window.add(now, calls=calls, failures=bad)
        if timed:
            replica.window.took(now, seconds)
        self._unjudged += calls
        if now >= self._judge_at or self._unjudged >= self._judge_calls:
            self._judge(now)

    def lost_ping(self, replica_id: str) -> None:
        """A ping wasn't answered in time."""
        replica = self._replicas.get(replica_id)
        if replica is not None and not replica.ejected:
            now = self._clock.monotonic()
            replica.window.add(now, calls=PING_CALLS, failures=PING_CALLS)
            self._judge(now)

    # Who is ejected

    @property
    def any_ejected(self) -> bool:
        if not self._out:
            return False
        self._look_back()
        return self._out > 0

    def ejected(self, replica_id: str) -> bool:
        if not self._out:
            return False
        self._look_back()
        replica = self._replicas.get(replica_id)
        return replica is not None and replica.ejected

    def ejected_for(self, replica_id: str) -> float:
        """Seconds that it has spent ejected since it was last well; 0.0 if it's well.

        It is well again when it came back and ``min_calls`` calls showed nothing; until then the sum stays, so one
        that is bad in every trial comes to any sum, and one that waits idly for its trial to none.
        """
        if self._out:
            self._look_back()
        replica = self._replicas.get(replica_id)
        return 0.0 if replica is None else self._out_s(replica, self._clock.monotonic())

    def status(self) -> list[ReplicaFigures]:
        """The figures of every replica, by name."""
        self._look_back()
        now = self._clock.monotonic()
        return [self._figures(self._replicas[name], now) for name in sorted(self._replicas)]

    def _figures(self, replica: _Replica, now: float) -> ReplicaFigures:
        if not replica.ejected:
            replica.window.roll(now)
        return ReplicaFigures(
            replica_id=replica.replica_id,
            ejected=replica.ejected,
            why=replica.why,
            back_in_s=max(0.0, replica.back_at - now) if replica.ejected else 0.0,
            ejections=replica.ejections,
            ejected_for_s=self._out_s(replica, now),
            calls=replica.window.calls,
            bad=replica.window.failures,
            batch_s=mean_s(replica.window),
        )

    def _out_s(self, replica: _Replica, now: float) -> float:
        return replica.out_s + (min(now, replica.back_at) - replica.since if replica.ejected else 0.0)

    def _ejected(self) -> list[_Replica]:
        return [replica for replica in self._replicas.values() if replica.ejected]

    def _room(self) -> int:
        """How many more may be ejected."""
        return int(self._limits.max_share * len(self._replicas) + 1e-9) - self._out

    # Out and back

    def _eject(self, replica: _Replica, why: str, now: float) -> None:
        limits = self._limits
        if replica.growth:  # it grows with each ejection, and fades for every window that it was in between
            replica.growth = max(0, replica.growth - int((now - replica.since) / limits.window_s))
        interval_s = min(limits.interval_s * 2**replica.growth, limits.interval_max_s)
        if interval_s < limits.interval_max_s:
            replica.growth += 1
        replica.ejected = True
        replica.on_trial = False
        replica.since = now
        replica.back_at = now + interval_s
        replica.ejections += 1
        replica.why = why
        self._out += 1
        self._next_back = min(self._next_back, replica.back_at)

    def _look_back(self) -> None:
        """Let those back whose interval is over."""
        now = self._clock.monotonic()
        if now >= self._next_back:
            for replica in self._ejected():
                if now >= replica.back_at:
                    self._let_back(replica, now)
            self._next_back = min([replica.back_at for replica in self._ejected()], default=inf)

    def _let_back(self, replica: _Replica, now: float) -> None:
        replica.out_s = self._out_s(replica, now)
        replica.ejected = False
        replica.on_trial = True
        replica.since = now
        replica.back_at = inf
        replica.window.clear(now)
        self._out -= 1

    # Judging

    def _judge(self, now: float) -> None:
        self._judge_at = now + JUDGE_S
        self._unjudged = 0
        if not self._limits.enabled or len(self._replicas) < 2:
            return
        self._look_back()
        among = [replica for replica in self._replicas.values() if not replica.ejected]
        for replica in among:
            replica.window.roll(now)
        while (found := findings(among, self._limits)) and self._room() > 0:
            worst = max(found, key=lambda finding: finding.severity)
            self._eject(worst.record, worst.why, now)
            among.remove(worst.record)
        standing_out = [finding.record for finding in found]
        for replica in among:
            if replica.on_trial and replica not in standing_out and self._shown(replica):
                replica.on_trial = False
                replica.out_s = 0.0

    def _shown(self, replica: _Replica) -> bool:
        """Whether it did enough to be called well."""
        return replica.window.calls >= self._limits.min_calls and replica.window.timed > TRIAL_CALLS


__all__ = ["JUDGE_CALLS", "EjectionLimits", "Outliers", "ReplicaFigures"]
