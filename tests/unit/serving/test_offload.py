"""What is handed over costs the loop little, is bounded, and is done or counted, however the work goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.clock import SystemClock
from serving.offload import REST_FACTOR, Limits, Offload
from tests.fakes import FakeClock

LIMITS = Limits(batch=4, gather_s=0.001, number_max=100)
TICK_S = 0.005


class Worker:
    """Remembers what it was given. Does it when its gate is open, and raises what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began: list[float] = []
        self.done = threading.Semaphore(0)
        self.busy = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.raises: Exception | None = None
        self.not_done = 0
        self.ended: list[str] = []

    def work(self, batch: Iterator[int]) -> None:
        if not (items := list(batch)):
            return
        self.began.append(time.monotonic())
        self.busy.set()
        assert self.gate.wait(20)
        if self.raises is not None:
            raise self.raises
        self.batches.append(items)
        self.done.release(len(items))

    def count(self, number: int) -> None:
        self.not_done += number

    def end(self) -> None:
        self.ended.append(threading.current_thread().name)


def offload_of(worker: Worker, **more: Any) -> Offload[int]:
    given = {name: more.pop(name) for name in Limits._fields if name in more}
    return Offload(
        "worker",
        more.pop("work", worker.work),
        LIMITS._replace(**given),
        not_done=worker.count,
        trouble="it couldn't be done",
        log=logging.getLogger("holdfast.test"),
        clock=more.pop("clock", SystemClock()),
        **more,
    )


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_the_thread_does_it_soon_and_wakes_up_again(worker: Worker) -> None:
    offload = offload_of(worker)
    offload.start()
    for item in range(3):
        assert offload.put(item)
        assert worker.done.acquire(timeout=20)
    assert offload.close(within_s=5)
    assert worker.batches == [[0], [1], [2]]


def test_a_turn_is_a_batch_in_the_order_in_which_it_came(worker: Worker) -> None:
    offload = offload_of(worker)
    for item in range(6):
        offload.put(item)
    assert [offload.turn() for _ in range(3)] == [4, 2, 0]
    assert worker.batches == [[0, 1, 2, 3], [4, 5]]


def test_it_is_bounded_in_number(worker: Worker) -> None:
    offload = offload_of(worker, number_max=5)
    assert [offload.put(item) for item in range(7)] == [True] * 5 + [False] * 2
    assert (offload.waiting, offload.full()) == (5, True)
    offload.turn()
    assert (offload.full(), offload.put(7)) == (False, True)


def test_it_is_bounded_in_bytes_of_which_each_leaves_with_its_own(worker: Worker) -> None:
    seen: list[int] = []
    offload: Offload[int] = offload_of(
        worker, bytes_max=10, work=lambda batch: seen.extend(offload.waiting_bytes for _ in batch)
    )
    assert [offload.put(item, size) for item, size in enumerate([6, 5, 4, 1, 0])] == [True, False, True, False, True]
    assert (offload.waiting, offload.waiting_bytes, offload.full()) == (3, 10, False)
    assert offload.turn() == 3
    assert seen == [4, 0, 0]


def test_only_a_thread_that_sleeps_is_woken(worker: Worker) -> None:
    class Bell(threading.Event):
        rung = 0

        def set(self) -> None:
            self.rung += 1
            super().set()

    offload = offload_of(worker, gather_s=0.2)
    offload._wake = bell = Bell()
    offload.start()
    for expected in (1, 2):
        while offload._awake:  # it is about to fall asleep
            time.sleep(0.001)
        for item in range(3):
            offload.put(item)
        assert bell.rung == expected
        for _ in range(3):
            assert worker.done.acquire(timeout=20)
    assert offload.close(within_s=5)
    assert worker.batches == [[0, 1, 2]] * 2, "and it lets more come before it begins"


def test_nothing_gets_lost_between_two_threads(worker: Worker) -> None:
    offload = offload_of(worker, gather_s=0.0, number_max=50, bytes_max=300, batch=50)
    offload.start()
    for item in range(5_000):
        while not offload.put(item, item % 13):
            time.sleep(0)
    assert offload.close(within_s=20)
    assert [item for batch in worker.batches for item in batch] == list(range(5_000))
    assert (offload.waiting, offload.waiting_bytes, worker.not_done) == (0, 0, 0)


