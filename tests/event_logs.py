"""Places where an event log can lie, and ways to get at its rows behind its back."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path
from typing import Any, Protocol

from serving.rollout.event_log import Event, EventLog, open_log
from tests.postgres_server import PostgresServer

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
