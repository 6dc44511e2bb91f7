"""A rollout without a world: tests say what is seen, and the real ``apply`` and ``decide`` do the rest."""

from __future__ import annotations

from typing import Any

import yaml

from serving.rollout.apply import apply, begun
from serving.rollout.decide import decide
from serving.rollout.events import (
    RULES,
    ClockTick,
    Decision,
    Event,
    Finish,
    Observed,
    PublishPromotion,
    Resume,
    SetWeight,
    Start,
    VersionFailed,
    VersionGone,
    VersionReady,
    WeightApplied,
)
from serving.rollout.evidence import Observation, VariantCounts
from serving.rollout.file import parse_rollout
from serving.rollout.spec import RolloutSpec
from serving.rollout.state import Phase, RolloutState

ROLLOUT_YAML = """\
model: digits
version: v2
from: v1
steps:
  - {setWeight: 5}
  - {pause: {duration: 60s}}
  - {setWeight: 25}
  - {pause: {}}
  - {setWeight: 100}
analysis:
  alpha: 0.01
  minAttempts: 100
  latencyObjective: 250ms
  slo: {objective: 0.99, burnRates: [{long: 5m, short: 30s, factor: 14.4}], minBadEvents: 10}
  invalidMax: 0.01
progressDeadline: 10m
bake: {duration: 2m}
"""


def rollout_spec(text: str = ROLLOUT_YAML, **changes: str) -> RolloutSpec:
    """The example, with some of its keys set to other YAML."""
    document = yaml.safe_load(text)
    for key, value in changes.items():
        document[key] = yaml.safe_load(value)
    return parse_rollout(yaml.safe_dump(document))


def start_of(spec: RolloutSpec, *, rollout: str = "digits-1", prior: str = "v1", at: float = 1000.0) -> Start:
    return Start(at=at, rollout=rollout, spec=spec, prior=prior, who="anna", why="more accurate", rules=RULES)


class Run:
    """One rollout. Whatever is told is applied, and so is every decision that follows; each method returns these."""

    def __init__(self, spec: RolloutSpec | None = None) -> None:
        self.at = 1000.0
        start = start_of(spec or rollout_spec())
        self.state: RolloutState = begun(start)
        self.decisions: list[Decision] = []
        self.events: list[Event] = [start]
        """All of them, as a log has them."""
        self._follow()

    def hear(self, event: Event) -> list[Decision]:
        self.state = apply(self.state, event)
        self.events.append(event)
        return self._follow()

    def _follow(self) -> list[Decision]:
        new: list[Decision] = []
        while due := decide(self.state):
            for decision in due:
                self.state = apply(self.state, decision)
                self.events.append(decision)
                new.append(decision)
            assert len(new) < 10, f"decisions without end: {new}"
        self.decisions += new
        return new

    def ready(self) -> list[Decision]:
        return self.hear(VersionReady(at=self.at, effect=self._open_id()))

    def failed(self, reason: str, *, deploying: bool = False) -> list[Decision]:
        return self.hear(VersionFailed(at=self.at, reason=reason, effect=self._open_id() if deploying else None))

    def applied(self) -> list[Decision]:
        """All gateways have the table that the open effect asked for."""
        effect = self.state.open
        weight = effect.weight if isinstance(effect, SetWeight) else 100 * isinstance(effect, PublishPromotion)
        return self.hear(
            WeightApplied(at=self.at, effect=self._open_id(), generation=1, weight=weight, acknowledged=2, gateways=2)
        )

    def gone(self, version: str) -> list[Decision]:
        return self.hear(VersionGone(at=self.at, effect=self._open_id(), version=version))

    def tick(self, seconds: float) -> list[Decision]:
        """So much time passes, watched all along."""
        new: list[Decision] = []
        while seconds > 0:
            self.at += min(seconds, 10.0)
            seconds -= 10.0
            new += self.hear(ClockTick(at=self.at))
        return new

    def window(
        self,
        canary: int = 0,
        stable: int = 0,
        *,
        seconds: float = 1.0,
        bad: int = 0,
        invalid: int = 0,
        stable_bad: int = 0,
        compared: int = 0,
        agreed: int = 0,
        reporting: int = 2,
        weight: int | None = None,
    ) -> list[Decision]:
        """One observation; its weight is the one in force unless told."""
        self.at += seconds
        observation = Observation(
            self.at,
            seconds,
            (self.state.weight if weight is None else weight) / 100,
            VariantCounts(canary, max(bad, invalid), 0, invalid),
            VariantCounts(stable, stable_bad),
            compared,
            agreed,
            2,
            reporting,
        )
        return self.hear(Observed(at=self.at, observation=observation))

    def windows(self, seconds: float, *, canary: int) -> None:
        """So long a time in windows of at most 10 s with so many attempts each."""
        while seconds > 0:
            self.window(canary=canary, seconds=min(seconds, 10.0))
            seconds -= 10.0

    def in_phase(self, *phases: Phase) -> bool:
        return self.state.phase in phases

    def _open_id(self) -> int:
        assert self.state.open is not None, "no effect is open"
        return self.state.open.id


def at_first_weight(spec: RolloutSpec | None = None) -> Run:
    """The canary has its first weight in force."""
    run = Run(spec)
    run.ready()
    run.applied()
    return run


def baking(spec: RolloutSpec | None = None) -> Run:
    """A healthy canary is promoted by all steps of its file."""
    run = at_first_weight(spec)
    for _ in range(1000):
        if run.in_phase(Phase.BAKING):
            return run
        if run.in_phase(Phase.PAUSED):
            run.hear(Resume(at=run.at, who="anna"))
        elif run.state.open is not None:
            run.applied()
        else:
            run.window(canary=20, stable=200, seconds=5.0)
    raise AssertionError(f"never promoted: {run.state.phase} {run.state.reason}")


def shut_out(spec: RolloutSpec | None = None) -> Run:
    """The canary fails a third of its calls at its first weight, and all gateways let go of it within 400 ms."""
    run = at_first_weight(spec)
    while not run.in_phase(Phase.ROLLING_BACK):
        run.window(canary=20, stable=380, bad=7)
    run.at += 0.4
    run.applied()
    return run


def settled(spec: RolloutSpec | None = None, *, bad: int = 0) -> Run:
    """A rollout from its start to its end; so many of 20 first attempts at the canary are bad."""
    run = at_first_weight(spec)
    for _ in range(1000):
        if run.state.settled:
            return run
        if run.in_phase(Phase.PAUSED):
            run.hear(Resume(at=run.at, who="anna"))
        elif isinstance(run.state.open, Finish):
            run.gone(run.state.open.remove)
        elif run.state.open is not None:
            run.applied()
        else:
            run.window(canary=20, stable=200, bad=bad, seconds=5.0)
    raise AssertionError(f"no end: {run.state.phase} {run.state.reason}")


def kinds(decisions: list[Decision]) -> list[str]:
    return [type(decision).__name__ for decision in decisions]


def the(decisions: list[Decision], kind: type[Any]) -> Any:
    """The one decision of that kind."""
    [found] = [decision for decision in decisions if isinstance(decision, kind)]
    return found
