"""What is promised of a rollback: in time, for a reason that is readable, and the prior version answers."""

from typing import Final

from loadtests.resilience.figures import Kind
from loadtests.rollouts import history, seen
from loadtests.rollouts.files import MODEL, PRIOR
from loadtests.rollouts.history import Event, TakenBack
from loadtests.rollouts.stage import Stage
from loadtests.rollouts.verdict import one_sentence

TAKEN_BACK_S: Final = 1.0
"""From the evidence to the last gateway."""


async def went_back(stage: Stage, version: str, *, answered: bool = True) -> list[Event]:
    """All that is promised of a rollback; the history of the rollout. `answered`: the canary had requests."""
    assert stage.report is not None
    name = f"{MODEL}@{version}"
    stage.ended_as("RolledBack")
    events = await stage.rollouts.history(stage.report["rollout"])
    _in_time(stage, name, history.taken_back(events), answered=answered)
    reason = str(stage.report["reason"])
    stage.promise(one_sentence(reason), f"the reason is one sentence of {len(reason)} characters")
    everything = await stage.rollouts.everything() or {}
    stage.promise(name in everything.get("rolled_back", {}), f"{name} is marked as rolled back")
    _prior_answers(stage)
    return events


async def went_back_later(stage: Stage, version: str) -> list[Event]:
    """As `went_back`, for a canary that was bad long before a control plane was there to see it."""
    assert stage.report is not None
    events = await stage.rollouts.history(stage.report["rollout"])
    stage.back = history.taken_back(events)
    stage.promise(stage.back is not None, "the control plane took it back when it was there again")
    _prior_answers(stage)
    last = seen.last_answer_s(stage.samples, f"{MODEL}@{version}")
    if last is not None and stage.back is not None:
        stage.last_answer_s = last - stage.on_load_clock(stage.back.evidence)
    return events


def _in_time(stage: Stage, name: str, back: TakenBack | None, *, answered: bool) -> None:
    assert stage.report is not None
    stage.back = back
    if back is None:
        stage.promise(False, "the history has no decision to take it back")
        return
    took = stage.report["rollback_took_s"]
    if back.took_s is not None:
        stage.note(f"by the log: found out, and {back.took_s * 1000:.0f} ms later the last gateway had the new table")
    stage.promise(
        took is not None and took <= TAKEN_BACK_S,
        f"from the evidence to the last gateway: {'unknown' if took is None else f'{took:.3f} s'}",
    )
    last = seen.last_answer_s(stage.samples, name)
    if not answered:
        stage.promise(last is None, f"{seen.by_whom(stage.samples).get(name, 0)} answers of {name}")
        return
    if last is None:
        stage.promise(False, f"{name} never answered: nothing was tried")
        return
    stage.last_answer_s = last - stage.on_load_clock(back.evidence)
    stage.promise(
        stage.last_answer_s <= TAKEN_BACK_S,
        f"the last answer of {name} came {_after(stage.last_answer_s)} the evidence",
    )


def _after(seconds: float) -> str:
    return f"{seconds:.3f} s after" if seconds > 0 else f"{-seconds:.3f} s before"


def _prior_answers(stage: Stage) -> None:
    """Who answers what was due after the rollback."""
    assert stage.report is not None
    from_s = stage.on_load_clock(stage.back.done or stage.back.decided) + 0.2 if stage.back else stage.now_s
    after = [sample for sample in stage.samples if sample.due_s >= from_s and sample.kind in (Kind.OK, Kind.DEGRADED)]
    prior = sum(sample.by == f"{MODEL}@{PRIOR}" and sample.kind is Kind.OK for sample in after)
    stage.promise(len(after) > 0 and prior == len(after), f"{prior} of {len(after)} answers after it are {PRIOR}'s")
