"""Copies of a whole event log: taken while it is written, checked from end to end, put where a log shall be.

A copy is always an SQLite file, wherever the log itself lies, so that one from PostgreSQL can go on in a file and the
other way round. Not here: where copies are kept (``serving.backup``).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

from serving.rollout.event_log import EventLog, LogCorrupt, LogMissing, LogUnavailable, open_log
from serving.rollout.log_chain import PAGE_ROWS, ChainedLog, Head, Query, Row
from serving.rollout.log_sqlite import BUSY_S, TABLES, files_of

T = TypeVar("T")

TRANSACTION_S: Final = 600.0
"""So long may all of a log's rows be on their way from or to PostgreSQL."""

_TABLES: Final = {
    "holdfast_events": "seq, wall, kind, payload, cause, previous, hash",
    "holdfast_snapshots": "seq, event_hash, state, hash",
}


def sqlite_file(place: str) -> Path | None:
    """The file of a log that lies in one; None if it is in PostgreSQL."""
    scheme, is_url, rest = place.partition("://")
    if is_url and scheme != "sqlite":
        return None
    return Path(unquote(rest) if is_url else place)


def copy_log(place: str, file: Path) -> Head:
    """Copy a log as it is at one moment, whoever writes it meanwhile; where the copy ends.

    Raises ``LogMissing``, ``LogUnavailable``, and ``LogCorrupt`` if the chain doesn't hold from end to end.
    """
    log = open_log(place, create=False)
    try:
        at_least = log.head()[0]
    finally:
        log.close()
    try:
        if (path := sqlite_file(place)) is not None:
            _copy_file(path, file)
        else:
            _copy_rows(place, file)
    except sqlite3.Error as error:
        raise LogUnavailable(f"it can't be copied: {error}") from error
    end = check_copy(file)
    if end[0] < at_least:
        raise LogCorrupt(end[0] + 1, f"missing: the copy ends at event {end[0]}, but event {at_least} was written")
    return end


def check_copy(file: Path) -> Head:
    """Where a copy ends, once every event and the newest snapshot in it were read and hold."""
    with opened_copy(file) as log:
        for _ in log.read():
            pass
        log.latest_snapshot()
        return log.head()


@contextlib.contextmanager
def opened_copy(file: Path) -> Iterator[EventLog]:
    """A copy as a log that can only be read. Looking at it leaves no trace in or beside it."""
    log = ChainedLog(_Copy(file))
    try:
        yield log
    finally:
        log.close()


def put_into_postgres(copy: Path, url: str, *, aside: str) -> bool:
    """Make a log of the copy in a database, in one transaction.

    The tables of a log that is there are renamed to ``..._<aside>``; whether there was one. Raises ``LogUnavailable``;
    then nothing is changed, but for a connection that breaks between the commit and its answer.
    """
    from serving.rollout.log_postgres import PostgresStore, create_tables

    with contextlib.closing(PostgresStore(url, timeout_s=TRANSACTION_S)) as store, _read_only(copy) as database:

        def put(query: Query) -> bool:
            create_tables(query)
            was_there = _has_rows(query)
            if was_there:
                for table in _TABLES:
                    query(f"ALTER TABLE {table} RENAME TO {table}_{aside}")
                create_tables(query)
            for table, columns in _TABLES.items():
                marks = ", ".join("?" * (columns.count(",") + 1))
                for row in database.execute(f"SELECT {columns} FROM {table} ORDER BY seq"):  # noqa: S608  # our own names
                    query(f"INSERT INTO {table} ({columns}) VALUES ({marks})", *row)  # noqa: S608  # likewise
            return was_there

        return store.run(put, write=True)


def is_there(place: str) -> bool:
    """Whether a log with something in it lies where one would be put. Raises ``LogUnavailable``."""
    if (path := sqlite_file(place)) is not None:
        return any(one.exists() for one in files_of(path))
    from serving.rollout.log_postgres import PostgresStore

    with contextlib.closing(PostgresStore(place)) as store:
        try:
            store.find()
        except LogMissing:
            return False
        return store.run(_has_rows)


def _has_rows(query: Query) -> bool:
    return any(query(f"SELECT seq FROM {table} LIMIT 1") for table in _TABLES)  # noqa: S608  # our own names


def _copy_file(path: Path, file: Path) -> None:
    """By SQLite's own online backup: one state of the file, and writers needn't wait for it."""
    with (
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as source,
        contextlib.closing(sqlite3.connect(file)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # so that the one file is all of it


def _copy_rows(url: str, file: Path) -> None:
    from serving.rollout.log_postgres import PostgresStore

    with (
        contextlib.closing(PostgresStore(url, timeout_s=TRANSACTION_S)) as store,
        contextlib.closing(sqlite3.connect(file, isolation_level=None)) as target,
    ):
        target.executescript(TABLES)

        def copy(query: Query) -> None:
            if target.in_transaction:  # of a try that failed
                target.execute("ROLLBACK")
            target.execute("BEGIN")
            for table, columns in _TABLES.items():
                marks = ", ".join("?" * (columns.count(",") + 1))
                for row in _all_rows(query, table, columns):
                    target.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608  # likewise
            target.execute("COMMIT")

        store.run(copy)


def _all_rows(query: Query, table: str, columns: str) -> Iterator[Row]:
    after: object = 0
    while page := query(f"SELECT {columns} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?", after, PAGE_ROWS):  # noqa: S608
        yield from page
        after = page[-1][0]


@contextlib.contextmanager
def _read_only(file: Path) -> Iterator[sqlite3.Connection]:
    """Immutable: SQLite then needs no file beside it, and makes none."""
    database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    database.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    with contextlib.closing(database):
        yield database


class _Copy:
    """A ``Store`` that nothing is written to."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open = contextlib.ExitStack()
        self._database = self._open.enter_context(_read_only(file))

    def run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        assert not write
        try:
            return work(self._query)
        except sqlite3.Error as error:
            raise LogCorrupt(0, f"{self._file.name}: {error}") from error

    def witness(self) -> int:
        return 0

    def note(self, seq: int) -> None:
        """Nothing is ever written."""

    def close(self) -> None:
        self._open.close()

    def _query(self, sql: str, *values: object) -> list[Row]:
        return self._database.execute(sql, values).fetchall()
