"""Replay: folds a log again, takes every decision again, and says whether each comes out as it was recorded.

Pure, over any iterator of events. Not here: what state, folding and deciding are; they are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import msgspec

from serving.rollout.event_log import Event

S = TypeVar("S")


class Mismatch(msgspec.Struct, frozen=True):
    """A decision that wouldn't be taken like this today."""

    seq: int
    recorded: bytes
    recomputed: bytes


class ReplayReport(msgspec.Struct, Generic[S], frozen=True):
    state: S
    """What the events fold to, as they are recorded: a mismatch doesn't change it."""
    seq: int
    """The last event that was folded; 0 if there was none."""
    events: int
    decisions: int
    mismatches: int
    first: Mismatch | None

    @property
    def exact(self) -> bool:
        """Whether every recorded decision is, byte for byte, the one that is taken now."""
        return self.mismatches == 0


def replay(
    events: Iterable[Event],
    *,
    apply: Callable[[S, Event], S],
    decide: Callable[[S, Event], bytes | None],
    initial: S,
    until: int | None = None,
) -> ReplayReport[S]:
    """Fold the events up to and with ``until``.

    ``decide`` gets the state before an event and the event. It answers ``None`` if the event records no decision, else
    the payload of the decision that it takes now (empty if it would take none). ``initial`` is the state before the
    first event: for a log that was compacted, the snapshot's. Raises what the iterator, ``apply`` or ``decide`` raises,
    with a note that says at which event.
    """
    state, seq, count, decisions, mismatches = initial, 0, 0, 0, 0
    first: Mismatch | None = None
    for event in events:
        if until is not None and event.seq > until:
            break
        try:
            recomputed = decide(state, event)
            state = apply(state, event)
        except Exception as error:
            error.add_note(f"while replaying event {event.seq} ({event.kind})")
            raise
        seq, count = event.seq, count + 1
        if recomputed is None:
            continue
        decisions += 1
        if recomputed != event.payload:
            mismatches += 1
            first = first or Mismatch(event.seq, event.payload, recomputed)
    return ReplayReport(state=state, seq=seq, events=count, decisions=decisions, mismatches=mismatches, first=first)
