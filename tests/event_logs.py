"""Places where an event log can lie, and ways to get at its rows behind its back."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from serving.clock import Clock
from serving.rollout.event_log import Event, EventLog, open_log
from serving.rollout.history import Claim, folded
from serving.rollout.journal import Journal
from serving.rollout.log_chain import ChainedLog, Query, Row
from serving.rollout.log_sqlite import TABLES
from tests.postgres_server import PostgresServer

T = TypeVar("T")

_numbers = itertools.count()


class Place(Protocol):
    @property
    def url(self) -> str: ...

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run by hand what no log would do."""
        ...


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


class PostgresPlace:
    """A schema of its own on a shared server."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.schema = f"log{next(_numbers)}"
        self.url = server.url(self.schema)
        with server.connect() as connection:
            connection.execute(f"CREATE SCHEMA {self.schema}".encode())

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.server.connect() as connection:
            connection.execute(f"SET search_path TO {self.schema}".encode())
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


def fill(log: EventLog, events: int) -> list[Event]:
    """Append so many events, each caused by the one before."""
    start = log.head()[0]
    return [
        log.append("counted", b"%d" % number, wall=1000.0 + number / 7, cause=number or None)
        for number in range(start, start + events)
    ]


def all_of(url: str, after: int = 0) -> list[Event]:
    """What a log that is opened now reads."""
    log = open_log(url)
    try:
        return list(log.read(after))
    finally:
        log.close()


class MemoryStore:
    """A ``Store`` that costs next to nothing: many logs over one database that lives as long as its connection.

    ``before`` is called whenever it is asked for something, ``after_write`` when something has been committed; both may
    raise what happens then.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._database.executescript(TABLES)
        self.before: Callable[[], None] = lambda: None
        self.after_write: Callable[[], None] = lambda: None

    def run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        self.before()
        try:
            self._database.execute("BEGIN")
            result = work(self._query)
            self._database.execute("COMMIT")
        finally:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        if write:
            self.after_write()
        return result

    def _query(self, sql: str, *values: object) -> list[Row]:
        return self._database.execute(sql, values).fetchall()

    def put(self, table: str, *values: object) -> None:
        """A row by hand, whatever it says."""
        marks = ", ".join("?" * len(values))
        self._query(f"INSERT INTO {table} VALUES ({marks})", *values)  # noqa: S608  # our own names

    def witness(self) -> int:
        return 0

    def note(self, seq: int) -> None:
        """Nothing outside the database is known."""

    def close(self) -> None:
        """The next log goes on with it."""

    def open(self) -> EventLog:
        return ChainedLog(self)


async def opened_journal(store: MemoryStore, name: str, clock: Clock) -> Journal:
    """The log of a store, claimed by a controller of the one Holdfast that there is here."""
    event_log = store.open()
    return await Journal.opened(event_log, folded(event_log), claim=Claim(name, "here"), clock=clock)
