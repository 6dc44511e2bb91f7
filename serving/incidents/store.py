"""The node's incidents: an SQLite file that all gateway processes of the node share.

A write-ahead log lets readers look while somebody writes, and a killed process do no harm. What can't be read is told
of and moved aside, and the store begins anew: nothing here may keep a gateway from answering. Deleted incidents are
overwritten. Not here: what an incident says (``serving.incidents.incident``), and when it is written (``keeper``).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from serving.incidents.incident import Contents, Facts, IncidentLine, IncidentPage, IncidentReport

log = logging.getLogger("holdfast.incidents")

FILE: Final = "incidents.db"
ASIDE: Final = ".damaged"
"""What a file's name ends in once it was moved aside. Only the last one is kept."""

FORMAT: Final = 1
"""SQLite's ``user_version``; a file of another one is begun anew."""
BUSY_S: Final = 2.0
"""So long a writer waits for another one."""
LARGEST_SHARE: Final = 1 / 8
"""An incident that would take more of the store is kept without its tensors."""
SPARE_SHARE: Final = 1 / 16
"""So much of the file stays free: a row takes whole pages, and so does what leads to it."""

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS incidents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, wall REAL NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL,
    outcome TEXT NOT NULL, failure TEXT NOT NULL, facts BLOB NOT NULL, contents BLOB NOT NULL
) STRICT
"""
# What SQLite says when the file isn't what it should be. Our SQL is right, so SQLITE_ERROR is a table that is gone.
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}
_UNREADABLE: Final = (sqlite3.Error, OSError, msgspec.MsgspecError)
_PAGE_OVERHEAD: Final = 2

_encode_facts = msgspec.json.Encoder().encode
_decode_facts = msgspec.json.Decoder(Facts).decode
_encode_contents = msgspec.msgpack.Encoder().encode
_decode_contents = msgspec.msgpack.Decoder(Contents).decode


class Row(NamedTuple):
    facts: Facts
    contents: Contents


class Wanted(NamedTuple):
    """Which incidents: ``outcome`` may be a failure as well, ``since`` is in wall clock seconds, ``before`` an id."""

    model: str | None = None
    version: str | None = None
    outcome: str | None = None
    since: float | None = None
    before: int | None = None
    limit: int = 100


class StoreUnreadable(Exception):
    """The store can't be used now. The text says why."""


