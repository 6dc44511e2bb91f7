"""The event log: what an event is, how its hash binds it to all that came before, and what a log promises.

Pure, but for ``open_log``, which leads to the stores. Not here: what a payload means (the log carries opaque bytes and
knows nothing of rollouts), and where rows lie (``log_sqlite``, ``log_postgres``; what both have in common is
``log_chain``).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from typing import Final, Protocol
from urllib.parse import unquote

import msgspec

KIND_MAX_CHARS: Final = 100
PAYLOAD_MAX_BYTES: Final = 4 << 20
STATE_MAX_BYTES: Final = 64 << 20

_EVENT_MARK: Final = b"holdfast event 1\n"
_SNAPSHOT_MARK: Final = b"holdfast snapshot 1\n"
_EVENT_HEAD: Final = struct.Struct(">qdqII")  # seq, wall, cause (0: none), and the sizes of kind and previous
_SNAPSHOT_HEAD: Final = struct.Struct(">qI")  # seq, and the size of event_hash


class LogError(Exception):
    """Base of what can go wrong with a log. The text says what to look at."""


class NotTheWriter(LogError):
    """Somebody else has appended since this log was opened. It stays so: fold the log again, from a new one."""


class LogUnavailable(LogError):
    """The store can't be asked now: a full disk, a server that is gone. Nothing was half written.

    Whether the event is in the log may not be known: a connection can break between a commit and its answer. Appending
    the same kind, payload and cause again settles that; it is never there twice.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LogMissing(LogError):
    """There is no log where one should be."""


class LogCorrupt(LogError):
    """What is stored isn't what was appended, from event ``seq`` on; 0 if the store can't even say where."""

    def __init__(self, seq: int, what: str) -> None:
        super().__init__(f"event {seq}: {what}" if seq else what)
        self.seq = seq
        self.what = what


class LogCompacted(LogError):
    """The events asked for gave way to a snapshot. ``first`` is the oldest that is still there, or will be."""

    def __init__(self, first: int) -> None:
        super().__init__(f"events before {first} were dropped; begin with the latest snapshot")
        self.first = first


class Event(msgspec.Struct, frozen=True):
    """One thing that happened."""

    seq: int
    """From 1, without gaps."""
    wall: float
    """Seconds since the Unix epoch; only a record, nothing is decided by it."""
    kind: str
    payload: bytes
    """Canonical JSON, as far as whoever appends it cares; opaque here."""
    cause: int | None
    """The event that led to this one."""
    previous: str
    """The hash of the event before; empty for the first."""
    hash: str
    """SHA-256, in hex, over all of the above."""


class Snapshot(msgspec.Struct, frozen=True):
    """What all events up to ``seq`` fold to."""

    seq: int
    event_hash: str
    state: bytes
    hash: str


class EventLog(Protocol):
    """An append-only log. Threads may share one; its appends extend what was there when it was opened."""

    def append(self, kind: str, payload: bytes, *, wall: float, cause: int | None = None) -> Event:
        """Durable when it returns. Raises ``NotTheWriter`` or ``LogUnavailable``; ``ValueError`` for what can't be."""
        ...

    def read(self, after: int = 0) -> Iterator[Event]:
        """The events after ``after``, verified; from the oldest kept one if that is 0.

        Raises ``LogCorrupt`` where the chain breaks, after all that is good was given; ``LogCompacted`` if the next
        event was dropped; ``LogUnavailable``.
        """
        ...

    def head(self) -> tuple[int, str]:
        """The number and the hash of the newest event as stored now, whoever wrote it; ``(0, "")`` without any."""
        ...

    def snapshot(self, seq: int, state: bytes) -> None:
        """Keep what the events up to ``seq`` fold to. Durable when it returns."""
        ...

    def latest_snapshot(self, *, before: int | None = None) -> Snapshot | None:
        """Of all events, or of those before event ``before``. Verified, and of the very event that is in the log."""
        ...

    def compact(self, keep_from: int) -> int:
        """Drop the events that the newest snapshot before ``keep_from`` stands for; how many those were.

        Without such a snapshot nothing is dropped.
        """
        ...

    def close(self) -> None: ...


def open_log(url_or_path: str, *, create: bool = True) -> EventLog:
    """The log in an SQLite file (a path, or ``sqlite:///absolute/path``) or in PostgreSQL (``postgresql://...``).

    Only the newest event is looked at: whoever decides by the log reads it first. If there is none, it is created, or
    else ``LogMissing`` raised. Raises ``LogUnavailable``, ``LogCorrupt``, or ``ValueError`` for a URL of another kind.
    """
    scheme, is_url, rest = url_or_path.partition("://")
    if is_url and scheme in ("postgresql", "postgres"):
        from serving.rollout.log_postgres import open_postgres

        return open_postgres(url_or_path, create=create)
    if is_url and (scheme != "sqlite" or not rest.startswith("/")):
        raise ValueError(f"an event log is a path, sqlite:///path or postgresql://..., not {scheme}://...")
    from serving.rollout.log_sqlite import open_sqlite

    return open_sqlite(unquote(rest) if is_url else url_or_path, create=create)


