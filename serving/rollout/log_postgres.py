"""The event log in PostgreSQL: a connection that comes back by itself, and calls that never hang.

Every call is over after ``TIMEOUT_S``: when the server doesn't answer, the socket is closed under the call, which then
fails. Not here: the chain, and what a repeated try may do (``log_chain``).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, cast

from serving.clock import Clock, SystemClock
from serving.rollout.event_log import LogCorrupt, LogError, LogMissing, LogUnavailable, NotTheWriter
from serving.rollout.log_chain import ChainedLog, Query, Row

T = TypeVar("T")

TIMEOUT_S: Final = 5.0
CONNECT_S: Final = 2  # the shortest that libpq knows

_LOCK: Final = 0x486F6C6466617374  # any number of our own; all writers of a database take turns by it

_EVENTS_TABLE: Final = """
CREATE TABLE IF NOT EXISTS holdfast_events (
    seq bigint PRIMARY KEY, wall double precision NOT NULL, kind text NOT NULL, payload bytea NOT NULL, cause bigint,
    previous text NOT NULL, hash text NOT NULL
)"""
_SNAPSHOTS_TABLE: Final = """
CREATE TABLE IF NOT EXISTS holdfast_snapshots (
    seq bigint PRIMARY KEY, event_hash text NOT NULL, state bytea NOT NULL, hash text NOT NULL
)"""
_TABLES_THERE: Final = (
    "SELECT to_regclass('holdfast_events') IS NOT NULL AND to_regclass('holdfast_snapshots') IS NOT NULL"
)

# The server gives up a little before we do, so that it can say why. ``remote_apply`` promises more than ``on``.
_SESSION: Final = (
    "SELECT set_config('statement_timeout', ?, false), set_config('lock_timeout', ?, false),"
    " set_config('idle_in_transaction_session_timeout', ?, false),"
    " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
    " WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false), current_setting('fsync')"
)

_DAMAGED_CLASS: Final = "XX"  # data or an index that the server itself finds corrupted
_NO_TABLE: Final = ("42P01", "42703")
_TAKEN: Final = "23505"


def open_postgres(url: str, *, create: bool = True) -> ChainedLog:
    """Raises ``LogUnavailable``, ``LogMissing`` or ``LogCorrupt``, or ``ValueError`` for a URL that can't be read."""
    store = PostgresStore(url)
    try:
        if create:
            store.create()
        else:
            store.find()
        return ChainedLog(store)
    except BaseException:
        store.close()
        raise


def read_url(url: str) -> dict[str, Any]:
    """What a URL says, by libpq's names. Raises ``ValueError`` with a text that repeats nothing of it: no password."""
    import psycopg

    try:
        found: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        found = {"port": "none"}
    if not re.fullmatch(r"\d*(,\d*)*", str(found.get("port") or "")):  # half a password, if a / in it isn't escaped
        raise ValueError("the URL of the event log isn't one that PostgreSQL's library can read")
    return found


def create_tables(query: Query) -> None:
    """Make those that aren't there."""
    query(_EVENTS_TABLE)
    query(_SNAPSHOTS_TABLE)


