"""What the event loop hands over costs it little, is bounded, and is written or counted."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from models.inference import Tensor, Tensors
from serving.cache.entry import decode_entry
from serving.cache.key import cache_key
from serving.cache.store import Row, Usage
from serving.cache.writer import BATCH, CacheWriter
from serving.clock import SystemClock
from tests.fakes import FakeClock


class DictStore:
    """A ``NodeStore`` in memory that writes when it may."""

    def __init__(self) -> None:
        self.errors = 0
        self.rows: dict[bytes, Row] = {}
        self.puts: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()
        self.written = threading.Semaphore(0)
        self.fails = False

    def get(self, key: bytes) -> memoryview | None:
        row = self.rows.get(key)
        return None if row is None else memoryview(row.raw)

    def put_many(self, rows: Sequence[Row], *, now_wall: float) -> list[Row]:
        self.busy.set()
        assert self.gate.wait(20)
        if self.fails:
            raise RuntimeError("a defect")
        self.puts.append(len(rows))
        self.rows |= {row.key: row for row in rows}
        self.written.release(len(rows))
        return list(rows)

    def usage(self) -> Usage:
        return Usage(0, len(self.rows))

    def close(self) -> None: ...


def x_of(value: float) -> Tensors:
    return (Tensor("x", "FP32", np.array([[value]], np.float32)),)


def add(writer: CacheWriter, value: float, *, outputs: Tensors | None = None) -> None:
    writer.add(
        model="m",
        signature_digest="s",
        version="v1",
        version_digest="d1",
        inputs=x_of(value),
        outputs=x_of(2 * value) if outputs is None else outputs,
    )


def writer_of(store: DictStore | None, *, queue_max: int = 100, queue_max_bytes: int = 1 << 20) -> CacheWriter:
    return CacheWriter(store, clock=SystemClock(), queue_max=queue_max, queue_max_bytes=queue_max_bytes)


def answer(store: DictStore, value: float) -> float | None:
    key = cache_key("m", "s", x_of(value))
    raw = store.get(key)
    entry = None if raw is None else decode_entry(raw, key)
    return None if entry is None else float(entry.outputs[0].array[0, 0])


def test_an_answer_is_written_by_the_thread_soon() -> None:
    store = DictStore()
    writer = writer_of(store)
    writer.start()
    add(writer, 3.0)
    assert store.written.acquire(timeout=20)
    add(writer, 4.0)
    assert store.written.acquire(timeout=20), "it wakes up again"
    assert writer.close(within_s=5)
    assert (answer(store, 3.0), answer(store, 4.0)) == (6.0, 8.0)
    assert (writer.waiting, writer.waiting_bytes, writer.dropped) == (0, 0, 0)


def test_closing_writes_what_waits_in_batches() -> None:
    store = DictStore()
    writer = writer_of(store)
    writer.start()
    for value in range(50):
        add(writer, value)
    assert writer.close(within_s=5)
    assert len(store.rows) == 50
    assert max(store.puts) == BATCH
    assert len(store.puts) < 50


def test_a_store_that_hangs_neither_holds_up_the_loop_nor_the_end() -> None:
    store = DictStore()
    store.gate.clear()
    writer = writer_of(store, queue_max=5)
    writer.start()
    add(writer, 0)
    assert store.busy.wait(20)
    for value in range(1, 20):
        add(writer, value)
    assert writer.waiting == 5
    assert writer.dropped == 14
    assert not writer.close(within_s=0.01), "it says that the thread is still in there"
    store.gate.set()
    assert writer.close(within_s=5)


def test_the_queue_is_bounded_in_bytes() -> None:
    writer = writer_of(None, queue_max_bytes=10_000)
    big: Tensors = (Tensor("y", "FP32", np.zeros((1, 1000), np.float32)),)
    for value in range(5):
        add(writer, value, outputs=big)
    assert (writer.waiting, writer.dropped) == (2, 3)
    assert 8000 < writer.waiting_bytes <= 10_000
    assert writer.write_waiting() == 2
    assert writer.waiting_bytes == 0
    add(writer, 9.0, outputs=big)
    assert writer.waiting == 1


def test_nothing_is_taken_after_the_end() -> None:
    store = DictStore()
    writer = writer_of(store)
    assert writer.close(within_s=1)
    add(writer, 1.0)
    assert (writer.waiting, writer.dropped, len(store.rows)) == (0, 1, 0)


def test_closing_without_time_left_drops_and_counts(clock: FakeClock) -> None:
    store = DictStore()
    writer = CacheWriter(store, clock=clock, queue_max=10, queue_max_bytes=1 << 20)
    add(writer, 1.0)
    assert writer.close(within_s=0.0)
    assert (writer.waiting, writer.dropped, len(store.rows)) == (0, 1, 0)


def test_a_defect_of_the_store_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    store = DictStore()
    writer = writer_of(store)
    writer.start()
    store.fails = True
    add(writer, 1.0)
    assert store.busy.wait(20)
    store.busy.clear()
    while "couldn't be cached" not in caplog.text:  # the thread is about to say so
        threading.Event().wait(0.001)
    store.fails = False
    add(writer, 2.0)
    assert store.written.acquire(timeout=20)
    assert writer.close(within_s=5)
    assert answer(store, 2.0) == 4.0


def test_what_cannot_be_encoded_is_counted_and_its_neighbours_are_written() -> None:
    store = DictStore()
    writer = writer_of(store)
    add(writer, 1.0, outputs=(Tensor("y", "BYTES", np.array([b"fine"], object)),))
    add(writer, 2.0, outputs=(Tensor("y", "BYTES", np.array([None], object)),))
    add(writer, 3.0)
    assert writer.dropped == 1, "its size isn't even known"
    writer.write_waiting()
    assert len(store.rows) == 2
