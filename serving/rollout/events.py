"""Everything that can happen in a rollout, as plain data: commands, observations, decisions. Pure.

These are what the event log keeps. Weights are whole percents of the canary, as in the rollout file. ``at`` is wall
clock seconds from whoever made the event; a decision has the ``at`` of the event that led to it. Not here: what they
do to a rollout (``serving.rollout.state``).

A decision that changes the world has an ``id``, counted from 1 within its rollout. It is *open* from when it is
decided until the observation that names it as its ``effect`` comes in, or until a later decision takes its place.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from serving.rollout.cursor import GatewayCursor
from serving.rollout.evidence import Finding, Observation
from serving.rollout.spec import RolloutSpec

PauseCause = Literal["step", "breach", "metrics", "evidence"]
"""A step of the file, something that speaks against the canary, missing figures, or too little evidence."""

Rules = Literal[1, 2]
"""By which rules a rollout is judged (``serving.rollout.analysis``)."""

RULES: Final = 2
"""The rules of rollouts that start now."""


class RolloutEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag=True, tag_field="event"):
    at: float


class Start(RolloutEvent, frozen=True):
    """A person starts a rollout. ``prior`` is the version that was stable at that moment.

    ``rules`` are those that hold to its end. Logs that don't say are of a time when there was one kind.
    """

    rollout: str
    spec: RolloutSpec
    prior: str
    who: str
    why: str = ""
    rules: Rules = 1


class Pause(RolloutEvent, frozen=True):
    """A person wants the weight to stay; what speaks against the canary still takes it back."""

    who: str
    why: str = ""


class Resume(RolloutEvent, frozen=True):
    """A person lets it go on. After a breach this forgives what spoke against the canary so far."""

    who: str
    why: str = ""


class Promote(RolloutEvent, frozen=True):
    """A person leaves out the steps that are left."""

    who: str
    why: str = ""


class Abort(RolloutEvent, frozen=True):
    """A person ends it. The prior version takes over; the canary isn't held to be bad."""

    who: str
    why: str = ""


class Rollback(RolloutEvent, frozen=True):
    """A person holds the canary to be bad."""

    who: str
    why: str = ""


class Observed(RolloutEvent, frozen=True):
    """What the gateways counted in one window. ``cursor`` is only for whoever goes on counting after a restart."""

    observation: Observation
    cursor: tuple[GatewayCursor, ...] = ()


class VersionReady(RolloutEvent, frozen=True):
    """The deployment that ``effect`` asked for is done: checked, golden test passed, all replicas ready."""

    effect: int


class VersionFailed(RolloutEvent, frozen=True):
    """The canary doesn't start, fails its golden test, or crashes again and again. ``reason`` says so in one sentence.

    ``effect`` is the deployment that failed, or nothing if the version was ready before.
    """

    reason: str
    effect: int | None = None


class WeightApplied(RolloutEvent, frozen=True):
    """A table that ``effect`` asked for is written, and so many of the gateways have it.

    The effect is done when all of them do.
    """

    effect: int
    generation: int
    weight: int
    acknowledged: int
    gateways: int


class VersionGone(RolloutEvent, frozen=True):
    """The version that the rollout's end asked to remove has no replicas left."""

    effect: int
    version: str


class ClockTick(RolloutEvent, frozen=True):
    """Nothing but the time."""


class DeployVersion(RolloutEvent, frozen=True):
    """Check the canary, deploy it, wait until it is ready. Done: ``VersionReady`` or ``VersionFailed``."""

    id: int
    version: str


class SetWeight(RolloutEvent, frozen=True):
    """Publish a table in which the canary has this weight. Done: ``WeightApplied``."""

    id: int
    step: int
    version: str
    weight: int


class Wait(RolloutEvent, frozen=True):
    """Begin a pause with a duration. Nothing to do for anyone."""

    id: int
    step: int


class PauseNow(RolloutEvent, frozen=True):
    """Wait for a person. Nothing to do for anyone. ``step`` is the pause of the file, if it is one."""

    id: int
    cause: PauseCause
    reason: str
    step: int | None = None


class PublishPromotion(RolloutEvent, frozen=True):
    """Publish a table in which the canary is the stable version; the prior one stays deployed and warm.

    Done: ``WeightApplied`` with weight 100.
    """

    id: int
    version: str
    prior: str


class RollBackNow(RolloutEvent, frozen=True):
    """Publish a table without the canary, the prior version stable again. Done: ``WeightApplied`` with weight 0.

    With ``withdraw`` the canary is bad: its cached answers are void, and it is marked so.
    """

    id: int
    version: str
    prior: str
    reason: str
    withdraw: bool
    findings: tuple[Finding, ...] = ()


class Finish(RolloutEvent, frozen=True):
    """It is over. End the replicas of ``remove``. Done: ``VersionGone``."""

    id: int
    outcome: Literal["Succeeded", "RolledBack", "Aborted"]
    remove: str
    reason: str


Command = Start | Pause | Resume | Promote | Abort | Rollback
Sighting = Observed | VersionReady | VersionFailed | WeightApplied | VersionGone | ClockTick
Decision = DeployVersion | SetWeight | Wait | PauseNow | PublishPromotion | RollBackNow | Finish
Effect = DeployVersion | SetWeight | PublishPromotion | RollBackNow | Finish
"""The decisions for which there is something to do in the world. Doing one again changes nothing."""
Event = Command | Sighting | Decision