class IncidentStore:
    """One thread writes, any may read. Other processes may do the same."""

    def __init__(self, folder: Path, *, max_bytes: int, max_number: int, busy_s: float = BUSY_S) -> None:
        self.path = folder / FILE
        self._busy_s = busy_s
        self._max_bytes = max_bytes
        self._max_number = max_number
        self._writer: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._doubted = False
        """Whether somebody couldn't read it: then it is looked at again before anything else is written."""

    # Writing

    def put_many(self, rows: Sequence[Row]) -> int:
        """Keep these, and let the oldest go for them; how many were kept. Raises ``StoreUnreadable``.

        A store that turns out to be damaged is begun anew, and the rows are written to the new one.
        """
        for last in (False, True):
            inode = _inode(self.path)
            try:
                return self._put(self._open(), rows)
            except (sqlite3.Error, OSError) as error:
                if not _damaged(error):  # a full disk, or somebody who writes for long: the next rows may do better
                    raise StoreUnreadable(f"{self.path}: {error}") from error
                self._close()
                if last:
                    raise StoreUnreadable(f"{self.path}: {error}") from error
                self._set_aside(error, inode)
        raise AssertionError("the last attempt returns or raises")

    def usage(self) -> tuple[int, int]:
        """How many incidents there are, and how many bytes they take; zeros while that can't be said."""
        try:
            with self._reading() as database:
                return _number(database), _used_bytes(database)
        except StoreUnreadable:
            return 0, 0

    def close(self) -> None:
        self._close()

    def _put(self, database: sqlite3.Connection, rows: Sequence[Row]) -> int:
        database.execute("BEGIN IMMEDIATE")
        try:
            for facts, contents in rows:
                raw, body = _encode_facts(facts), _encode_contents(contents)
                if len(raw) + len(body) > self._max_bytes * LARGEST_SHARE:
                    body = _encode_contents(Contents())
                self._make_room(database, len(raw) + len(body))
                values = (facts.wall, facts.model, facts.version, facts.outcome, facts.failure, raw, body)
                database.execute(
                    "INSERT INTO incidents (wall, model, version, outcome, failure, facts, contents)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
        return len(rows)

    def _make_room(self, database: sqlite3.Connection, size: int) -> None:
        page = _pragma(database, "page_size")
        needed = size + _PAGE_OVERHEAD * page
        full = int(self._max_bytes * (1 - SPARE_SHARE))
        while (number := _number(database)) and (number >= self._max_number or _used_bytes(database) + needed > full):
            database.execute("DELETE FROM incidents WHERE id = (SELECT min(id) FROM incidents)")

    # Opening

    def _open(self) -> sqlite3.Connection:
        """The connection that writes; another one if the file is another one, because somebody began it anew."""
        if self._writer is not None and not self._doubted and self._inode == _inode(self.path):
            return self._writer
        self._close()
        self._doubted = False
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._turn():
            self._writer = self._connected()
        self._inode = _inode(self.path)
        return self._writer

    def _connected(self) -> sqlite3.Connection:
        """Raises ``sqlite3.DatabaseError`` if all of the file can't be read, or says that it is of another format."""
        fresh = not self.path.exists()
        if fresh:
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        try:
            if not fresh:
                (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise _damage(said)
            database.execute("PRAGMA journal_mode = WAL").fetchone()
            for pragma in ("synchronous = NORMAL", "secure_delete = ON", "trusted_schema = OFF"):
                database.execute(f"PRAGMA {pragma}")
            database.execute("PRAGMA wal_autocheckpoint = 256").fetchone()
            database.execute(f"PRAGMA max_page_count = {self._max_bytes // _pragma(database, 'page_size')}").fetchone()
            found = _pragma(database, "user_version")
            if found not in (0, FORMAT):
                raise _damage(f"its format is {found}, not {FORMAT}")
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            database.close()
            raise
        return database

    def _set_aside(self, error: Exception, inode: int | None) -> None:
        """Move the file away, unless another process has done so and begun anew meanwhile."""
        with self._turn():
            if _inode(self.path) != inode:
                return
            for suffix in ("", "-wal", "-shm"):
                mine = self.path.with_name(self.path.name + suffix)
                with contextlib.suppress(FileNotFoundError):
                    mine.replace(self.path.with_name(self.path.name + ASIDE + suffix))
        log.warning("%s: %s; incidents begin anew, the old ones are in %s%s", self.path, error, self.path.name, ASIDE)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time opens the file or moves it away."""
        lock = os.open(self.path.with_name(f"{FILE}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)  # and with it the lock

    def _close(self) -> None:
        writer, self._writer, self._inode = self._writer, None, None
        if writer is not None:
            with contextlib.suppress(sqlite3.Error):
                writer.close()

    # Reading

    def page(self, wanted: Wanted) -> IncidentPage:
        """The newest ones that are wanted. Raises ``StoreUnreadable``."""
        where, values = _where(wanted)
        query = f"SELECT id, facts FROM incidents{where} ORDER BY id DESC LIMIT ?"  # noqa: S608  # no value is in it
        try:
            with self._reading() as database:
                found = database.execute(query, (*values, wanted.limit + 1)).fetchall()
                lines = tuple([_line(number, raw) for number, raw in found[: wanted.limit]])
                following = lines[-1].id if len(found) > wanted.limit else None
                return IncidentPage(
                    incidents=lines, next=following, kept=_number(database), bytes=_used_bytes(database)
                )
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def get(self, number: int) -> IncidentReport | None:
        """All of one, None if there is none of that number. Raises ``StoreUnreadable``."""
        try:
            with self._reading() as database:
                found = database.execute("SELECT facts, contents FROM incidents WHERE id = ?", (number,)).fetchone()
            if found is None:
                return None
            return IncidentReport(id=number, **_fields(_decode_facts(found[0])), **_fields(_decode_contents(found[1])))
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection of the reader's own. A store that isn't there yet is empty."""
        try:
            where = f"{self.path.as_uri()}?mode=rw" if self.path.exists() else "file::memory:"
            with contextlib.closing(sqlite3.connect(where, uri=True, timeout=self._busy_s)) as own:
                if not _pragma(own, "user_version"):  # nothing is in it, or somebody is just making it
                    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
                        empty.execute(_TABLE)
                        yield empty
                    return
                own.execute("PRAGMA query_only = ON")
                yield own
        except (sqlite3.Error, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StoreUnreadable:
        self._doubted |= _damaged(error)
        return StoreUnreadable(f"{self.path}: {error}")


def _where(wanted: Wanted) -> tuple[str, list[object]]:
    parts: list[str] = []
    values: list[object] = []
    for value, test in (
        (wanted.model, "model = ?"),
        (wanted.version, "version = ?"),
        (wanted.since, "wall >= ?"),
        (wanted.before, "id < ?"),
    ):
        if value is not None:
            parts.append(test)
            values.append(value)
    if wanted.outcome is not None:
        parts.append("(outcome = ? OR failure = ?)")
        values += [wanted.outcome, wanted.outcome]
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), values


def _line(number: int, raw: bytes) -> IncidentLine:
    return IncidentLine(id=number, **_fields(_decode_facts(raw)))


def _fields(struct: Facts | Contents) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)


def _number(database: sqlite3.Connection) -> int:
    """Ids have no gaps: only the oldest ever go."""
    (number,) = database.execute("SELECT coalesce(max(id) - min(id) + 1, 0) FROM incidents").fetchone()
    return int(number)


def _used_bytes(database: sqlite3.Connection) -> int:
    pages = _pragma(database, "page_count") - _pragma(database, "freelist_count")
    return pages * _pragma(database, "page_size")


def _pragma(database: sqlite3.Connection, name: str) -> int:
    (value,) = database.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _damage(why: object) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(str(why))
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _damaged(error: Exception) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
