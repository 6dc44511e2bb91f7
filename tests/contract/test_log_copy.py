"""A copy of an event log is all of it at one moment, and becomes a log again, in the same store or in the other."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from serving.rollout.event_log import Event, LogCorrupt, LogMissing, LogUnavailable, open_log
from serving.rollout.log_copy import check_copy, copy_log, is_there, opened_copy, put_into_postgres, sqlite_file
from tests.event_logs import Place, PostgresPlace, all_of, fill
from tests.postgres_server import PostgresServer

EVENTS = 250  # more than a page


@pytest.fixture
def events(place: Place) -> list[Event]:
    log = open_log(place.url)
    try:
        return fill(log, EVENTS)
    finally:
        log.close()


@pytest.fixture
def another(postgres: PostgresServer) -> PostgresPlace:
    """A schema without a log."""
    return PostgresPlace(postgres)


def read(copy: Path) -> list[Event]:
    with opened_copy(copy) as log:
        return list(log.read())


def test_a_copy_is_the_log_and_looking_at_it_leaves_no_trace(place: Place, events: list[Event], tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()
    assert copy_log(place.url, copy) == (EVENTS, events[-1].hash)
    raw = copy.read_bytes()
    assert read(copy) == events
    assert check_copy(copy) == (EVENTS, events[-1].hash)
    assert copy.read_bytes() == raw
    assert list(copy.parent.iterdir()) == [copy]


def test_a_copy_of_a_log_that_was_compacted_has_its_snapshot(place: Place, events: list[Event], tmp_path: Path) -> None:
    log = open_log(place.url)
    log.snapshot(200, b"all of it")
    log.compact(201)
    log.close()
    copy_log(place.url, tmp_path / "copy.db")
    assert read(tmp_path / "copy.db") == events[200:]
    with opened_copy(tmp_path / "copy.db") as copy:
        kept = copy.latest_snapshot()
        assert kept is not None
        assert (kept.seq, kept.state) == (200, b"all of it")


def test_writers_are_not_kept_waiting_and_the_copy_is_one_moment(
    place: Place, events: list[Event], tmp_path: Path
) -> None:
    log, stop = open_log(place.url), threading.Event()

    def write() -> None:
        while not stop.is_set():
            fill(log, 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seqs = [copy_log(place.url, tmp_path / f"{number}.db")[0] for number in range(3)]
    finally:
        stop.set()
        writer.join()
        log.close()
    whole = all_of(place.url)
    assert EVENTS <= seqs[0] < seqs[2]
    for number, seq in enumerate(seqs):
        assert read(tmp_path / f"{number}.db") == whole[:seq]


def test_a_log_that_isnt_there_is_not_made(place: Place, tmp_path: Path) -> None:
    assert not is_there(place.url)
    with pytest.raises(LogMissing):
        copy_log(place.url, tmp_path / "copy.db")
    assert not is_there(place.url)
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.usefixtures("events")
def test_a_log_that_is_there_is_found(place: Place) -> None:
    assert is_there(place.url)


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE holdfast_events SET kind = 'other' WHERE seq = 7", "event 7: the row was altered"),
        ("DELETE FROM holdfast_events WHERE seq = 120", "event 120: missing"),
    ],
)
def test_a_chain_that_is_broken_is_no_copy(place: Place, tmp_path: Path, damage: str, said: str) -> None:
    place.sql(damage)
    with pytest.raises(LogCorrupt, match=said):
        copy_log(place.url, tmp_path / "copy.db")


@pytest.mark.integration
def test_a_copy_becomes_a_log_in_postgresql_that_goes_on(
    place: Place, events: list[Event], tmp_path: Path, another: PostgresPlace
) -> None:
    copy_log(place.url, tmp_path / "copy.db")
    assert put_into_postgres(tmp_path / "copy.db", another.url, aside="before") is False
    assert all_of(another.url) == events
    log = open_log(another.url)
    assert fill(log, 1)[0].seq == EVENTS + 1
    log.close()


@pytest.mark.integration
def test_a_log_in_postgresql_that_is_replaced_keeps_its_rows_beside(
    place: Place, events: list[Event], tmp_path: Path, another: PostgresPlace
) -> None:
    log = open_log(another.url)
    fill(log, 3)
    log.snapshot(2, b"of the old one")
    log.close()
    copy_log(place.url, tmp_path / "copy.db")
    assert put_into_postgres(tmp_path / "copy.db", another.url, aside="before_restore_1") is True
    assert all_of(another.url) == events
    assert another.sql("SELECT count(*) FROM holdfast_events_before_restore_1") == [(3,)]
    assert another.sql("SELECT seq FROM holdfast_snapshots_before_restore_1") == [(2,)]


@pytest.mark.integration
def test_a_log_in_postgresql_is_replaced_wholly_or_not_at_all(tmp_path: Path, another: PostgresPlace) -> None:
    log = open_log(another.url)
    before = fill(log, 3)
    log.close()
    copy = tmp_path / "copy.db"
    other = open_log(str(tmp_path / "other.db"))
    fill(other, 5)
    other.close()
    copy_log(str(tmp_path / "other.db"), copy)
    with sqlite3.connect(copy) as database:  # what PostgreSQL refuses, after four good rows
        database.execute("UPDATE holdfast_events SET kind = CAST(x'ff' AS TEXT) WHERE seq = 5")
    database.close()
    with pytest.raises((LogUnavailable, UnicodeError)):
        put_into_postgres(copy, another.url, aside="before")
    assert all_of(another.url) == before


@pytest.mark.parametrize(
    ("place", "file"),
    [("/a/b.db", "/a/b.db"), ("sqlite:///a/b%20c.db", "/a/b c.db"), ("postgresql://u@h/d", None)],
)
def test_only_a_log_in_sqlite_is_a_file(place: str, file: str | None) -> None:
    assert sqlite_file(place) == (None if file is None else Path(file))
