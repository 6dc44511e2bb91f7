"""What event logs in every store have in common: the chain, who may append, and what compaction may drop.

A store runs a piece of work in one transaction and names its troubles; the SQL here is what both databases understand.
Not here: hashes and what a row has to be (``event_log``), connections (``log_sqlite``, ``log_postgres``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

from serving.rollout.event_log import (
    Event,
    LogCompacted,
    LogCorrupt,
    NotTheWriter,
    Snapshot,
    event_from_row,
    next_event,
    snapshot_from_row,
    snapshot_of,
    verified,
)

T = TypeVar("T")
Row = tuple[object, ...]
Head = tuple[int, str]

PAGE_ROWS: Final = 100

_EVENT: Final = "SELECT seq, wall, kind, payload, cause, previous, hash FROM holdfast_events"
_SNAPSHOT: Final = "SELECT seq, event_hash, state, hash FROM holdfast_snapshots"
_INSERT: Final = (
    "INSERT INTO holdfast_events (seq, wall, kind, payload, cause, previous, hash) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_PUT_SNAPSHOT: Final = (
    "INSERT INTO holdfast_snapshots (seq, event_hash, state, hash) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (seq) DO UPDATE SET event_hash = excluded.event_hash, state = excluded.state, hash = excluded.hash"
)


class Query(Protocol):
    """Runs one statement, with ``?`` for each value."""

    def __call__(self, sql: str, *values: object) -> list[Row]: ...


class Store(Protocol):
    """Where the rows lie. One call at a time."""

    def run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        """Do the work in one transaction, alone if it writes, and durable when this returns.

        The work may be done twice, if nobody can say whether the first time was committed. Raises ``LogUnavailable``
        or ``LogCorrupt`` for what the database says, and whatever the work raises; then nothing is changed.
        """
        ...

    def witness(self) -> int:
        """The newest event that is known, from outside the database, to have been written; 0 if nothing is known."""
        ...

    def note(self, seq: int) -> None:
        """Remember, outside the database, that this event was written. Never raises."""
        ...

    def close(self) -> None: ...


class ChainedLog:
    """An ``EventLog`` over a store. Appends extend the head that was there when it was opened, and no other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._unsettled: Event | None = None
        self._head = self.head()

    def append(self, kind: str, payload: bytes, *, wall: float, cause: int | None = None) -> Event:
        with self._lock:
            event = self._unsettled
            if event is None or (event.kind, event.payload, event.cause) != (kind, payload, cause):
                event = next_event(self._head, kind, payload, wall=wall, cause=cause)
            self._unsettled = event
            written = self._store.run(lambda query: _written(query, event), write=True)
            self._unsettled = None
            if not written:
                raise NotTheWriter(
                    f"event {event.seq} is another writer's, or one of ours that was reported as failed; "
                    "open the log again, and fold it again"
                )
            self._head = (event.seq, event.hash)
            self._store.note(event.seq)
            return event

    def head(self) -> Head:
        at_least = self._store.witness()
        head = self._run(_verified_head)
        _check_end(head[0], at_least)
        return head

    def read(self, after: int = 0) -> Iterator[Event]:
        head = self._run(lambda query: _anchor(query, after))
        rows = PAGE_ROWS
        while True:
            at_least = self._store.witness()
            try:
                page = self._page(head, rows)
            except LogCorrupt as error:
                if error.seq:
                    raise
                if rows == 1:
                    raise LogCorrupt(head[0] + 1, error.what) from error
                rows = 1  # a part of the file can't be read: give what is before it, and name what isn't
                continue
            for row in page:
                event = verified(head, row)
                head = (event.seq, event.hash)
                yield event
            if not page:
                _check_end(head[0], at_least)
                return

    def _page(self, head: Head, rows: int) -> list[Row]:
        return self._run(lambda query: _page(query, head, rows))

    def snapshot(self, seq: int, state: bytes) -> None:
        def keep(query: Query) -> None:
            digest = _hash_at(query, seq)
            if digest is None:
                raise ValueError(f"there is no event {seq} in the log that a snapshot could stand for")
            made = snapshot_of(seq, digest, state)
            query(_PUT_SNAPSHOT, made.seq, made.event_hash, made.state, made.hash)

        self._run(keep, write=True)

    def latest_snapshot(self, *, before: int | None = None) -> Snapshot | None:
        return self._run(lambda query: _snapshot_before(query, before))

    def compact(self, keep_from: int) -> int:
        def drop(query: Query) -> int:
            base = _snapshot_before(query, keep_from)
            if base is None:
                return 0
            for row in query(f"{_EVENT} WHERE seq > ? ORDER BY seq LIMIT 1", base.seq):
                verified((base.seq, base.event_hash), row)
            dropped = query("SELECT count(*) FROM holdfast_events WHERE seq <= ?", base.seq)[0][0]
            query("DELETE FROM holdfast_events WHERE seq <= ?", base.seq)
            query("DELETE FROM holdfast_snapshots WHERE seq < ?", base.seq)
            return dropped if isinstance(dropped, int) else 0

        return self._run(drop, write=True)

    def close(self) -> None:
        with self._lock:
            self._store.close()

    def _run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        with self._lock:
            return self._store.run(work, write=write)


