"""What an event log says of rollouts: the state it folds to, the events of one model, whether it replays. Pure.

Only entries of kind ``rollout`` are part of the fold; the others say who wrote. Not here: what an event does to a
rollout (``serving.rollout.apply``), and the log itself (``serving.rollout.event_log``), which is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, takewhile
from typing import Final, NamedTuple

import msgspec

from serving.rollout.decide import decide
from serving.rollout.desired import DesiredState, Entry, decode_desired, decode_entry, encode_entry, recorded
from serving.rollout.event_log import Event, EventLog, LogCompacted, LogCorrupt, Snapshot
from serving.rollout.events import Decision
from serving.rollout.events import Event as RolloutEvent
from serving.rollout.replay import Mismatch, replay
from serving.rollout.state import IllegalMove

ROLLOUT_KIND: Final = "rollout"
CONTROLLER_KIND: Final = "controller"
SCAN_MAX: Final = 5_000
"""So many events, of whatever model, are read at most for one part of a history."""


class Claim(msgspec.Struct, frozen=True):
    """The payload of an event of kind ``controller``: who writes the log, from here on or still.

    ``system`` is the Holdfast that the controller belongs to: of its controllers the last to claim is the right one.
    """

    controller: str
    system: str = ""


class Folded(NamedTuple):
    """What all events up to ``seq`` come to; nothing if that is 0. ``wall`` is when the last of them was written.

    ``snapshot`` is the event that the newest snapshot stood for, 0 without one, and ``hash`` that of the last event.
    """

    desired: DesiredState
    seq: int
    claim: Claim | None = None
    wall: float = 0.0
    snapshot: int = 0
    hash: str = ""


class HistoryEvent(msgspec.Struct, frozen=True):
    """One event of a rollout, and where it stands in the log. ``cause`` is the number of the event that led to it."""

    seq: int
    wall: float
    cause: int | None
    rollout: str
    event: RolloutEvent


class History(msgspec.Struct, frozen=True):
    """A part of a model's history, the oldest first; it may be empty. ``next`` is what to ask for after it.

    Nothing if this is all.
    """

    events: tuple[HistoryEvent, ...]
    next: int | None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A log folded again, every decision taken again. ``desired`` is what is recorded comes to, up to ``seq``.

    ``began_after`` is the event that a snapshot stood for; 0 if the log has its first event. ``others`` counts the
    events of other kinds. A mismatch is a decision that would come out differently now, or that was due and isn't
    there.
    """

    desired: DesiredState
    began_after: int
    seq: int
    events: int
    decisions: int
    others: dict[str, int]
    mismatches: int
    first: Mismatch | None


def folded(log: EventLog, since: Folded | None = None) -> Folded:
    """The state of now. The newest snapshot shortens the fold, but every event that is kept is verified.

    Of a log that was folded before (``since``) only what is new is read, if it still goes on there. Raises
    ``LogCorrupt``, also if an entry can't be read, or can't follow those before it, and the other ``LogError``.
    """
    if since is not None and (found := _gone_on(log, since)) is not None:
        return found
    desired, snapshot, *_ = _state_of(log.latest_snapshot())
    return _fold(log.read(), Folded(desired, snapshot, snapshot=snapshot))


def _gone_on(log: EventLog, since: Folded) -> Folded | None:
    """None if the log isn't the one that was folded, as after a restore, or what is new was dropped already."""
    seq, last = log.head()
    if seq == since.seq:
        return since if last == since.hash else None
    if seq < since.seq:
        return None
    try:
        events = log.read(since.seq)
        first = next(events, None)
        if first is None or first.previous != since.hash:
            return None
        return _fold(chain((first,), events), since)
    except LogCompacted:
        return None


def _fold(events: Iterator[Event], start: Folded) -> Folded:
    desired, seq, claim, wall, snapshot, last = start
    for event in events:
        wall, last = event.wall, event.hash
        if event.kind == CONTROLLER_KIND:
            claim = _claim(event)
        if event.seq <= seq:
            continue
        seq = event.seq
        if event.kind == ROLLOUT_KIND:
            desired = _after(desired, _entry(event), event.seq)
    return Folded(desired, seq, claim, wall, snapshot, last)


