"""What the history of a rollout says: when the canary was found out and taken back, and what was done twice. Pure.

An event has `seq`, `wall`, `cause`, `rollout` and, as `event`, what happened. Not here: asking for it (`admin.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

Event = Mapping[str, Any]

_DECISIONS: Final = frozenset(
    {"DeployVersion", "SetWeight", "Wait", "PauseNow", "PublishPromotion", "RollBackNow", "Finish"}
)
_ONCE: Final = frozenset({"DeployVersion", "PublishPromotion", "Finish"})
"""Decisions that a rollout comes to once. (That it takes back what a person has resumed can happen again.)"""


class TakenBack(NamedTuple):
    """Wall clock: of the evidence, of the decision, and of the last gateway's word that it has the new table."""

    evidence: float
    decided: float
    done: float | None
    reason: str

    @property
    def took_s(self) -> float | None:
        """Seconds from the evidence to the last gateway."""
        return None if self.done is None else self.done - self.evidence


def kind(event: Event) -> str:
    return str(event["event"]["event"])


def taken_back(events: Sequence[Event]) -> TakenBack | None:
    """How the canary was taken back the first time; None if it wasn't."""
    decision = next((event for event in events if kind(event) == "RollBackNow"), None)
    if decision is None:
        return None
    cause = next((event for event in events if event["seq"] == decision["cause"]), decision)
    effect = decision["event"]["id"]
    done = next((event for event in events if _is_done(event, effect)), None)
    return TakenBack(
        evidence=cause["wall"],
        decided=decision["wall"],
        done=None if done is None else done["wall"],
        reason=str(decision["event"]["reason"]),
    )


def done_twice(events: Sequence[Event]) -> list[str]:
    """Everything that speaks against each decision having been taken once, and each effect having been had once."""
    found = []
    decided = [event for event in events if kind(event) in _DECISIONS]
    ids = [event["event"]["id"] for event in decided]
    if ids != list(range(1, len(ids) + 1)):
        found.append(f"decisions are numbered {ids}, not from 1 on, each once")
    counts = Counter(kind(event) for event in decided)
    found += [f"{counts[name]} times {name}" for name in sorted(_ONCE) if counts[name] > 1]
    weights = [event["event"]["weight"] for event in decided if kind(event) == "SetWeight"]
    if weights != sorted(set(weights)):
        found.append(f"weights {weights} don't go up, each once")
    done = {effect: sum(_is_done(event, effect) for event in events) for effect in ids}
    return found + [
        f"effect {effect} was reported as done {times} times" for effect, times in done.items() if times > 1
    ]


def _is_done(event: Event, effect: int) -> bool:
    """Whether this says that the effect is done."""
    said = event["event"]
    if said.get("effect") != effect:
        return False
    if kind(event) == "WeightApplied":
        return bool(said["acknowledged"] >= said["gateways"])
    return kind(event) in ("VersionReady", "VersionGone")
