"""Takes good answers from the event loop to the store, in a thread of its own.

The loop pays for a few references; hashing, encoding and writing are the thread's. What doesn't fit into the queue is
dropped and counted. Not here: the queue and the thread (``serving.offload``), and what is read back
(``serving.cache.tiers``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from models.inference import Tensors
from serving.cache.entry import Entry, encode_entry
from serving.cache.key import cache_key
from serving.cache.store import NodeStore, Row
from serving.clock import Clock
from serving.held import kept
from serving.offload import Limits, Offload

log = logging.getLogger("holdfast.cache")

BATCH: Final = 16
"""Answers that are written at one go: while it encodes them the thread keeps the interpreter from the loop."""

GATHER_S: Final = 0.05
"""How long the thread lets answers gather."""

_OVERHEAD_BYTES: Final = 512


class Answered(msgspec.Struct, gc=False):
    """A good answer, and what was asked."""

    model: str
    signature_digest: str
    version: str
    version_digest: str
    stored_wall: float
    inputs: Tensors
    outputs: Tensors


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
        self._on_written = on_written
        self._offload: Offload[Answered | Row] = Offload(
            "cache-writer",
            self._write,
            Limits(BATCH, GATHER_S, queue_max, queue_max_bytes),
            not_done=self._drop,
            trouble="an answer couldn't be cached",
            log=log,
            clock=clock,
        )

    # The event loop's side

    def start(self) -> None:
        self._offload.start()

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
        if self._offload.full():
            self.dropped += 1
            return
        try:
            inputs, in_bytes = kept(inputs)
            outputs, out_bytes = kept(outputs)
        except Exception:  # noqa: BLE001  # an answer is never lost because it couldn't be remembered
            self.dropped += 1
            return
        if not self._offload.put(
            Answered(model, signature_digest, version, version_digest, self._wall(), inputs, outputs),
            in_bytes + out_bytes + _OVERHEAD_BYTES,
        ):
            self.dropped += 1

    def add_row(self, row: Row) -> None:
        """Have ``row``, which is from another tier, written to the store."""
        if not self._offload.put(row, len(row.raw) + _OVERHEAD_BYTES):
            self.dropped += 1

    @property
    def waiting(self) -> int:
        return self._offload.waiting

    @property
    def waiting_bytes(self) -> int:
        return self._offload.waiting_bytes

    def close(self, *, within_s: float) -> bool:
        """Write what waits, for as long as ``within_s`` at most; whether the thread has ended. Blocks."""
        return self._offload.close(within_s=within_s)

    def _drop(self, number: int) -> None:
        self.dropped += number

    # The thread's side

    def write_waiting(self) -> int:
        """Write a batch of what waits; how much it was."""
        return self._offload.turn()

    def _write(self, batch: Iterator[Answered | Row]) -> None:
        fresh: list[Row] = []
        known: list[Row] = []
        for item in batch:
            if isinstance(item, Row):
                known.append(item)
            elif (row := self._encoded(item)) is not None:
                fresh.append(row)
        if fresh:
            fresh = self._put(fresh)
            if fresh and self._on_written is not None:
                self._on_written(fresh)
        if known:
            self._put(known)

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
