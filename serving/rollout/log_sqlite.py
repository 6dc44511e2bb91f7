"""The event log in an SQLite file: a write-ahead log that is fsynced at every commit.

Beside it lies ``<path>.head``. Writers hold a lock on it, so that never two of them write or tidy up at once; and it
says which event was written last, so that a file whose end was cut off is noticed. Not here: the chain (``log_chain``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from serving.rollout.event_log import LogCorrupt, LogError, LogMissing, LogUnavailable
from serving.rollout.log_chain import ChainedLog, Query, Row
from serving.routing.table_file import write_whole

T = TypeVar("T")

BUSY_S: Final = 5.0
"""So long a writer waits for another one."""

_LOOK_AGAIN_S: Final = 0.002
_HEAD_BYTES: Final = 21

TABLES: Final = """
CREATE TABLE IF NOT EXISTS holdfast_events (
    seq INTEGER PRIMARY KEY, wall REAL NOT NULL, kind TEXT NOT NULL, payload BLOB NOT NULL, cause INTEGER,
    previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS holdfast_snapshots (
    seq INTEGER PRIMARY KEY, event_hash TEXT NOT NULL, state BLOB NOT NULL, hash TEXT NOT NULL
) STRICT;
"""

# What SQLite says when the file isn't what it should be. Our SQL is right, so SQLITE_ERROR is a table that is gone.
_DAMAGE: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_FORMAT,
}


def open_sqlite(path: str, *, create: bool = True) -> ChainedLog:
    """Raises ``LogUnavailable`` or ``LogCorrupt``. What isn't there is created, or else ``LogMissing`` raised."""
    file = Path(path).absolute()
    if not create:
        _find(file)
    store = SqliteStore(file)
    try:
        return ChainedLog(store)
    except BaseException:
        store.close()
        raise


def files_of(path: Path) -> list[Path]:
    """All files that may belong to the log at ``path``, the log itself first."""
    return [path.with_name(path.name + ending) for ending in ("", "-wal", "-shm", ".head")]


def note_written(path: Path, seq: int) -> None:
    """Say beside a log that was put there whole that event ``seq`` was written; durable when it returns."""
    write_whole(path.with_name(f"{path.name}.head"), b"%020d\n" % seq)


class SqliteStore:
    """A ``Store`` in one file."""

    def __init__(self, path: Path, *, busy_s: float = BUSY_S) -> None:
        self._path = path
        self._busy_s = busy_s
        self._side = -1
        self._database: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._side = os.open(path.with_name(f"{path.name}.head"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._turn(), self._named():
                self._open()
        except OSError as error:
            self.close()
            raise LogUnavailable(f"{path}: {error.strerror or error}") from error
        except LogError:
            self.close()
            raise

    def run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        database = self._database
        if database is None:
            raise LogUnavailable(f"{self._path}: the log was closed")
        with self._turn() if write else contextlib.nullcontext(), self._named():
            try:
                database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                result = work(self._query)
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        database.execute("ROLLBACK")
            return result

    def witness(self) -> int:
        try:
            return int(os.pread(self._side, _HEAD_BYTES, 0))
        except (OSError, ValueError):
            return 0  # it knows nothing; the database may still be whole

    def note(self, seq: int) -> None:
        with contextlib.suppress(OSError):  # the event is safe already
            os.pwrite(self._side, b"%020d\n" % seq, 0)

    def close(self) -> None:
        """Whoever closes last moves the write-ahead log into the file, which is writing."""
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(LogUnavailable), self._turn():
                database.close()
            database.close()
        side, self._side = self._side, -1
        if side >= 0:
            os.close(side)

    def _open(self) -> None:
        if not os.pread(self._side, _HEAD_BYTES, 0):
            os.pwrite(self._side, b"%020d\n" % 0, 0)  # so that noting never needs room on the disk
        # Autocommit: transactions are begun and ended here, in the open. Threads take turns (``log_chain``).
        database = sqlite3.connect(self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
        self._database = database
        # A row altered by hand may hold any bytes: they come as they are, and the hash tells.
        database.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        mode = self._query("PRAGMA journal_mode = WAL")[0][0]
        if mode != "wal":
            raise LogUnavailable(f"{self._path}: the file system allows no write-ahead log (SQLite says {mode})")
        for pragma in ("synchronous = FULL", "cell_size_check = ON", "trusted_schema = OFF"):
            database.execute(f"PRAGMA {pragma}")
        if not self.witness():  # else tables that are missing were lost
            database.executescript(TABLES)
        database.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # now the write-ahead log is there, too
        _sync_folders(self._path.parent)  # some builds of SQLite leave this to others

    def _query(self, sql: str, *values: object) -> list[Row]:
        assert self._database is not None
        return self._database.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One writer at a time, also among processes. A process that dies gives its turn back."""
        give_up = time.monotonic() + self._busy_s
        while True:
            try:
                fcntl.flock(self._side, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= give_up:
                    reason = f"{self._path}: another writer has held it for {self._busy_s:g} s"
                    raise LogUnavailable(reason) from error
                time.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            fcntl.flock(self._side, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if code & 0xFF in _DAMAGE:
                raise LogCorrupt(0, f"{self._path}: {error}") from error
            raise LogUnavailable(f"{self._path}: {error} ({error.sqlite_errorname})") from error


def _find(path: Path) -> None:
    """Raises ``LogMissing`` if the file isn't an event log, and never was. Changes nothing, not even beside it.

    Raises ``LogUnavailable`` if that can't be seen.
    """
    try:
        if not path.is_file():
            raise LogMissing(f"{path}: {'not a file' if path.exists() else 'there is no event log'}")
        if path.with_name(f"{path.name}.head").exists():
            return  # it was one; what became of it is told when it is opened
    except OSError as error:  # below a folder that may not be searched
        raise LogUnavailable(f"{path}: {error.strerror or error}") from error
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_read_only(path)) as database:
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'holdfast_events'").fetchall():
            raise LogMissing(f"{path}: there is no event log in this file")


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


def _sync_folders(folder: Path) -> None:
    """A file is durable when the folder that names it is, and a new folder when the one above is."""
    for one in (folder, folder.parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