def hash_of(event: Event) -> str:
    """What ``event.hash`` has to be. Every field has its place and size, so no two events are the same bytes."""
    kind = event.kind.encode("utf-8", "surrogateescape")
    previous = event.previous.encode("utf-8", "surrogateescape")
    head = _EVENT_HEAD.pack(event.seq, event.wall, event.cause or 0, len(kind), len(previous))
    return hashlib.sha256(b"".join((_EVENT_MARK, head, kind, previous, event.payload))).hexdigest()


def next_event(head: tuple[int, str], kind: str, payload: bytes, *, wall: float, cause: int | None = None) -> Event:
    """The event that follows ``head``. Raises ``ValueError`` for what no log could give back as it was."""
    if not (0 < len(kind) <= KIND_MAX_CHARS and kind.isascii() and kind.isprintable() and " " not in kind):
        raise ValueError(f"kind: 1 to {KIND_MAX_CHARS} printable ASCII characters without spaces, not {kind[:200]!r}")
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise ValueError(f"payload: {len(payload)} bytes, at most {PAYLOAD_MAX_BYTES} are kept")
    if not math.isfinite(wall):
        raise ValueError(f"wall: {wall} is no time")
    seq, previous = head[0] + 1, head[1]
    if cause is not None and not 0 < cause < seq:
        raise ValueError(f"cause: event {cause} doesn't come before event {seq}")
    wall += 0.0  # SQLite doesn't tell -0.0 from 0.0
    event = Event(seq, wall, kind, bytes(payload), cause, previous, "")
    return msgspec.structs.replace(event, hash=hash_of(event))


def snapshot_of(seq: int, event_hash: str, state: bytes) -> Snapshot:
    if len(state) > STATE_MAX_BYTES:
        raise ValueError(f"state: {len(state)} bytes, at most {STATE_MAX_BYTES} are kept")
    return Snapshot(seq, event_hash, bytes(state), _snapshot_hash(seq, event_hash, state))


def verified(head: tuple[int, str], row: tuple[object, ...]) -> Event:
    """The event of a stored row, which has to be the one that follows ``head``. Raises ``LogCorrupt``."""
    seq = row[0]
    if isinstance(seq, int) and seq != head[0] + 1:
        others = "" if seq <= head[0] + 2 else f", and so are those up to {seq - 1}"
        raise LogCorrupt(head[0] + 1, f"missing{others}")
    event = event_from_row(row)
    if event.previous != head[1]:
        raise LogCorrupt(event.seq, "it doesn't follow the event before it: one of the two was replaced")
    return event


def event_from_row(row: tuple[object, ...]) -> Event:
    """The event of a stored row, its own hash verified. A row altered by hand can hold anything."""
    seq, wall, kind, payload, cause, previous, digest = row
    if not isinstance(seq, int):
        raise LogCorrupt(0, f"a row is numbered {seq!r:.40}")
    if not (
        isinstance(wall, float)
        and isinstance(kind, str)
        and isinstance(payload, bytes)
        and (cause is None or (isinstance(cause, int) and cause != 0))
        and isinstance(previous, str)
        and isinstance(digest, str)
    ):
        raise LogCorrupt(seq, "the row was altered: its values have other types than those of an event")
    event = Event(seq, wall, kind, payload, cause, previous, digest)
    if hash_of(event) != digest:
        raise LogCorrupt(seq, "the row was altered: its hash isn't that of its fields")
    return event


def snapshot_from_row(row: tuple[object, ...]) -> Snapshot:
    """The snapshot of a stored row, its own hash verified."""
    seq, event_hash, state, digest = row
    known = seq if isinstance(seq, int) else 0
    if not (known and isinstance(event_hash, str) and isinstance(state, bytes) and isinstance(digest, str)):
        raise LogCorrupt(known, "its snapshot was altered: the values have other types than those of a snapshot")
    if _snapshot_hash(known, event_hash, state) != digest:
        raise LogCorrupt(known, "its snapshot was altered: the hash isn't that of its fields")
    return Snapshot(known, event_hash, state, digest)


def _snapshot_hash(seq: int, event_hash: str, state: bytes) -> str:
    raw_hash = event_hash.encode("utf-8", "surrogateescape")
    head = _SNAPSHOT_HEAD.pack(seq, len(raw_hash))
    return hashlib.sha256(b"".join((_SNAPSHOT_MARK, head, raw_hash, state))).hexdigest()
