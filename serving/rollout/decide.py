"""What comes next in a rollout: a plain function of its state. Pure.

The same state always gives the same decisions, byte for byte, and a state in which they have been taken gives none of
them again. So a controller that dies between any two events goes on where it was. Not here: carrying out
(``serving.rollout.controller``), and what the decisions do to the state (``serving.rollout.apply``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serving.rollout.events import (
    Decision,
    DeployVersion,
    Finish,
    PauseCause,
    PauseNow,
    PublishPromotion,
    RollBackNow,
    SetWeight,
    Wait,
)
from serving.rollout.spec import seconds
from serving.rollout.state import Phase, RolloutState

Decisions = tuple[Decision, ...]


def decide(state: RolloutState) -> Decisions:
    """The decisions that are due, in order. Apply them one by one, then ask again."""
    rule = _RULES.get(state.phase)
    return rule(state) if rule else ()


def waiting_for(state: RolloutState) -> str:
    """What the canary still needs before it gets more, in a few words for people; nothing if it needs no more."""
    analysis, here = state.spec.analysis, state.evidence.here
    if here.attempts < analysis.min_attempts and not state.excused:
        return f"{analysis.min_attempts - here.attempts} more first attempts at {state.weight} %"
    if state.evidence.reporting is None or not state.evidence.complete:
        return "all gateways to report"
    needed = () if state.excused else ("burn_rate", "agreement")
    doubts = [one for one in state.findings if one.kind == "error" or (one.what in needed and one.kind != "good")]
    return doubts[0].why if doubts else ""


def _pending(state: RolloutState) -> Decisions:
    return (DeployVersion(at=state.at, id=state.decided + 1, version=state.spec.version),)


def _starting(state: RolloutState) -> Decisions:
    return _taken_back(state) if state.breaches else ()


def _progressing(state: RolloutState) -> Decisions:
    if state.breaches:
        return _breached(state)
    if state.step >= 0 and (silent := _silent(state)):
        return silent
    if state.open is not None:
        if state.here_s < seconds(state.spec.progress_deadline):
            return ()
        return _paused(state, "evidence", f"{_deadline(state)} not every gateway had the new weight")
    pause = state.current_step.pause if state.current_step is not None else None
    if pause is not None and pause.duration is not None and state.here_s < seconds(pause.duration):
        return ()
    return _next_step(state)


def _next_step(state: RolloutState) -> Decisions:
    number, steps = state.step + 1, state.spec.steps
    step = steps[number] if number < len(steps) else None
    if step is not None and step.pause is not None:
        if step.pause.duration is not None:
            return (Wait(at=state.at, id=state.decided + 1, step=number),)
        return _paused(state, "step", f"step {number + 1} of {len(steps)} waits for a person", step=number)
    if state.step >= 0 and (missing := waiting_for(state)):
        return _out_of_time(state, missing)
    if step is not None and step.set_weight is not None:
        weight, version = step.set_weight, state.spec.version
        return (SetWeight(at=state.at, id=state.decided + 1, step=number, version=version, weight=weight),)
    return _promotion(state)


def _promoting(state: RolloutState) -> Decisions:
    if state.breaches and state.spec.on_breach == "rollback":
        return _taken_back(state)
    return _promotion(state) if state.open is None else ()


def _paused_already(state: RolloutState) -> Decisions:
    """A pause protects nobody: what would take the canary back takes it back in a pause, too."""
    return _taken_back(state) if state.breaches and state.spec.on_breach == "rollback" else ()


def _baking(state: RolloutState) -> Decisions:
    if state.breaches:
        return _breached(state)
    if silent := _silent(state):
        return silent
    duration_s = seconds(state.spec.bake.duration)
    if state.observed_s < duration_s:
        return ()
    if missing := waiting_for(state):
        return _out_of_time(state, missing, after_s=duration_s)
    reason = f"{state.spec} has replaced {state.prior} and proved itself for {state.spec.bake.duration}"
    return (Finish(at=state.at, id=state.decided + 1, outcome="Succeeded", remove=state.prior, reason=reason),)


def _rolling_back(state: RolloutState) -> Decisions:
    if state.taken_back:
        outcome, remove = state.ending, state.spec.version
        return (Finish(at=state.at, id=state.decided + 1, outcome=outcome, remove=remove, reason=state.reason),)
    return () if isinstance(state.open, RollBackNow) else _taken_back(state)


def _breached(state: RolloutState) -> Decisions:
    if state.spec.on_breach == "rollback":
        return _taken_back(state)
    return _paused(state, "breach", f"{state.breaches[0].why}; resume forgives it, rollback takes the canary back")


def _silent(state: RolloutState) -> Decisions:
    """Gateways that say nothing speak for nobody, and against nobody."""
    timeout = state.spec.analysis.metrics_timeout
    if state.evidence.gap_s < seconds(timeout) or state.evidence.reporting is None:
        return ()
    return _paused(state, "metrics", f"for {timeout} figures were missing: {state.evidence.reporting.why}")


def _out_of_time(state: RolloutState, missing: str, *, after_s: float = 0.0) -> Decisions:
    if state.weight_s < after_s + seconds(state.spec.progress_deadline):
        return ()
    return _paused(state, "evidence", f"{_deadline(state)} it still needed: {missing}")


def _deadline(state: RolloutState) -> str:
    return f"after {state.spec.progress_deadline} at {state.weight} %"


def _paused(
    state: RolloutState,
    cause: PauseCause,
    reason: str,
    *,
    step: int | None = None,
) -> Decisions:
    return (PauseNow(at=state.at, id=state.decided + 1, cause=cause, reason=reason, step=step),)


def _promotion(state: RolloutState) -> Decisions:
    version, prior = state.spec.version, state.prior
    return (PublishPromotion(at=state.at, id=state.decided + 1, version=version, prior=prior),)


def _taken_back(state: RolloutState) -> Decisions:
    """By what was found, or by what a person has said."""
    by_person = state.phase is Phase.ROLLING_BACK
    return (
        RollBackNow(
            at=state.at,
            id=state.decided + 1,
            version=state.spec.version,
            prior=state.prior,
            reason=state.reason if by_person else state.breaches[0].why,
            withdraw=state.ending == "RolledBack",
            findings=state.breaches,
        ),
    )


_RULES: Final[dict[Phase, Callable[[RolloutState], Decisions]]] = {
    Phase.PENDING: _pending,
    Phase.STARTING: _starting,
    Phase.PROGRESSING: _progressing,
    Phase.PAUSED: _paused_already,
    Phase.PROMOTING: _promoting,
    Phase.BAKING: _baking,
    Phase.ROLLING_BACK: _rolling_back,
}
"""One rule for each phase in which something is still decided."""
