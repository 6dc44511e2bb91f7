"""Where a rollout stands, and the one table that says what may happen to it there. Pure.

A move that the table doesn't have is illegal. Not here: what a move does (``serving.rollout.apply``), which one comes
next (``serving.rollout.decide``), and whether a rollout may start (``serving.rollout.desired``).
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

import msgspec

from serving.rollout.analysis import Evidence
from serving.rollout.cursor import GatewayCursor
from serving.rollout.events import (
    Abort,
    ClockTick,
    DeployVersion,
    Effect,
    Event,
    Finish,
    Observed,
    Pause,
    PauseNow,
    Promote,
    PublishPromotion,
    Resume,
    Rollback,
    RollBackNow,
    Rules,
    SetWeight,
    VersionFailed,
    VersionGone,
    VersionReady,
    Wait,
    WeightApplied,
)
from serving.rollout.evidence import Finding
from serving.rollout.spec import RolloutSpec, Step


class Phase(Enum):
    """Where a rollout stands."""

    PENDING = "Pending"
    STARTING = "Starting"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    PROMOTING = "Promoting"
    BAKING = "Baking"
    SUCCEEDED = "Succeeded"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"


Moves = dict[type[Event], tuple[Phase, ...]]


def _leads_back(phase: Phase) -> Moves:
    """The moves that every phase has from which there is a way back."""
    back = (Phase.ROLLING_BACK,)
    return {**_stays(phase), RollBackNow: back, Rollback: back, Abort: back}


def _stays(phase: Phase) -> Moves:
    """What may be heard at any time. An answer to an effect that is no longer open says nothing new."""
    heard: tuple[type[Event], ...] = (ClockTick, Observed, VersionReady, VersionFailed, WeightApplied, VersionGone)
    return dict.fromkeys(heard, (phase,))


TABLE: Final[dict[Phase, Moves]] = {
    Phase.PENDING: {
        **_leads_back(Phase.PENDING),
        DeployVersion: (Phase.STARTING,),
    },
    Phase.STARTING: {
        **_leads_back(Phase.STARTING),
        VersionReady: (Phase.PROGRESSING, Phase.STARTING),
    },
    Phase.PROGRESSING: {
        **_leads_back(Phase.PROGRESSING),
        SetWeight: (Phase.PROGRESSING,),
        Wait: (Phase.PROGRESSING,),
        Pause: (Phase.PAUSED,),
        PauseNow: (Phase.PAUSED,),
        Promote: (Phase.PROMOTING,),
        PublishPromotion: (Phase.PROMOTING,),
    },
    Phase.PAUSED: {
        **_leads_back(Phase.PAUSED),
        Resume: (Phase.PROGRESSING, Phase.BAKING),
        Promote: (Phase.PROMOTING,),
    },
    Phase.PROMOTING: {
        **_leads_back(Phase.PROMOTING),
        PublishPromotion: (Phase.PROMOTING,),
        WeightApplied: (Phase.BAKING, Phase.PROMOTING),
    },
    Phase.BAKING: {
        **_leads_back(Phase.BAKING),
        Pause: (Phase.PAUSED,),
        PauseNow: (Phase.PAUSED,),
        Finish: (Phase.SUCCEEDED,),
    },
    Phase.ROLLING_BACK: {
        **_stays(Phase.ROLLING_BACK),
        RollBackNow: (Phase.ROLLING_BACK,),
        Finish: (Phase.ROLLED_BACK, Phase.ABORTED),
    },
    Phase.SUCCEEDED: _stays(Phase.SUCCEEDED),
    Phase.ROLLED_BACK: _stays(Phase.ROLLED_BACK),
    Phase.ABORTED: _stays(Phase.ABORTED),
}
"""What may happen in each phase, and which phases it may lead to. The diagram in docs/rollouts.md is drawn from it."""

OVER: Final = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.ABORTED})


class IllegalMove(Exception):
    """This can't happen here; nothing has changed. The text says what can."""


class Passage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of the past with one phase and one weight. ``since`` and ``until`` are wall clock seconds.

    ``attempts`` and ``bad`` are the canary's at this weight up to the end, before a pause included; ``why`` says what
    ended it.
    """

    phase: Phase
    step: int
    weight: int
    since: float
    until: float
    attempts: int
    bad: int
    why: str


class RolloutState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rollout, all of it: a fold over its events, plain data.

    ``weight`` is the percent that all gateways have acknowledged. ``step`` is the entry of ``spec.steps`` that was
    begun last, -1 before the first. ``open`` is the effect that isn't known to be done, and ``decided`` the id of the
    last decision. ``taken_back`` says that all gateways know the table without the canary.

    ``at`` is the latest wall clock seen, ``since`` when the phase or weight began on it. Durations don't come from
    these: ``here_s`` is the time since the step or phase began, ``weight_s`` since the weight is in force, both
    without pauses, and ``observed_s`` what of the bake all gateways have reported on. ``cursor`` says how far the
    counts of gateways have been observed. ``rules`` are those by which it is judged. ``excused`` says that a person let
    the bake go on without ``minAttempts``, ``rolled_back_before`` why an earlier rollout took this version back.
    """

    rollout: str
    spec: RolloutSpec
    prior: str
    started_by: str
    started_at: float
    phase: Phase
    reason: str
    at: float
    since: float
    evidence: Evidence
    rules: Rules = 1
    step: int = -1
    weight: int = 0
    failure: str = ""
    taken_back: bool = False
    here_s: float = 0.0
    weight_s: float = 0.0
    observed_s: float = 0.0
    decided: int = 0
    open: Effect | None = None
    paused_in: Phase | None = None
    pause_cause: Literal["", "person", "step", "breach", "metrics", "evidence"] = ""
    excused: bool = False
    rolled_back_before: str = ""
    ending: Literal["RolledBack", "Aborted"] = "RolledBack"
    findings: tuple[Finding, ...] = ()
    cursor: tuple[GatewayCursor, ...] = ()
    history: tuple[Passage, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing is decided any more."""
        return self.phase in OVER

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to do, either."""
        return self.over and self.open is None

    @property
    def current_step(self) -> Step | None:
        return self.spec.steps[self.step] if self.step >= 0 else None

    @property
    def breaches(self) -> tuple[Finding, ...]:
        """All that speaks against the canary."""
        return tuple(finding for finding in self.findings if finding.kind == "bad")


def allowed(state: RolloutState) -> list[str]:
    """The names of the commands that a person may give now."""
    return [kind.__name__ for kind in (Pause, Resume, Promote, Abort, Rollback) if kind in TABLE[state.phase]]
