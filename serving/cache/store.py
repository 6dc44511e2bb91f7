"""The node's store of cached predictions: an LMDB file that all gateway processes of the node share.

Rows lie in the order in which they were written, so that the oldest leave from the front and free whole pages; an
index leads from a key to its row. Nothing is fsynced: LMDB never writes over what a reader could see, so a killed
process does no harm; what a crash of the machine leaves is looked at by ``serving.cache.opening`` before it is used.
Not here: what a row says (``serving.cache.entry``), and when it is written (``serving.cache.writer``).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from zlib import crc32

from serving.cache.key import KEY_BYTES

if TYPE_CHECKING:
    from lmdb import Transaction

log = logging.getLogger("holdfast.cache")

DATA_FILE: Final = "data.mdb"

SPARE_SHARE: Final = 1 / 4
SPARE_MIN_BYTES: Final = 1 << 19
"""So much of the file stays free: LMDB copies the pages that it changes, and uses the old ones two changes later."""

CHUNK_SHARE: Final = 1 / 32
"""So much of the file is written at one go. A row that takes more isn't kept: it would drive out all others."""

CHUNK_ROWS: Final = 128
EVICTIONS_PER_ROW: Final = 4
REWRITE_AFTER_S: Final = 0.1
"""A row of the same version isn't written again before this has passed: the same question may come all the time."""

_READERS: Final = 512
_ROW_HEAD: Final = struct.Struct("<32sdI4x")  # key, when it was stored, whose it is; a multiple of 8 bytes
_ATTEMPTS: Final = 4
_EVICTED_AT_ONCE: Final = 8
_EVICTED_FOR_ROOM: Final = 64


class Row(NamedTuple):
    """An encoded entry, and the parts of it that decide whether it replaces another."""

    key: bytes
    stored_wall: float
    version_digest: str
    raw: bytes


class Usage(NamedTuple):
    """``bytes`` counts whole pages."""

    bytes: int
    entries: int


class NodeStore(Protocol):
    """Keeps rows by their key. Nothing here raises: what can't be kept or found is counted and missed."""

    errors: int
    """Questions and rows that failed."""

    def get(self, key: bytes) -> memoryview | None:
        """The raw entry that was last put under ``key``."""
        ...

    def put_many(self, rows: Sequence[Row], *, now_wall: float) -> list[Row]:
        """The rows that were written. One is left out if what is there is newer, or as good as new."""
        ...

    def usage(self) -> Usage: ...

    def close(self) -> None: ...