def history(log: EventLog, model: str, after: int, limit: int) -> History:
    """At most ``limit`` events of the model's rollouts after event ``after``, from the next ``SCAN_MAX`` of the log.

    What was dropped is left out, and nothing comes after what isn't there yet. Raises ``LogError``.
    """
    if after > log.head()[0]:
        return History((), None)
    found: list[HistoryEvent] = []
    for number, event in enumerate(_kept(log, after)):
        ours = event.kind == ROLLOUT_KIND and _model_of(event) == model
        if number == SCAN_MAX or (ours and len(found) == limit):
            return History(tuple(found), after)
        if ours:
            entry = _entry(event)
            found.append(HistoryEvent(event.seq, event.wall, event.cause, entry.rollout, entry.event))
        after = event.seq
    return History(tuple(found), None)


def replayed(log: EventLog, *, until: int | None = None) -> Replayed:
    """Begin with the oldest event that is kept, and take every decision up to ``until`` again.

    Raises ``LogCompacted`` if ``until`` was dropped, ``LogCorrupt`` as ``folded`` does, and the other ``LogError``.
    """
    start, events = _beginning(log)
    if until is not None and until < start.seq:
        raise LogCompacted(start.seq + 1)
    again = _Again(start.seq)
    report = replay(
        again.of_rollouts(takewhile(lambda event: until is None or event.seq <= until, events)),
        apply=again.apply,
        decide=again.decide,
        initial=start.desired,
    )
    return Replayed(
        desired=report.state,
        began_after=start.seq,
        seq=again.seq,
        events=report.events,
        decisions=again.decisions,
        others=again.others,
        mismatches=report.mismatches,
        first=report.first,
    )


class _Again:
    """Decides again what a log records, and counts what it sees on the way."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.decisions = 0
        self.others: dict[str, int] = {}

    def of_rollouts(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if event.kind == ROLLOUT_KIND:
                yield event
            else:
                self.others[event.kind] = self.others.get(event.kind, 0) + 1
            self.seq = event.seq

    def decide(self, desired: DesiredState, event: Event) -> bytes | None:
        """What is due before the event. Whatever else is recorded while a decision is due isn't what should be."""
        entry = _entry(event)
        state = desired.find(entry.rollout)
        due = decide(state) if state is not None else ()
        now = encode_entry(Entry(entry.rollout, due[0])) if due else b""
        if isinstance(entry.event, Decision):
            self.decisions += 1
            return now
        return now or None

    def apply(self, desired: DesiredState, event: Event) -> DesiredState:
        return _after(desired, _entry(event), event.seq)


def _beginning(log: EventLog) -> tuple[Folded, Iterator[Event]]:
    """What was so before the oldest event that is kept, and all events from that one on."""
    events = log.read()
    first = next(events, None)
    if first is None:
        return _state_of(log.latest_snapshot()), iter(())
    if first.seq == 1:
        return _state_of(None), chain((first,), events)
    start = _state_of(log.latest_snapshot(before=first.seq))
    if start.seq != first.seq - 1:  # events were dropped between the two looks
        raise LogCompacted(first.seq + 1)
    return start, chain((first,), events)


def _kept(log: EventLog, after: int) -> Iterator[Event]:
    """The events after ``after``, without those that were dropped before or are being dropped."""
    try:
        for event in log.read(after):
            yield event
            after = event.seq
    except LogCompacted as error:
        yield from log.read(error.first - 1)


def _state_of(snapshot: Snapshot | None) -> Folded:
    if snapshot is None:
        return Folded(DesiredState(), 0)
    try:
        return Folded(decode_desired(snapshot.state), snapshot.seq)
    except ValueError as error:
        raise LogCorrupt(snapshot.seq, f"its snapshot isn't one of rollouts: {error}") from None


def _entry(event: Event) -> Entry:
    try:
        return decode_entry(event.payload)
    except ValueError as error:
        raise LogCorrupt(event.seq, f"it isn't an entry of a rollout: {error}") from None


def _after(desired: DesiredState, entry: Entry, seq: int) -> DesiredState:
    try:
        return recorded(desired, entry)
    except IllegalMove as error:
        raise LogCorrupt(seq, f"it can't follow what is before it: {error}") from None


def _claim(event: Event) -> Claim:
    try:
        return _claims.decode(event.payload)
    except ValueError as error:
        raise LogCorrupt(event.seq, f"it doesn't say which controller writes: {error}") from None


class _Named(msgspec.Struct):
    rollout: str


def _model_of(event: Event) -> str:
    """Rollouts are called by their model and a number: ``DesiredState.next_name``."""
    try:
        return _names.decode(event.payload).rollout.rpartition("-")[0]
    except ValueError as error:
        raise LogCorrupt(event.seq, f"it isn't an entry of a rollout: {error}") from None


_names = msgspec.json.Decoder(_Named)
_claims = msgspec.json.Decoder(Claim)
