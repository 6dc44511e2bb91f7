"""Stub until the terminal's part is merged."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from serving.rollout.desired import DesiredState, decode_desired, decode_entry, recorded
from serving.rollout.event_log import EventLog, LogCorrupt


class Folded(NamedTuple):
    desired: DesiredState
    seq: int


class History(msgspec.Struct):
    events: tuple[int, ...] = ()


def folded(event_log: EventLog) -> Folded:
    snapshot = event_log.latest_snapshot()
    desired, seq = (DesiredState(), 0) if snapshot is None else (decode_desired(snapshot.state), snapshot.seq)
    for event in event_log.read(seq):
        seq = event.seq
        if event.kind == "rollout":
            try:
                desired = recorded(desired, decode_entry(event.payload))
            except Exception as error:
                raise LogCorrupt(event.seq, str(error)) from error
    return Folded(desired, seq)


def history(event_log: EventLog, model: str, after: int, limit: int) -> History:  # noqa: ARG001
    return History()
