"""What people and programs are told of a rollout: its state in figures and words, the bodies of the API. Pure.

The field names are part of the API (docs/api.md). Not here: how it looks on a screen (``serving.commands``).
"""

from __future__ import annotations

from math import log
from typing import Final

import msgspec

from serving.rollout.analysis import comparison_alpha
from serving.rollout.burn_rate import budget_left
from serving.rollout.decide import waiting_for
from serving.rollout.desired import DesiredState
from serving.rollout.events import DeployVersion, Effect, Finish, Promote, RollBackNow
from serving.rollout.evidence import Finding, VariantCounts, e_value
from serving.rollout.spec import Step, seconds
from serving.rollout.state import Passage, Phase, RolloutState, allowed

PROMOTE: Final = Promote.__name__
_JUDGED: Final = frozenset({Phase.PROGRESSING, Phase.BAKING})


class PauseReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """A halt; without a duration until a person resumes."""

    duration: str | None = None


class StepReport(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An entry of ``steps``, written as in the rollout file."""

    set_weight: int | None = None
    pause: PauseReport | None = None


class EvidenceReport(msgspec.Struct, frozen=True):
    """First attempts and how they ended, and the evidence in them that the canary is worse: ``threshold`` is enough.

    ``here`` are the canary's at the weight in force; the other counts are of the whole rollout.
    """

    e_value: float
    threshold: float
    canary: VariantCounts
    stable: VariantCounts
    here: VariantCounts
    compared: int
    agreed: int

    @property
    def share(self) -> float:
        """Of the evidence that is enough, on a logarithmic scale: 0 says nothing against the canary, 1 is enough."""
        return max(log(max(self.e_value, 1.0)) / log(self.threshold), 0.0)


class BakeReport(msgspec.Struct, frozen=True):
    """How much of the bake has been watched."""

    done_s: float
    of_s: float


class RolloutReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout. Moments are in wall clock seconds; ``at`` is the latest that it knows of, so a page can be dated.

    ``budget_left`` is the share of the canary's error budget that isn't used up, from 0 to 1. ``rollback_took_s`` is
    the time from the evidence until no gateway had the canary any more.
    """

    rollout: str
    model: str
    version: str
    prior: str
    phase: str
    reason: str
    over: bool
    settled: bool
    started_by: str
    started_at: float
    since: float
    at: float
    step: int
    steps: tuple[StepReport, ...]
    weight: int
    open: str | None
    waiting_for: str
    can: tuple[str, ...]
    findings: tuple[Finding, ...]
    evidence: EvidenceReport
    budget_left: float | None
    bake: BakeReport | None
    here_s: float
    history: tuple[Passage, ...]
    rollback_took_s: float | None
    rolled_back_before: str


class ControllerReport(msgspec.Struct, frozen=True):
    """Who decides about rollouts, and whether it can. ``detail`` says what is wrong, if anything is."""

    state: str
    detail: str = ""
    pid: int = 0
    seq: int = 0
    log: str = ""


class Overview(msgspec.Struct, frozen=True):
    """The last rollout of each model, and why versions (``model@version``) were rolled back."""

    controller: ControllerReport
    rollouts: tuple[RolloutReport, ...]
    rolled_back: dict[str, str]


def overview(desired: DesiredState, controller: ControllerReport) -> Overview:
    """Everything at once, the models in order."""
    rollouts = tuple(report(state) for _, state in sorted(desired.rollouts.items()))
    return Overview(controller, rollouts, desired.rolled_back)


def report(state: RolloutState) -> RolloutReport:
    """One rollout as it stands."""
    spec = state.spec
    return RolloutReport(
        rollout=state.rollout,
        model=spec.model,
        version=spec.version,
        prior=state.prior,
        phase=state.phase.value,
        reason=state.reason,
        over=state.over,
        settled=state.settled,
        started_by=state.started_by,
        started_at=state.started_at,
        since=state.since,
        at=state.at,
        step=state.step,
        steps=tuple(map(_step, spec.steps)),
        weight=state.weight,
        open=None if state.open is None else type(state.open).__name__,
        waiting_for=_waiting_for(state),
        can=_can(state),
        findings=state.findings,
        evidence=_evidence(state),
        budget_left=_budget_left(state),
        bake=_bake(state),
        here_s=state.here_s,
        history=state.history,
        rollback_took_s=_rollback_took_s(state),
        rolled_back_before=state.rolled_back_before,
    )


def _step(step: Step) -> StepReport:
    return StepReport(step.set_weight, None if step.pause is None else PauseReport(step.pause.duration))


def _can(state: RolloutState) -> tuple[str, ...]:
    """The commands that wouldn't be refused."""
    promoted = state.paused_in is Phase.BAKING
    return tuple(name.lower() for name in allowed(state) if not (promoted and name == PROMOTE))


def _evidence(state: RolloutState) -> EvidenceReport:
    process = state.evidence.process
    return EvidenceReport(
        e_value=float(f"{e_value(process):.6g}"),
        threshold=1 / comparison_alpha(state.spec, state.rules),
        canary=process.canary,
        stable=process.stable,
        here=state.evidence.here,
        compared=process.compared,
        agreed=process.agreed,
    )


def _budget_left(state: RolloutState) -> float | None:
    left = budget_left(state.evidence.canary_burn)
    return None if left is None else round(max(left, 0.0), 6)


def _bake(state: RolloutState) -> BakeReport | None:
    if state.phase not in (Phase.BAKING, Phase.SUCCEEDED) and state.paused_in is not Phase.BAKING:
        return None
    of_s = seconds(state.spec.bake.duration)
    return BakeReport(min(state.observed_s, of_s), of_s)


def _rollback_took_s(state: RolloutState) -> float | None:
    if not state.taken_back:
        return None
    passage = next((passed for passed in reversed(state.history) if passed.phase is Phase.ROLLING_BACK), None)
    return 0.0 if passage is None else round(passage.until - passage.since, 6)


def _waiting_for(state: RolloutState) -> str:
    """What has to happen before anything else does, in a few words; nothing if nothing has to."""
    if state.open is not None and state.phase is not Phase.PAUSED:
        return _done_by(state.open)
    if state.phase is Phase.PAUSED:
        return f"a person: {', '.join(_can(state))}"
    if state.phase not in _JUDGED or state.step < 0:
        return ""
    return ", ".join(what for what in (_time_left(state), waiting_for(state)) if what)


def _done_by(effect: Effect) -> str:
    match effect:
        case DeployVersion(version=version):
            return f"{version} to be ready"
        case RollBackNow(version=version):
            return f"all gateways to let go of {version}"
        case Finish(remove=version):
            return f"the replicas of {version} to end"
    return "all gateways to have the new weight"


def _time_left(state: RolloutState) -> str:
    if state.phase is Phase.BAKING:
        left_s, of = seconds(state.spec.bake.duration) - state.observed_s, "the bake"
    elif (step := state.current_step) is not None and step.pause is not None and step.pause.duration is not None:
        left_s, of = seconds(step.pause.duration) - state.here_s, "the pause"
    else:
        return ""
    return f"{left_s:.0f} s more of {of}" if left_s > 0 else ""
