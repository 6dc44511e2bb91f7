"""What each event does to a rollout: ``apply`` folds it into the state. Pure.

Time comes from the events alone, and only in small portions: a stretch that nobody watched, as when the controller was
down, counts for at most ``UNWATCHED_MAX_S``. So no deadline passes and no bake ends unseen, and a wall clock that is
put forward or back does no harm. Not here: which moves there are (``serving.rollout.state``), and which comes next
(``serving.rollout.decide``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

from msgspec.structs import replace

from serving.rollout import events
from serving.rollout.analysis import gathered, judged, no_evidence
from serving.rollout.events import Decision, Event, Start
from serving.rollout.evidence import Finding, VariantCounts
from serving.rollout.spec import seconds
from serving.rollout.state import OVER, TABLE, IllegalMove, Passage, Phase, RolloutState, allowed

UNWATCHED_MAX_S: Final = 30.0

_DECISIONS: Final = get_args(Decision)


def begun(start: Start) -> RolloutState:
    """The state of a rollout that nothing has happened to yet but its start."""
    return RolloutState(
        rollout=start.rollout,
        spec=start.spec,
        prior=start.prior,
        started_by=start.who,
        started_at=start.at,
        phase=Phase.PENDING,
        reason=_said("started", start),
        at=start.at,
        since=start.at,
        evidence=no_evidence(start.spec, start.rules),
        rules=start.rules,
    )


def apply(state: RolloutState, event: Event) -> RolloutState:
    """The state after the event. Raises ``IllegalMove``, which leaves everything as it was."""
    kind = type(event)
    targets = TABLE[state.phase].get(kind)
    if targets is None:
        possible = ", ".join(allowed(state)).lower() or _instead(state)
        raise IllegalMove(
            f"{state.rollout} is {state.phase.value} ({state.reason}): no {kind.__name__} now. "
            f"What a person can do: {possible}"
        )
    if isinstance(event, _DECISIONS):
        if event.id != state.decided + 1:
            raise IllegalMove(f"{state.rollout}: decision {event.id} can't follow decision {state.decided}")
        state = replace(state, decided=event.id)
    after = _DO[kind](_later(state, event.at), event)
    if after.phase not in targets:
        raise IllegalMove(
            f"{state.rollout}: {kind.__name__} doesn't lead from {state.phase.value} to {after.phase.value}"
        )
    return after if after.phase in OVER or after.phase is Phase.ROLLING_BACK else _assessed(after)


def _instead(state: RolloutState) -> str:
    """What a person can do about a rollout that takes no commands."""
    if state.phase not in OVER:
        return "wait until it is taken back"
    return f"start a rollout, of {state.prior if state.phase is Phase.SUCCEEDED else state.spec.version}, for example"


def _later(state: RolloutState, at: float) -> RolloutState:
    """A clock that was put back is believed from then on: else no time would pass until it is where it was."""
    passed_s = min(max(at - state.at, 0.0), UNWATCHED_MAX_S)
    state = replace(state, at=at, since=min(state.since, at))
    if state.phase is Phase.PAUSED:
        return state
    return replace(state, here_s=state.here_s + passed_s, weight_s=state.weight_s + passed_s)


def _assessed(state: RolloutState) -> RolloutState:
    """The state with what its evidence comes to: the guards first, then what the counts say."""
    findings: list[Finding] = []
    deadline = state.spec.progress_deadline
    if state.failure:
        findings.append(Finding("bad", "version", state.failure))
    if state.phase is Phase.STARTING and state.here_s >= seconds(deadline):
        findings.append(Finding("bad", "ready", f"{state.spec} wasn't ready within {deadline}"))
    if state.step >= 0:
        findings += judged(state.spec, state.evidence, state.rules)
    return replace(state, findings=tuple(findings))


def _entered(state: RolloutState, phase: Phase, reason: str) -> RolloutState:
    """The state in another phase; what went before becomes history."""
    return replace(_noted(state, reason), phase=phase, reason=reason)


def _noted(state: RolloutState, why: str) -> RolloutState:
    if state.since == state.at:
        return state
    here = state.evidence.here
    passage = Passage(state.phase, state.step, state.weight, state.since, state.at, here.attempts, here.bad, why)
    return replace(state, history=(*state.history, passage), since=state.at)


def _afresh(state: RolloutState) -> RolloutState:
    """A new weight: what counts for the next step begins to be counted."""
    evidence = replace(state.evidence, here=VariantCounts())
    return replace(state, here_s=0.0, weight_s=0.0, observed_s=0.0, evidence=evidence)


def _forgiven(state: RolloutState) -> RolloutState:
    """After a pause for a reason, that reason must arise anew; after a breach the evidence starts from nothing."""
    if state.pause_cause == "breach":
        return replace(_afresh(state), evidence=no_evidence(state.spec, state.rules), failure="")
    if state.pause_cause in ("metrics", "evidence"):
        excused = state.excused or (state.pause_cause == "evidence" and state.paused_in is Phase.BAKING)
        evidence = replace(state.evidence, gap_s=0.0)
        return replace(state, here_s=0.0, weight_s=0.0, evidence=evidence, excused=excused)
    return state


def _said(verb: str, command: Any) -> str:
    return f"{verb} by {command.who}: {command.why}" if command.why else f"{verb} by {command.who}"


def _pause(state: RolloutState, event: events.Pause) -> RolloutState:
    paused = _entered(state, Phase.PAUSED, _said("paused", event))
    return replace(paused, paused_in=state.phase, pause_cause="person")


def _resume(state: RolloutState, event: events.Resume) -> RolloutState:
    back_in = state.paused_in or Phase.PROGRESSING
    return replace(_forgiven(_entered(state, back_in, _said("resumed", event))), paused_in=None, pause_cause="")


def _promote(state: RolloutState, event: events.Promote) -> RolloutState:
    if state.paused_in is Phase.BAKING:
        raise IllegalMove(f"{state.rollout}: {state.spec} is promoted already; resume lets it go on baking")
    promoting = _forgiven(_entered(state, Phase.PROMOTING, _said("promoted", event)))
    return replace(promoting, here_s=0.0, paused_in=None, pause_cause="", open=None)


def _abort(state: RolloutState, event: events.Abort) -> RolloutState:
    return replace(_entered(state, Phase.ROLLING_BACK, _said("aborted", event)), ending="Aborted")


def _roll_back_command(state: RolloutState, event: events.Rollback) -> RolloutState:
    return replace(_entered(state, Phase.ROLLING_BACK, _said("rolled back", event)), ending="RolledBack")


def _observed(state: RolloutState, event: events.Observed) -> RolloutState:
    if state.step < 0 or state.phase is Phase.ROLLING_BACK or state.phase in OVER:
        return state
    observation = event.observation
    if not 0 <= observation.weight <= 1 or not 0 <= observation.seconds < float("inf"):
        raise IllegalMove(f"{state.rollout}: no window has weight {observation.weight}, {observation.seconds} s")
    in_force = abs(100 * observation.weight - state.weight) < 0.5
    evidence = gathered(state.evidence, observation, here=in_force)
    watched = observation.seconds <= UNWATCHED_MAX_S
    if not watched:  # it only moves the burn rates' windows on
        evidence = replace(evidence, gap_s=state.evidence.gap_s)
    watched_s = observation.seconds if watched and state.phase is Phase.BAKING and evidence.complete else 0.0
    return replace(state, evidence=evidence, observed_s=state.observed_s + watched_s, cursor=event.cursor)


def _ready(state: RolloutState, event: events.VersionReady) -> RolloutState:
    if not _answers(state, event.effect, events.DeployVersion):
        return state
    ready = _entered(state, Phase.PROGRESSING, f"{state.spec} is ready")
    return replace(_afresh(ready), open=None)


def _failed(state: RolloutState, event: events.VersionFailed) -> RolloutState:
    late = event.effect is not None and not _answers(state, event.effect, events.DeployVersion)
    if late or state.phase is Phase.ROLLING_BACK or state.phase in OVER:
        return state
    return replace(state, failure=event.reason or f"{state.spec} failed")


def _weight_applied(state: RolloutState, event: events.WeightApplied) -> RolloutState:
    if not _answers(state, event.effect, events.SetWeight, events.PublishPromotion, events.RollBackNow):
        return state
    effect = state.open
    wanted = effect.weight if isinstance(effect, events.SetWeight) else 0
    if isinstance(effect, events.PublishPromotion):
        wanted = 100
    if event.weight != wanted:
        raise IllegalMove(f"{state.rollout}: effect {event.effect} asked for {wanted} %, not for {event.weight} %")
    if event.acknowledged < event.gateways:
        return state
    if isinstance(effect, events.RollBackNow):
        return replace(_noted(state, f"no gateway has {state.spec} any more"), weight=0, open=None, taken_back=True)
    if isinstance(effect, events.PublishPromotion):
        baking = _entered(state, Phase.BAKING, f"{state.spec} has all requests; {state.prior} is kept warm")
        return replace(_afresh(baking), weight=100, open=None)
    reason = f"{state.spec} has {wanted} % of the requests"
    return replace(_afresh(state), weight=wanted, open=None, reason=_unless_paused(state, reason))


def _unless_paused(state: RolloutState, reason: str) -> str:
    return state.reason if state.phase is Phase.PAUSED else reason


def _gone(state: RolloutState, event: events.VersionGone) -> RolloutState:
    return replace(state, open=None) if _answers(state, event.effect, events.Finish) else state


def _tick(state: RolloutState, _: events.ClockTick) -> RolloutState:
    return state


def _deploy(state: RolloutState, event: events.DeployVersion) -> RolloutState:
    return replace(_entered(state, Phase.STARTING, f"{event.version} is being deployed"), open=event, here_s=0.0)


def _set_weight(state: RolloutState, event: events.SetWeight) -> RolloutState:
    steps = state.spec.steps
    due = event.step == state.step + 1 < len(steps) and steps[event.step].set_weight == event.weight
    if not due or state.open is not None:
        raise IllegalMove(f"{state.rollout}: {event.weight} % isn't what comes after step {state.step + 1}")
    reason = f"{event.weight} % is being published"
    return replace(_noted(state, reason), step=event.step, open=event, here_s=0.0, reason=reason)


def _wait(state: RolloutState, event: events.Wait) -> RolloutState:
    _must_be_next(state, event.step)
    pause = state.spec.steps[event.step].pause
    reason = f"pauses for {pause.duration if pause else 'nothing'} at {state.weight} %"
    return replace(_noted(state, reason), step=event.step, here_s=0.0, reason=reason)


def _pause_now(state: RolloutState, event: events.PauseNow) -> RolloutState:
    paused = _entered(state, Phase.PAUSED, event.reason)
    if event.step is not None:
        _must_be_next(state, event.step)
        paused = replace(paused, step=event.step)
    return replace(paused, paused_in=state.phase, pause_cause=event.cause)


def _must_be_next(state: RolloutState, step: int) -> None:
    if step != state.step + 1 or step >= len(state.spec.steps) or state.spec.steps[step].pause is None:
        raise IllegalMove(f"{state.rollout}: step {step + 1} isn't the pause that comes after step {state.step + 1}")


def _publish_promotion(state: RolloutState, event: events.PublishPromotion) -> RolloutState:
    if state.phase is Phase.PROGRESSING:
        if state.open is not None or state.step != len(state.spec.steps) - 1:
            raise IllegalMove(f"{state.rollout}: {state.spec} can't be promoted before all steps are done")
        state = _entered(state, Phase.PROMOTING, "all steps are done")
    return replace(state, open=event, here_s=0.0)


def _roll_back_now(state: RolloutState, event: events.RollBackNow) -> RolloutState:
    if state.phase is not Phase.ROLLING_BACK:
        state = _entered(state, Phase.ROLLING_BACK, event.reason)
    ending: Any = "RolledBack" if event.withdraw else "Aborted"
    return replace(state, open=event, ending=ending, paused_in=None, pause_cause="", taken_back=False)


def _finish(state: RolloutState, event: events.Finish) -> RolloutState:
    back = state.phase is Phase.ROLLING_BACK
    if back and not state.taken_back:
        raise IllegalMove(f"{state.rollout}: gateways may still send requests to {state.spec}")
    if not back and state.observed_s < seconds(state.spec.bake.duration):
        raise IllegalMove(f"{state.rollout}: {state.prior} stays until the bake is over")
    if event.remove != (state.spec.version if back else state.prior):
        raise IllegalMove(f"{state.rollout}: {event.remove} stays when this ends as {event.outcome}")
    return replace(_entered(state, Phase(event.outcome), event.reason), open=event)


def _answers(state: RolloutState, effect: int, *kinds: type[Any]) -> bool:
    """Whether the observation is about the effect that is open. An answer that comes late changes nothing."""
    if effect > state.decided:
        raise IllegalMove(f"{state.rollout}: effect {effect} was never decided, only {state.decided} were")
    return state.open is not None and state.open.id == effect and isinstance(state.open, kinds)


_DO: Final[dict[type[Event], Callable[[RolloutState, Any], RolloutState]]] = {
    events.Pause: _pause,
    events.Resume: _resume,
    events.Promote: _promote,
    events.Abort: _abort,
    events.Rollback: _roll_back_command,
    events.Observed: _observed,
    events.VersionReady: _ready,
    events.VersionFailed: _failed,
    events.WeightApplied: _weight_applied,
    events.VersionGone: _gone,
    events.ClockTick: _tick,
    events.DeployVersion: _deploy,
    events.SetWeight: _set_weight,
    events.Wait: _wait,
    events.PauseNow: _pause_now,
    events.PublishPromotion: _publish_promotion,
    events.RollBackNow: _roll_back_now,
    events.Finish: _finish,
}
