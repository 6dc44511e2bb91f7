"""What the chain does when nobody can say whether a commit was one. The rest is in the contract of all logs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from serving.rollout.event_log import LogUnavailable, NotTheWriter
from serving.rollout.log_chain import ChainedLog, Query, Row
from serving.rollout.log_sqlite import TABLES

T = TypeVar("T")


class FlakyStore:
    """In memory. ``troubles`` come one per transaction that writes, before or after the commit."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.executescript(TABLES)

    def run(self, work: Callable[[Query], T], *, write: bool = False) -> T:
        def query(sql: str, *values: object) -> list[Row]:
            return self.database.execute(sql, values).fetchall()

        trouble = self.troubles.pop(0) if write and self.troubles else ""
        if trouble == "before":
            raise LogUnavailable("the commit never arrived")
        result = work(query)
        if trouble == "after":
            raise LogUnavailable("the answer never arrived")
        return result

    def witness(self) -> int:
        return 0

    def note(self, seq: int) -> None:
        pass

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def store() -> Iterator[FlakyStore]:
    store = FlakyStore()
    yield store
    store.close()


@pytest.mark.parametrize("troubles", [["before"], ["after"], ["before", "after"], ["after", "after", "before"]])
def test_an_append_that_is_repeated_is_there_once(store: FlakyStore, troubles: list[str]) -> None:
    log = ChainedLog(store)
    first = log.append("first", b"", wall=0.0)
    store.troubles = list(troubles)
    for _ in troubles:
        with pytest.raises(LogUnavailable):
            log.append("asked", b"1", wall=1.0, cause=1)
    second = log.append("asked", b"1", wall=9.0, cause=1)
    assert list(log.read()) == [first, second]
    assert second.wall == 1.0, "when it was asked for first"
    third = log.append("asked", b"1", wall=9.0, cause=1)
    assert list(log.read()) == [first, second, third], "an append that follows one that returned is another one"


def test_another_append_after_one_that_wasnt_written_takes_its_place(store: FlakyStore) -> None:
    log = ChainedLog(store)
    store.troubles = ["before"]
    with pytest.raises(LogUnavailable):
        log.append("given-up", b"", wall=0.0)
    event = log.append("instead", b"", wall=0.0)
    assert list(log.read()) == [event]


def test_another_append_after_one_that_was_written_is_refused(store: FlakyStore) -> None:
    """Its author doesn't know that the other one is in the log, and so may not decide."""
    log = ChainedLog(store)
    store.troubles = ["after"]
    with pytest.raises(LogUnavailable):
        log.append("given-up", b"", wall=0.0)
    for _ in range(2):
        with pytest.raises(NotTheWriter):
            log.append("instead", b"", wall=0.0)
    again = ChainedLog(store)
    assert [event.kind for event in again.read()] == ["given-up"]
    assert again.append("instead", b"", wall=0.0).seq == 2


def test_a_lost_append_whose_place_was_taken_is_refused(store: FlakyStore) -> None:
    log = ChainedLog(store)
    store.troubles = ["before"]
    with pytest.raises(LogUnavailable):
        log.append("mine", b"", wall=0.0)
    other = ChainedLog(store).append("theirs", b"", wall=0.0)
    with pytest.raises(NotTheWriter):
        log.append("mine", b"", wall=0.0)
    assert list(log.read()) == [other]