class PostgresStore:
    """A ``Store`` in the database that ``url`` names, in the first schema of its search path."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S, clock: Clock | None = None) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise LogUnavailable("an event log in PostgreSQL needs psycopg: install holdfast[postgres]") from error
        self._psycopg: Any = psycopg
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._connection: Any = None
        self._closed = False
        self._arguments = read_url(url)
        host = self._arguments.get("host") or "the local socket"
        self._where = f"PostgreSQL at {host}, database {self._arguments.get('dbname') or 'of the user'}"

    def create(self) -> None:
        """Make the tables if they aren't there; a role that may only read and write them does for all the rest."""
        if not self._has_tables():
            self.run(create_tables, write=True)

    def find(self) -> None:
        """Raises ``LogMissing`` if the tables aren't there."""
        if not self._has_tables():
            raise LogMissing(f"{self._where}: there is no event log in it")

    def run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        until = self._clock.monotonic() + self._timeout_s
        if self._connection is not None:
            try:
                return self._transaction(self._connection, work, write=write, until=until)
            except self._psycopg.Error as error:
                if not self._broken() or self._clock.monotonic() >= until:
                    raise self._named(error) from error
        try:
            return self._transaction(self._connected(until), work, write=write, until=until)
        except self._psycopg.Error as error:
            self._broken()
            raise self._named(error) from error

    def witness(self) -> int:
        return 0  # the server is trusted to keep what it has committed

    def note(self, seq: int) -> None:
        pass

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _has_tables(self) -> bool:
        return self.run(lambda query: query(_TABLES_THERE)) == [(True,)]

    def _transaction(self, connection: Any, work: Callable[[Query], T], *, write: bool, until: float) -> T:
        # Binary, so that a float comes back as it went, whatever the server's settings say about digits.
        with self._bounded(connection, until), connection.cursor(binary=True) as cursor:

            def query(sql: str, *values: object) -> list[Row]:
                cursor.execute(sql.replace("?", "%s"), values)
                return cast("list[Row]", cursor.fetchall()) if cursor.description else []

            # A reader sees one state of the log; a writer sees what was committed when its turn came.
            query(f"BEGIN ISOLATION LEVEL {'READ COMMITTED' if write else 'REPEATABLE READ READ ONLY'}")
            try:
                if write:
                    query("SELECT pg_advisory_xact_lock(?)", _LOCK)
                result = work(query)
                query("COMMIT")
            except BaseException as error:
                with contextlib.suppress(self._psycopg.Error):
                    query("ROLLBACK")
                if isinstance(error, UnicodeDecodeError):  # in a database that doesn't check what it is given
                    raise LogCorrupt(0, f"{self._where}: a row has text that isn't UTF-8") from error
                raise
            return result

    def _connected(self, until: float) -> Any:
        if self._closed:
            raise LogUnavailable(f"{self._where}: the log was closed")
        bounds = {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": int(self._timeout_s * 1000),
            "client_encoding": "utf8",
            "application_name": self._arguments.get("application_name") or "holdfast event log",
        }
        arguments = {**self._arguments, **bounds}
        connection = self._psycopg.connect(**arguments, autocommit=True, prepare_threshold=None)
        self._connection = connection
        early = [str(int(self._timeout_s * share * 1000)) for share in (0.8, 0.6, 2.0)]
        with self._bounded(connection, until):
            settings = connection.execute(_SESSION.replace("?", "%s"), early).fetchone()
        if settings is None or settings[-1] != "on":
            self._drop()
            raise LogUnavailable(f"{self._where}: the server runs with fsync off, so that no commit is durable")
        return connection

    @contextlib.contextmanager
    def _bounded(self, connection: Any, until: float) -> Iterator[None]:
        """Closes the socket if what is done in here isn't over by then: libpq itself would wait for ever."""
        ours = socket.socket(fileno=os.dup(connection.fileno()))  # a number of its own, which nobody else can get
        timer = threading.Timer(max(until - self._clock.monotonic(), 0.0), _cut, (ours,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            ours.close()

    def _broken(self) -> bool:
        """Whether the connection is of no use any more; then it is gone."""
        if self._connection is not None and not self._connection.closed:
            return False
        self._drop()
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._psycopg.Error):
                connection.close()

    def _named(self, error: Any) -> LogError:
        state = error.sqlstate or ""
        reason = f"{self._where}: {(str(error) or type(error).__name__).splitlines()[0]}"
        if state.startswith(_DAMAGED_CLASS) or state in _NO_TABLE:
            return LogCorrupt(0, reason)
        if state == _TAKEN:
            return NotTheWriter(f"{reason}; whoever wrote it doesn't take turns with us")
        return LogUnavailable(reason)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
