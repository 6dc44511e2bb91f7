"""What shall be so, for all models together: the last rollout of each, and which versions were taken back. Pure.

It is the fold over the whole event log: ``desired = fold(recorded, entries)``, and a snapshot of it stands for all
entries before. Not here: one rollout's life (``serving.rollout.state``), and the log itself
(``serving.rollout.event_log``), which keeps an entry as the bytes that ``encode_entry`` makes of it.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from serving.rollout.apply import apply, begun
from serving.rollout.decide import decide
from serving.rollout.events import Decision, Effect, Event, RollBackNow, Start
from serving.rollout.state import IllegalMove, RolloutState


class StartRefused(IllegalMove):
    """This rollout can't start now. The text says why and what to do."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event and the rollout that it belongs to."""

    rollout: str
    event: Event


class DesiredState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The latest rollout of each model, how many each has had, and why versions (``model@version``) were taken back.

    What was taken back gets no traffic until a person starts a rollout of it again.
    """

    rollouts: dict[str, RolloutState] = {}
    counts: dict[str, int] = {}
    rolled_back: dict[str, str] = {}

    def find(self, rollout: str) -> RolloutState | None:
        """The rollout of that name, if it is the latest of its model."""
        return next((state for state in self.rollouts.values() if state.rollout == rollout), None)

    def next_name(self, model: str) -> str:
        """What the next rollout of the model is called."""
        return f"{model}-{self.counts.get(model, 0) + 1}"


def refusal(desired: DesiredState, start: Start) -> str:
    """Why this rollout can't start, in one sentence that says what to do; nothing if it can."""
    spec, prior, last = start.spec, start.prior, desired.rollouts.get(start.spec.model)
    if last is not None and not last.over:
        return (
            f"{last.rollout} ({last.prior} to {last.spec.version}) of '{spec.model}' is {last.phase.value}: wait until "
            f"it ends, or end it with `holdfast rollout abort {spec.model}`"
        )
    if last is not None and not last.settled:
        gone = last.open.remove if last.open is not None and hasattr(last.open, "remove") else last.spec.version
        return f"{last.rollout} is over, but {gone} is still being removed: try again in a moment"
    if start.rollout != desired.next_name(spec.model):
        return f"the next rollout of '{spec.model}' is called {desired.next_name(spec.model)}, not {start.rollout}"
    if spec.version == prior:
        return f"{spec} is the stable version already: there is nothing to roll out"
    if spec.from_ is not None and spec.from_ != prior:
        return f"from: the stable version of '{spec.model}' is {prior}, not {spec.from_}: change or leave out `from`"
    return ""


def recorded(desired: DesiredState, entry: Entry) -> DesiredState:
    """The desired state after one more entry. Raises ``IllegalMove``, which leaves everything as it was."""
    event = entry.event
    if isinstance(event, Start):
        return _started(desired, entry.rollout, event)
    before = desired.find(entry.rollout)
    if before is None:
        raise IllegalMove(f"there is no rollout {entry.rollout}, or a later one has taken its place")
    after = apply(before, event)
    rolled_back = desired.rolled_back
    if isinstance(event, RollBackNow) and event.withdraw:
        rolled_back = {**rolled_back, str(after.spec): event.reason}
    return replace(desired, rollouts={**desired.rollouts, after.spec.model: after}, rolled_back=rolled_back)


def due(desired: DesiredState) -> tuple[Entry, ...]:
    """The decisions that are due in any rollout. Record them one by one, then ask again."""
    return tuple(Entry(state.rollout, decision) for state in desired.rollouts.values() for decision in decide(state))


def undone(desired: DesiredState) -> tuple[tuple[str, Effect], ...]:
    """What has been decided and isn't known to be done, each with its rollout: to carry out, again after a restart."""
    return tuple((state.rollout, state.open) for state in desired.rollouts.values() if state.open is not None)


def encode_entry(entry: Entry) -> bytes:
    """The bytes for the event log; the same entry always gives the same ones.

    Raises ``ValueError`` for an entry that couldn't be read back (a number that is none): it would end every restart.
    """
    raw = _encoder.encode(entry)
    if _entries.decode(raw) != entry:
        raise ValueError(f"{type(entry.event).__name__} of {entry.rollout} changes when it is written down")
    return raw


def decode_entry(raw: bytes) -> Entry:
    """Raises ``ValueError`` for anything that isn't an entry."""
    return _entries.decode(raw)


def encode_desired(desired: DesiredState) -> bytes:
    """The bytes of a snapshot."""
    return _encoder.encode(desired)


def decode_desired(raw: bytes) -> DesiredState:
    """Raises ``ValueError`` for anything that isn't a snapshot."""
    return _snapshots.decode(raw)


def encode_decision(decision: Decision) -> bytes:
    """The bytes by which a replay compares."""
    return _encoder.encode(decision)


def _started(desired: DesiredState, rollout: str, start: Start) -> DesiredState:
    if rollout != start.rollout:
        raise IllegalMove(f"the entry is of {rollout}, the start of {start.rollout}")
    if reason := refusal(desired, start):
        raise StartRefused(reason)
    model, version = start.spec.model, str(start.spec)
    state = replace(begun(start), rolled_back_before=desired.rolled_back.get(version, ""))
    return DesiredState(
        rollouts={**desired.rollouts, model: state},
        counts={**desired.counts, model: desired.counts.get(model, 0) + 1},
        rolled_back={name: reason for name, reason in desired.rolled_back.items() if name != version},
    )


_encoder = msgspec.json.Encoder()
_entries = msgspec.json.Decoder(Entry)
_snapshots = msgspec.json.Decoder(DesiredState)
