"""Rollouts with everything around them made up: a controller that can be killed after any event, gateways, Serve.

The controller is the smallest that keeps the promises of ``serving.rollout.desired``: append, then fold, then decide,
then act. The world changes only by effects, and by each of them once, however often it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from serving.rollout.decide import decide
from serving.rollout.desired import (
    DesiredState,
    Entry,
    decode_entry,
    due,
    encode_decision,
    encode_entry,
    recorded,
    undone,
)
from serving.rollout.events import (
    ClockTick,
    Decision,
    DeployVersion,
    Effect,
    Event,
    Finish,
    Observed,
    PublishPromotion,
    Resume,
    RollBackNow,
    SetWeight,
    VersionFailed,
    VersionGone,
    VersionReady,
    WeightApplied,
)
from serving.rollout.evidence import Observation, VariantCounts
from serving.rollout.state import Phase, RolloutState

WINDOW_S = 1.0
REQUESTS = 400


class Killed(Exception):
    """The controller died here."""


class World:
    """Gateways and Serve. ``changes`` is what really happened to them, in order."""

    def __init__(self, *, bad_share: Callable[[int, bool], float], fails: str = "", seed: int = 7) -> None:
        self.now = 1000.0
        self.weight = 0
        self.stable = "v1"
        self.deployed = {"v1"}
        self.changes: list[str] = []
        self._bad_share = bad_share
        self._fails = fails
        self._seed = seed
        self._done: dict[int, Event] = {}
        self._newest = 0

    def carry_out(self, effect: Effect) -> Event:
        """Do it unless it is done, and say how it went. What a later effect has overtaken is never done any more."""
        assert effect.id >= self._newest, "an effect that was overtaken is carried out"
        self._newest = effect.id
        if effect.id not in self._done:
            self._done[effect.id] = self._do(effect)
        return self._done[effect.id]

    def _do(self, effect: Effect) -> Event:
        match effect:
            case DeployVersion(version=version):
                self.changes.append(f"deploy {version}")
                if self._fails:
                    return VersionFailed(at=self.now, reason=self._fails, effect=effect.id)
                self.deployed.add(version)
                return VersionReady(at=self.now, effect=effect.id)
            case SetWeight(version=version, weight=weight):
                assert version in self.deployed
                return self._publish(effect, weight, self.stable)
            case PublishPromotion(version=version):
                assert version in self.deployed
                return self._publish(effect, 100, version)
            case RollBackNow(prior=prior):
                assert prior in self.deployed, "nothing to go back to"
                return self._publish(effect, 0, prior)
            case Finish(remove=version):
                assert version != self.stable
                self.changes.append(f"remove {version}")
                self.deployed.discard(version)
                return VersionGone(at=self.now, effect=effect.id, version=version)

    def _publish(self, effect: Effect, weight: int, stable: str) -> Event:
        self.changes.append(f"publish weight {weight}, stable {stable}")
        self.weight, self.stable = weight, stable
        generation = len(self.changes)
        return WeightApplied(
            at=self.now, effect=effect.id, generation=generation, weight=weight, acknowledged=2, gateways=2
        )

    def window(self) -> Event:
        """The next window of traffic. The same one, however often the controller dies in it."""
        self.now += WINDOW_S
        number = int(self.now - 1000)
        if number % 10 == 0:
            return ClockTick(at=self.now)
        rng = Random(self._seed * 1_000_003 + number)
        canary = sum(rng.random() * 100 < self.weight for _ in range(REQUESTS))
        counts = []
        for attempts, is_canary in ((canary, True), (REQUESTS - canary, False)):
            share = self._bad_share(self.weight if self.stable == "v1" else 101, is_canary)
            counts.append(VariantCounts(attempts, sum(rng.random() < share for _ in range(attempts))))
        observation = Observation(
            self.now, WINDOW_S, self.weight / 100, counts[0], counts[1], gateways=2, gateways_reporting=2
        )
        return Observed(at=self.now, observation=observation)


Person = Callable[[RolloutState], Event | None]


class Controller:
    """The fold, the decider and the acting, without any state but the log. ``kill`` says where it dies."""

    def __init__(self, log: list[bytes], world: World, person: Person, kill: Callable[[str, int], bool]) -> None:
        self._log = log
        self._world = world
        self._person = person
        self._kill = kill
        self.desired = DesiredState()
        for raw in log:
            self.desired = recorded(self.desired, decode_entry(raw))

    @property
    def state(self) -> RolloutState:
        return self.desired.rollouts["digits"]

    def run(self, first: Event) -> None:
        """Until there is nothing left to do."""
        if not self._log:
            self._append(Entry("digits-1", first))
        for _ in range(10_000):
            if entries := due(self.desired):
                for entry in entries:
                    self._append(entry)
            elif effects := undone(self.desired):
                [(rollout, effect)] = effects
                done = self._world.carry_out(effect)
                self._die_perhaps("effect")
                self._append(Entry(rollout, done))
            elif self.state.settled:
                return
            else:
                self._append(Entry("digits-1", self._person(self.state) or self._world.window()))
        raise AssertionError(f"no end: {self.state.phase} {self.state.reason}")

    def _append(self, entry: Entry) -> None:
        desired = recorded(self.desired, entry)
        self._log.append(encode_entry(entry))
        self._die_perhaps("append")
        self.desired = desired

    def _die_perhaps(self, where: str) -> None:
        if self._kill(where, len(self._log)):
            raise Killed


def replayed_decisions(log: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """The decisions that the log has, and those that the decider makes of the events before each of them."""
    desired = DesiredState()
    logged: list[bytes] = []
    made: list[bytes] = []
    for raw in log:
        entry = decode_entry(raw)
        if isinstance(entry.event, Decision):
            logged.append(encode_decision(entry.event))
            made += [encode_decision(decision) for decision in decide(desired.rollouts["digits"])]
        desired = recorded(desired, entry)
    return logged, made


def patient(state: RolloutState) -> Event | None:
    """A person who resumes whatever waits for one."""
    return Resume(at=state.at, who="anna") if state.phase is Phase.PAUSED else None