class LmdbStore:
    """A ``NodeStore`` in ``folder``; its file never grows beyond ``max_bytes``.

    One thread writes, one reads. Other processes may do the same. Raises ``lmdb.Error`` or ``OSError`` if the folder
    can't be used; ``serving.cache.opening`` deals with that.
    """

    def __init__(self, folder: Path, *, max_bytes: int, rewrite_after_s: float = REWRITE_AFTER_S) -> None:
        import lmdb

        self.errors = 0
        self.evicted = 0
        self._lmdb: Any = lmdb
        self._max_bytes = max_bytes
        self._full_bytes = full_bytes(max_bytes)
        self._rewrite_after_s = rewrite_after_s
        self._failing = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._env = lmdb.Environment(
            str(folder),
            map_size=max_bytes,
            max_dbs=2,
            max_readers=_READERS,
            max_spare_txns=2,
            mode=0o600,
            sync=False,
            metasync=False,
            readahead=False,
        )
        try:
            self._env.reader_check()  # killed processes leave their slots behind, and in them hold on to old pages
            self._rows = self._env.open_db(b"rows")
            self._index = self._env.open_db(b"index")
        except lmdb.Error:
            self._env.close()
            raise

    def get(self, key: bytes) -> memoryview | None:
        try:
            with self._env.begin() as txn:
                place = txn.get(key, db=self._index)
                row = None if place is None else txn.get(place, db=self._rows)
        except self._lmdb.Error as error:
            self._failed("read", error)
            return None
        return None if row is None else memoryview(row)[_ROW_HEAD.size :]

    def put_many(self, rows: Sequence[Row], *, now_wall: float) -> list[Row]:
        written: list[Row] = []
        largest = int(self._max_bytes * CHUNK_SHARE)
        fitting = [row for row in rows if len(row.raw) <= largest]
        self.errors += len(rows) - len(fitting)
        for chunk in _chunks(fitting, max_bytes=largest):
            try:
                written += self._written(chunk, now_wall)
            except self._lmdb.Error as error:  # also a full disk
                self._failed("written", error, rows=len(chunk))
            else:
                self._failing = False
        return written

    def usage(self) -> Usage:
        try:
            with self._env.begin() as txn:
                return Usage(self._used(txn), txn.stat(self._index)["entries"])
        except self._lmdb.Error:
            return Usage(0, 0)

    def close(self) -> None:
        """Nobody may be reading or writing."""
        self._env.close()

    def _written(self, chunk: list[Row], now_wall: float) -> list[Row]:
        for attempt in range(1, _ATTEMPTS):
            try:
                return self._write(chunk, now_wall)
            except self._lmdb.MapFullError:
                self._make_room(everything=attempt == _ATTEMPTS - 1)
        return self._write(chunk, now_wall)

    def _write(self, chunk: list[Row], now_wall: float) -> list[Row]:
        written: list[Row] = []
        with self._env.begin(write=True, buffers=True) as txn:
            place = self._next_place(txn)
            for row in chunk:
                if self._replaces(txn, row, now_wall):
                    name = place.to_bytes(8)
                    head = _ROW_HEAD.pack(row.key, row.stored_wall, crc32(row.version_digest.encode()))
                    txn.put(name, head + row.raw, append=True, db=self._rows)
                    txn.put(row.key, name, db=self._index)
                    written.append(row)
                    place += 1
            evicted = self._evict(txn, down_to=self._full_bytes, at_most=EVICTIONS_PER_ROW * len(chunk))
        self.evicted += evicted
        return written

    def _next_place(self, txn: Transaction[memoryview]) -> int:
        with txn.cursor(self._rows) as cursor:
            return int.from_bytes(cursor.key()) + 1 if cursor.last() else 1

    def _replaces(self, txn: Transaction[memoryview], row: Row, now_wall: float) -> bool:
        """Whether ``row`` is to be written; if so, what it replaces is gone."""
        found = txn.get(row.key, db=self._index)
        if found is None:
            return True
        place = bytes(found)
        old = txn.get(place, db=self._rows)
        if old is None:
            return True
        if len(old) >= _ROW_HEAD.size:
            _, stored_wall, version = _ROW_HEAD.unpack_from(old)
            if row.stored_wall < stored_wall <= now_wall:  # what is from the future, by this clock, never stays
                return False
            as_new = 0.0 <= row.stored_wall - stored_wall < self._rewrite_after_s
            if as_new and version == crc32(row.version_digest.encode()):
                return False
        txn.delete(place, db=self._rows)
        return True

    def _evict(self, txn: Transaction[memoryview], *, down_to: int, at_most: int) -> int:
        """Delete the oldest rows until ``down_to`` bytes are used; how many it were."""
        evicted = 0
        with txn.cursor(self._rows) as oldest:
            while evicted < at_most and self._used(txn) > down_to and oldest.first():
                key = bytes(oldest.value()[:KEY_BYTES])
                oldest.delete()
                if len(key) == KEY_BYTES:  # else it was torn; whoever has the key finds no row
                    txn.delete(key, db=self._index)
                evicted += 1
        return evicted

    def _make_room(self, *, everything: bool) -> None:
        """The file is full although there should be room: free pages lie in pieces, or a dead reader holds them."""
        self._env.reader_check()
        try:
            for _ in range(_EVICTED_FOR_ROOM // _EVICTED_AT_ONCE):  # bit by bit: deleting needs free pages too
                with self._env.begin(write=True, buffers=True) as txn:
                    self.evicted += self._evict(txn, down_to=0, at_most=_EVICTED_AT_ONCE)
        except self._lmdb.MapFullError:
            everything = True
        if everything:
            with self._env.begin(write=True) as dropping:
                self.evicted += dropping.stat(self._rows)["entries"]
                dropping.drop(self._rows, delete=False)
                dropping.drop(self._index, delete=False)
        for _ in range(2):  # what was freed can be used two transactions later
            with self._env.begin(write=True) as nothing:
                nothing.put(b"touched", b"")

    def _used(self, txn: Transaction[Any]) -> int:
        used = 0
        for stat in (txn.stat(self._rows), txn.stat(self._index)):
            used += (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]
        return used

    def _failed(self, what: str, error: Exception, *, rows: int = 1) -> None:
        self.errors += rows
        if not self._failing:  # one line, not one for each row of a full disk
            self._failing = True
            log.warning("cached predictions can't be %s: %s", what, error)


def full_bytes(max_bytes: int) -> int:
    """From how many bytes on the oldest go, in a file of at most ``max_bytes``."""
    return max_bytes - max(int(max_bytes * SPARE_SHARE), min(max_bytes // 2, SPARE_MIN_BYTES))


def _chunks(rows: Sequence[Row], *, max_bytes: int) -> Iterator[list[Row]]:
    """The rows in order, in transactions that change few enough pages."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) == CHUNK_ROWS or size + len(row.raw) > max_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.raw)
    if chunk:
        yield chunk
