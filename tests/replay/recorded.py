"""Event logs as text: a line for each event, so that what a change does to one is seen in a diff.

A line is a JSON object, and its ``payload`` the very bytes that the log has. Beside ``<name>.jsonl`` lies
``<name>.state.json``: what the log folds to. Not here: what is recorded (``tests.replay.record``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Raw

from serving.rollout.desired import DesiredState, decode_desired, encode_desired
from serving.rollout.event_log import EventLog
from serving.rollout.history import replayed
from tests.event_logs import MemoryStore

LOGS: Final = Path(__file__).parent / "logs"


class EventLine(msgspec.Struct, frozen=True, tag="event", tag_field="row"):
    """An event without the hash of the one before, which is that of the line before."""

    seq: int
    wall: float
    kind: str
    cause: int | None
    payload: Raw
    hash: str


class SnapshotLine(msgspec.Struct, frozen=True, tag="snapshot", tag_field="row"):
    """The snapshot with which a log begins that was compacted."""

    seq: int
    event_hash: str
    state: Raw
    hash: str


def to_text(log: EventLog) -> bytes:
    """All that a log keeps; of its snapshots only the one with which it begins."""
    return b"".join(_encoder.encode(line) + b"\n" for line in _lines(log))


def from_text(text: bytes) -> EventLog:
    """The log, as it was, in a store of its own. Whoever reads it verifies its hashes."""
    store, previous = MemoryStore(), ""
    for raw in text.splitlines():
        line = _decoder.decode(raw)
        if isinstance(line, SnapshotLine):
            store.put("holdfast_snapshots", line.seq, line.event_hash, bytes(line.state), line.hash)
            previous = line.event_hash
        else:
            row = (line.seq, line.wall, line.kind, bytes(line.payload), line.cause, previous, line.hash)
            store.put("holdfast_events", *row)
            previous = line.hash
    return store.open()


def state_text(log: EventLog) -> bytes:
    """What the log folds to, for people and for ``state_of``."""
    return json.dumps(json.loads(encode_desired(replayed(log).desired)), indent=1).encode() + b"\n"


def state_of(text: bytes) -> DesiredState:
    return decode_desired(text)


def kept(file: Path, log: EventLog) -> None:
    """Write both files of a recorded log."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(to_text(log))
    file.with_suffix(".state.json").write_bytes(state_text(log))


def _lines(log: EventLog) -> Iterator[EventLine | SnapshotLine]:
    events = list(log.read())
    first = events[0].seq if events else None
    snapshot = None if first == 1 else log.latest_snapshot(before=first)
    if snapshot is not None:
        yield SnapshotLine(snapshot.seq, snapshot.event_hash, Raw(snapshot.state), snapshot.hash)
    for event in events:
        yield EventLine(event.seq, event.wall, event.kind, event.cause, Raw(event.payload), event.hash)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EventLine | SnapshotLine)