def _written(query: Query, event: Event) -> bool:
    """Whether the event is in the log now. It goes there only if the log still ends where the event begins."""
    if _stored_head(query) == (event.seq - 1, event.previous):
        query(_INSERT, event.seq, event.wall, event.kind, event.payload, event.cause, event.previous, event.hash)
        return True
    return query("SELECT hash FROM holdfast_events WHERE seq = ?", event.seq) == [(event.hash,)]


def _stored_head(query: Query) -> Row:
    """Where the log ends. If compaction left no event, that is where the snapshot ends."""
    events = query("SELECT seq, hash FROM holdfast_events ORDER BY seq DESC LIMIT 1")
    return events[0] if events else _newest_snapshot(query)


def _verified_head(query: Query) -> Head:
    newest = query(f"{_EVENT} ORDER BY seq DESC LIMIT 1")
    snapshot = _newest_snapshot(query)
    if not newest:
        return snapshot
    event = event_from_row(newest[0])
    _check_end(event.seq, snapshot[0])
    return event.seq, event.hash


def _newest_snapshot(query: Query) -> Head:
    rows = query(f"{_SNAPSHOT} ORDER BY seq DESC LIMIT 1")
    if not rows:
        return 0, ""
    snapshot = snapshot_from_row(rows[0])
    return snapshot.seq, snapshot.event_hash


def _check_end(seq: int, at_least: int) -> None:
    if seq < at_least:
        raise LogCorrupt(seq + 1, f"missing: the log ends at event {seq}, but event {at_least} was written")


def _hash_at(query: Query, seq: int) -> str | None:
    """The hash of an event that is in the log, or that a snapshot stands for."""
    for row in query(f"{_EVENT} WHERE seq = ?", seq):
        return event_from_row(row).hash
    for row in query(f"{_SNAPSHOT} WHERE seq = ?", seq):
        return snapshot_from_row(row).event_hash
    return None


def _oldest(query: Query) -> int:
    """The first event that the log keeps, or will keep."""
    rows = query("SELECT seq FROM holdfast_events ORDER BY seq LIMIT 1")
    seq = rows[0][0] if rows else _newest_snapshot(query)[0] + 1
    return seq if isinstance(seq, int) else 0


def _anchor(query: Query, after: int) -> Head:
    """What the next event has to follow. Raises if that can't be told."""
    oldest = _oldest(query)
    if after == 0:
        after = max(oldest - 1, 0)
    if after == 0:
        return 0, ""
    digest = _hash_at(query, after)
    if digest is not None:
        return after, digest
    if after == oldest - 1:
        raise LogCorrupt(1, f"missing, as is everything before event {oldest}, and no snapshot stands for it")
    if after < oldest:
        raise LogCompacted(oldest)
    _check_end(_verified_head(query)[0], after)
    raise LogCorrupt(after, "missing")


def _page(query: Query, head: Head, rows: int) -> list[Row]:
    """The next rows. Raises ``LogCompacted`` if those that should come were dropped meanwhile."""
    page = query(f"{_EVENT} WHERE seq > ? ORDER BY seq LIMIT ?", head[0], rows)
    if page and page[0][0] == head[0] + 1:
        return page
    oldest = _oldest(query)
    if oldest > head[0] + 1 and _hash_at(query, oldest - 1) is not None:
        raise LogCompacted(oldest)
    if not page:
        _check_end(head[0], _newest_snapshot(query)[0])
    return page


def _snapshot_before(query: Query, seq: int | None) -> Snapshot | None:
    """The newest snapshot (of an event before ``seq``), if it is of the event that is in the log."""
    where, values = ("", ()) if seq is None else (" WHERE seq < ?", (seq,))
    rows = query(f"{_SNAPSHOT}{where} ORDER BY seq DESC LIMIT 1", *values)
    if not rows:
        return None
    snapshot = snapshot_from_row(rows[0])
    for row in query(f"{_EVENT} WHERE seq = ?", snapshot.seq):
        if event_from_row(row).hash != snapshot.event_hash:
            raise LogCorrupt(snapshot.seq, "its snapshot is of another event than the one in the log")
    return snapshot
