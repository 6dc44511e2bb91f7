"""Takes good answers from the event loop to the store, in a thread of its own.

The loop pays for a few references in a queue, which is bounded in number and in bytes; what doesn't fit is dropped
and counted. Hashing, encoding and writing happen in batches in the thread, which rests between them: it shares the
interpreter with the loop. Not here: what is read back (``serving.cache.tiers``).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from models.inference import Tensors
from serving.cache.entry import Entry, encode_entry
from serving.cache.key import cache_key
from serving.cache.store import NodeStore, Row
from serving.clock import Clock
from serving.held import kept

log = logging.getLogger("holdfast.cache")

BATCH: Final = 16
"""Answers that are written at one go: while it encodes them the thread keeps the interpreter from the loop."""

GATHER_S: Final = 0.05
"""How long the thread lets answers gather."""

REST_FACTOR: Final = 9.0
"""So many times as long as it worked the thread rests: at most a tenth of the time goes into writing."""

_OVERHEAD_BYTES: Final = 512
_SWITCH_S: Final = 0.001


class Answered(msgspec.Struct, gc=False):
    """A good answer, and what was asked. ``size_bytes`` is the memory that it keeps."""

    model: str
    signature_digest: str
    version: str
    version_digest: str
    stored_wall: float
    inputs: Tensors
    outputs: Tensors
    size_bytes: int


class CacheWriter:
    """``add`` and ``add_row`` are for one thread, the event loop's; they never wait and never raise."""

    def __init__(
        self,
        store: NodeStore | None,
        *,
        clock: Clock,
        queue_max: int,
        queue_max_bytes: int,
        on_written: Callable[[list[Row]], None] | None = None,
    ) -> None:
        self.dropped = 0
        self.written = 0
        self.unencodable = 0
        self._store = store
        self._clock = clock
        self._wall = clock.wall
        self._queue_max = queue_max
        self._queue_max_bytes = queue_max_bytes
        self._on_written = on_written
        self._queue: deque[Answered | Row] = deque()
        self._bytes_in = 0  # counted by the loop alone
        self._bytes_out = 0  # counted by the thread alone: a sum that two threads changed would drift
        self._awake = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._closed = False
        self._until = 0.0
        self._thread: threading.Thread | None = None

    # The event loop's side

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
        self._thread.start()

    def add(
        self,
        *,
        model: str,
        signature_digest: str,
        version: str,
        version_digest: str,
        inputs: Tensors,
        outputs: Tensors,
    ) -> None:
        if len(self._queue) >= self._queue_max:
            self.dropped += 1
            return
        try:
            inputs, in_bytes = kept(inputs)
            outputs, out_bytes = kept(outputs)
        except Exception:  # noqa: BLE001  # an answer is never lost because it couldn't be remembered
            self.dropped += 1
            return
        size = in_bytes + out_bytes + _OVERHEAD_BYTES
        self._push(
            Answered(model, signature_digest, version, version_digest, self._wall(), inputs, outputs, size), size
        )

    def add_row(self, row: Row) -> None:
        """Have ``row``, which is from another tier, written to the store."""
        self._push(row, len(row.raw) + _OVERHEAD_BYTES)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes_in - self._bytes_out

    def close(self, *, within_s: float) -> bool:
        """Write what waits, for as long as ``within_s`` at most; whether the thread has ended. Blocks."""
        self._until = self._clock.monotonic() + within_s
        self._closed = True
        self._closing.set()
        self._wake.set()
        if self._thread is None:
            self._finish()
            return True
        self._thread.join(within_s + 0.5)
        return not self._thread.is_alive()

    def _push(self, item: Answered | Row, size: int) -> None:
        if (
            self._closed
            or len(self._queue) >= self._queue_max
            or self._bytes_in - self._bytes_out + size > self._queue_max_bytes
        ):
            self.dropped += 1
            return
        self._bytes_in += size
        self._queue.append(item)
        if not self._awake:
            self._awake = True
            self._wake.set()

    # The thread's side

    def write_waiting(self, *, at_most: int = BATCH) -> int:
        """Write a batch of what waits; how much it was."""
        fresh: list[Row] = []
        known: list[Row] = []
        taken = 0
        while self._queue and taken < at_most:
            item = self._queue.popleft()
            taken += 1
            if isinstance(item, Row):
                self._bytes_out += len(item.raw) + _OVERHEAD_BYTES
                known.append(item)
            else:
                self._bytes_out += item.size_bytes
                if (row := self._encoded(item)) is not None:
                    fresh.append(row)
        if fresh:
            fresh = self._put(fresh)
            if fresh and self._on_written is not None:
                self._on_written(fresh)
        if known:
            self._put(known)
        return taken

    def _run(self) -> None:
        monotonic = self._clock.monotonic
        rest_s = 0.0
        while not self._closing.is_set():
            self._wake.wait()
            if self._closing.wait(rest_s or GATHER_S):
                break
            self._wake.clear()
            self._awake = False  # from here on whoever adds something wakes us, and what was added is seen below
            since = monotonic()
            self._safely(self.write_waiting)
            rest_s = 0.0
            if self._queue:
                rest_s = max(REST_FACTOR * (monotonic() - since), _SWITCH_S)
                self._wake.set()
        self._safely(self._finish)

    def _finish(self) -> None:
        while self._queue and self._clock.monotonic() < self._until:
            self.write_waiting()
        self.dropped += len(self._queue)
        self._queue.clear()

    def _safely(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            log.exception("an answer couldn't be cached")

    def _encoded(self, item: Answered) -> Row | None:
        try:
            key = cache_key(item.model, item.signature_digest, item.inputs)
            entry = Entry(
                item.model, item.signature_digest, item.version, item.version_digest, item.stored_wall, item.outputs
            )
            return Row(key, item.stored_wall, item.version_digest, encode_entry(entry, key))
        except (ValueError, TypeError, OverflowError, BufferError):
            self.unencodable += 1
            return None

    def _put(self, rows: list[Row]) -> list[Row]:
        if self._store is None:
            return rows
        written = self._store.put_many(rows, now_wall=self._clock.wall())
        self.written += len(written)
        return written