# Resting


def ticking(tick_s: float) -> Callable[[], float]:
    """A clock by which all takes as long."""
    ticks = iter(range(1_000_000))
    return lambda: next(ticks) * tick_s


def rested(worker: Worker) -> bool:
    first, second, third = worker.began
    return min(second - first, third - second) >= REST_FACTOR * TICK_S - 0.001


def test_it_rests_between_batches_for_as_long_as_they_have_earned(worker: Worker) -> None:
    offload = offload_of(worker, worked_s=ticking(TICK_S), batch=1)
    for item in range(3):
        offload.put(item)
    offload.start()
    for _ in range(3):
        assert worker.done.acquire(timeout=20)
    assert offload.close(within_s=5)
    assert rested(worker)


def test_it_rests_although_nothing_waited_in_between(worker: Worker) -> None:
    offload = offload_of(worker, worked_s=ticking(TICK_S))
    offload.start()
    for item in range(3):
        offload.put(item)
        assert worker.done.acquire(timeout=20)
    assert offload.close(within_s=5)
    assert rested(worker)


def test_no_rest_is_without_end(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.offload.REST_MAX_S", 0.01)
    offload = offload_of(worker, worked_s=ticking(100.0), batch=1)
    offload.start()
    for item in range(2):
        offload.put(item)
        assert worker.done.acquire(timeout=20)
    assert offload.close(within_s=5)


# Defects


def test_a_defect_is_told_of_once_counted_and_does_not_end_the_thread(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    offload = offload_of(worker)
    worker.raises = ZeroDivisionError()
    for item in range(6):
        offload.put(item)
    assert [offload.turn() for _ in range(2)] == [4, 2]
    worker.raises = None
    offload.put(6)
    offload.turn()
    assert (worker.batches, worker.not_done) == ([[6]], 6)
    assert [record.getMessage() for record in caplog.records] == ["it couldn't be done"]


def test_a_defect_before_anything_was_taken_does_not_hold_up_the_end(worker: Worker, clock: FakeClock) -> None:
    def work(batch: Iterator[int]) -> None:
        raise ZeroDivisionError

    offload = offload_of(worker, work=work, clock=clock)
    offload.put(1)
    assert offload.close(within_s=5)
    assert (offload.waiting, worker.not_done) == (0, 1)


def test_work_may_prepare_before_there_is_any(worker: Worker) -> None:
    prepared = threading.Event()
    offload = offload_of(worker, work=lambda batch: prepared.set())
    offload.start()
    assert prepared.wait(20)
    assert offload.close(within_s=5)


# The end


def test_at_the_end_what_waits_is_done_however_long_it_might_have_gathered(worker: Worker) -> None:
    offload = offload_of(worker, gather_s=60.0, end=worker.end)
    offload.start()
    for item in range(6):
        offload.put(item)
    assert offload.close(within_s=20)
    assert [item for batch in worker.batches for item in batch] == list(range(6))
    assert worker.ended == ["worker"]
    assert (offload.put(6), offload.full(), offload.waiting) == (False, True, 0)


def test_without_time_left_or_a_thread_what_waits_is_counted(worker: Worker, clock: FakeClock) -> None:
    offload = offload_of(worker, clock=clock, end=worker.end)
    for item in range(6):
        offload.put(item, 10)
    assert offload.close(within_s=0.0)
    assert (worker.batches, worker.not_done, offload.waiting, offload.waiting_bytes) == ([], 6, 0, 0)
    assert worker.ended == ["MainThread"]


def test_work_that_hangs_is_cut_short(worker: Worker) -> None:
    worker.gate.clear()
    offload = offload_of(worker, batch=1, cut=worker.gate.set)
    offload.start()
    offload.put(1)
    assert worker.busy.wait(20)
    offload.put(2)
    assert offload.close(within_s=0.0)
    assert (worker.batches, worker.not_done) == ([[1]], 1)


def test_work_that_can_not_be_cut_short_holds_up_nobody(worker: Worker) -> None:
    worker.gate.clear()
    offload = offload_of(worker)
    offload.start()
    offload.put(1)
    assert worker.busy.wait(20)
    assert not offload.close(within_s=0.01), "it says that the thread is still in there"
    worker.gate.set()
    assert offload.close(within_s=5)
