"""What every event log promises, in SQLite and in PostgreSQL. What befalls the store itself: the faults beside this."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.rollout.event_log import (
    PAYLOAD_MAX_BYTES,
    Event,
    EventLog,
    LogCompacted,
    LogCorrupt,
    LogMissing,
    LogUnavailable,
    NotTheWriter,
    hash_of,
    open_log,
)
from serving.rollout.log_chain import PAGE_ROWS
from tests.event_logs import Place, all_of, fill

ROOT = Path(__file__).parents[2]


def test_an_empty_log_has_no_head_no_events_and_no_snapshot(place: Place) -> None:
    log = open_log(place.url)
    assert log.head() == (0, "")
    assert list(log.read()) == []
    assert log.latest_snapshot() is None
    assert log.compact(1) == 0
    log.close()


def test_what_was_appended_is_read_as_it_was(place: Place) -> None:
    log = open_log(place.url)
    first = log.append("command.start", b'{"weight":0.1}', wall=1700000000.1234567)
    second = log.append("decided", bytes(range(256)), wall=0.1 + 0.2, cause=1)
    third = log.append("empty", b"", wall=-0.0, cause=1)
    assert (first.seq, first.cause, first.previous) == (1, None, "")
    assert (second.seq, second.cause, second.previous) == (2, 1, first.hash)
    assert list(log.read()) == [first, second, third]
    assert log.head() == (3, third.hash)
    log.close()
    assert all_of(place.url) == [first, second, third]


def test_a_reopened_log_goes_on_where_it_ended(place: Place) -> None:
    log = open_log(place.url)
    before = fill(log, 3)
    log.close()
    again = open_log(place.url)
    after = fill(again, 2)
    again.close()
    assert all_of(place.url) == before + after
    assert after[0].previous == before[-1].hash


def test_reading_begins_after_the_given_event(place: Place) -> None:
    log = open_log(place.url)
    events = fill(log, 5)
    assert list(log.read(after=3)) == events[3:]
    assert list(log.read(after=5)) == []
    log.close()


def test_a_log_of_many_pages_is_read_as_a_whole(place: Place) -> None:
    log = open_log(place.url)
    events = fill(log, 2 * PAGE_ROWS + 1)
    assert list(log.read()) == events
    log.close()


def test_a_reader_sees_what_is_appended_while_it_reads(place: Place) -> None:
    log, other = open_log(place.url), open_log(place.url)
    fill(log, PAGE_ROWS)
    reading = other.read()
    assert next(reading).seq == 1
    fill(log, 2)
    assert [event.seq for event in reading] == list(range(2, PAGE_ROWS + 3))
    log.close()
    other.close()


@pytest.mark.parametrize(
    ("named", "value"),
    [
        ("kind", ""),
        ("kind", "two words"),
        ("kind", "nul\0"),
        ("kind", "ü"),
        ("kind", "k" * 101),
        ("payload", bytes(PAYLOAD_MAX_BYTES + 1)),
        ("wall", float("nan")),
        ("wall", float("inf")),
        ("cause", 2),
        ("cause", 0),
    ],
)
def test_what_no_log_could_give_back_is_refused_and_named(place: Place, named: str, value: Any) -> None:
    log = open_log(place.url)
    fill(log, 1)
    fields: dict[str, Any] = {"kind": "k", "payload": b"", "wall": 0.0, "cause": None, named: value}
    with pytest.raises(ValueError, match=f"^{named}: "):
        log.append(**fields)
    assert [event.seq for event in fill(log, 1)] == [2]
    log.close()


def test_the_largest_payload_is_kept(place: Place) -> None:
    log = open_log(place.url)
    event = log.append("large", bytes(PAYLOAD_MAX_BYTES), wall=0.0)
    assert list(log.read()) == [event]
    log.close()


def test_a_closed_log_says_so(place: Place) -> None:
    log = open_log(place.url)
    log.close()
    log.close()
    with pytest.raises(LogUnavailable, match="closed"):
        log.append("late", b"", wall=0.0)
    with pytest.raises(LogUnavailable, match="closed"):
        list(log.read())


# Two writers.


def test_whoever_comes_second_is_told_and_stays_out(place: Place) -> None:
    first, second = open_log(place.url), open_log(place.url)
    events = fill(first, 1)
    for _ in range(2):
        with pytest.raises(NotTheWriter, match="another writer"):
            second.append("mine", b"", wall=0.0)
    events += fill(first, 1)
    assert list(second.read()) == events
    first.close()
    second.close()


def test_the_head_is_that_of_the_store_and_looking_at_it_makes_nobody_the_writer(place: Place) -> None:
    first, second = open_log(place.url), open_log(place.url)
    (event,) = fill(first, 1)
    assert second.head() == (1, event.hash)
    with pytest.raises(NotTheWriter):
        second.append("unseen", b"", wall=0.0)
    first.close()
    second.close()


def test_a_writer_that_slept_through_a_compaction_is_told_too(place: Place) -> None:
    """The number that it would take is free again."""
    asleep, awake = open_log(place.url), open_log(place.url)
    fill(awake, 3)
    awake.snapshot(3, b"three")
    assert awake.compact(4) == 3
    with pytest.raises(NotTheWriter):
        asleep.append("late", b"", wall=0.0)
    assert awake.append("four", b"", wall=0.0).seq == 4
    asleep.close()
    awake.close()


def compete(url: str, appends: int, name: str, won: list[tuple[str, Event]]) -> None:
    log = open_log(url)
    done = 0
    while done < appends:
        try:
            won.append((name, log.append("won", f"{name}-{done}".encode(), wall=0.0)))
            done += 1
        except NotTheWriter:
            log.close()
            log = open_log(url)
    log.close()


def test_of_competing_threads_exactly_one_wins_each_number(place: Place) -> None:
    won: list[tuple[str, Event]] = []
    open_log(place.url).close()
    threads = [threading.Thread(target=compete, args=(place.url, 25, f"t{n}", won)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    events = all_of(place.url)
    assert len(events) == 100
    assert sorted((event for _, event in won), key=lambda event: event.seq) == events
    assert {event.payload for event in events} == {b"t%d-%d" % (n, done) for n in range(4) for done in range(25)}


def test_threads_that_share_a_log_all_get_their_events_in(place: Place) -> None:
    log = open_log(place.url)

    def append(kind: str) -> None:
        for _ in range(20):
            log.append(kind, b"", wall=0.0)

    def read() -> None:
        for _ in range(5):
            seqs = [event.seq for event in log.read()]
            assert seqs == list(range(1, len(seqs) + 1))

    threads = [threading.Thread(target=append, args=(kind,)) for kind in ("one", "two")]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    kinds = [event.kind for event in log.read()]
    assert (kinds.count("one"), kinds.count("two")) == (20, 20)
    log.close()


COMPETITOR = """
import sys
from serving.rollout.event_log import NotTheWriter, open_log
url, name, appends = sys.argv[1], sys.argv[2], int(sys.argv[3])
log, done = open_log(url), 0
while done < appends:
    try:
        print(log.append("won", f"{name}-{done}".encode(), wall=0.0).hash)
        done += 1
    except NotTheWriter:
        log.close()
        log = open_log(url)
"""


@pytest.mark.integration
def test_of_competing_processes_exactly_one_wins_each_number(place: Place) -> None:
    """They also race to create the log."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMPETITOR, place.url, f"p{n}", "40"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    events = all_of(place.url)
    assert len(events) == 120
    for number, hashes in enumerate(said):
        assert [event.hash for event in events if event.payload.startswith(b"p%d-" % number)] == hashes
    assert {event.payload for event in events} == {b"p%d-%d" % (n, done) for n in range(3) for done in range(40)}


def test_a_log_that_isnt_there_is_only_made_by_those_who_want_one(place: Place) -> None:
    with pytest.raises(LogMissing, match="there is no event log"):
        open_log(place.url, create=False)
    log = open_log(place.url)
    events = fill(log, 2)
    log.close()
    again = open_log(place.url, create=False)
    assert list(again.read()) == events
    again.close()


# Snapshots and compaction.


def test_a_snapshot_is_tied_to_the_event_it_was_made_after(place: Place) -> None:
    log = open_log(place.url)
    events = fill(log, 3)
    log.snapshot(2, b"two")
    snapshot = log.latest_snapshot()
    assert snapshot is not None
    assert (snapshot.seq, snapshot.event_hash, snapshot.state) == (2, events[1].hash, b"two")
    assert list(log.read(snapshot.seq)) == events[2:]
    log.close()


def test_the_newest_snapshot_counts_and_a_second_one_of_an_event_replaces_the_first(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 3)
    log.snapshot(3, b"three")
    log.snapshot(1, b"one")
    log.snapshot(3, b"three again")
    snapshot = log.latest_snapshot()
    assert snapshot is not None
    assert (snapshot.seq, snapshot.state) == (3, b"three again")
    log.close()


def test_older_snapshots_can_be_had_as_long_as_they_are_needed(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 9)
    for seq in (2, 5, 8):
        log.snapshot(seq, b"%d" % seq)
    found = {before: log.latest_snapshot(before=before) for before in (2, 3, 5, 6, 9)}
    assert {before: kept and kept.seq for before, kept in found.items()} == {2: None, 3: 2, 5: 2, 6: 5, 9: 8}
    log.compact(7)
    oldest = next(log.read())
    base = log.latest_snapshot(before=oldest.seq)
    assert base is not None
    assert (base.seq, base.state) == (oldest.seq - 1, b"5")
    log.close()


@pytest.mark.parametrize("seq", [-1, 0, 4])
def test_there_is_no_snapshot_of_an_event_that_isnt_there(place: Place, seq: int) -> None:
    log = open_log(place.url)
    fill(log, 3)
    with pytest.raises(ValueError, match=f"there is no event {seq} "):
        log.snapshot(seq, b"")
    assert log.latest_snapshot() is None
    log.close()


def test_compaction_drops_what_a_snapshot_stands_for_and_nothing_else(place: Place) -> None:
    log = open_log(place.url)
    events = fill(log, 6)
    log.snapshot(2, b"two")
    log.snapshot(5, b"five")
    assert log.compact(5) == 2, "the snapshot of 5 stands for event 5, which was to be kept"
    assert list(log.read()) == events[2:]
    assert log.compact(5) == 0
    assert log.compact(100) == 3
    assert list(log.read()) == events[5:]
    assert list(log.read(after=5)) == events[5:]
    assert place.sql("SELECT count(*) FROM holdfast_snapshots") == [(1,)]
    log.close()
    assert all_of(place.url) == events[5:]


def test_nothing_is_dropped_if_what_stays_doesnt_follow(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    log.snapshot(2, b"two")
    place.sql("DELETE FROM holdfast_events WHERE seq = 3")
    with pytest.raises(LogCorrupt, match="event 3: missing"):
        log.compact(5)
    assert place.sql("SELECT count(*) FROM holdfast_events") == [(5,)]
    log.close()


def test_a_log_whose_events_were_all_dropped_goes_on_from_its_snapshot(place: Place) -> None:
    log = open_log(place.url)
    events = fill(log, 3)
    log.snapshot(3, b"three")
    assert log.compact(4) == 3
    log.close()
    log = open_log(place.url)
    assert log.head() == (3, events[-1].hash)
    assert list(log.read()) == []
    assert list(log.read(after=3)) == []
    fourth = log.append("fourth", b"", wall=0.0, cause=2)
    assert (fourth.seq, fourth.previous) == (4, events[-1].hash)
    assert list(log.read(after=3)) == [fourth]
    log.snapshot(3, b"three again")
    log.close()


def test_whoever_asks_for_what_was_dropped_is_sent_to_the_snapshot(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    log.snapshot(4, b"four")
    log.compact(5)
    with pytest.raises(LogCompacted, match="before 5") as caught:
        list(log.read(after=2))
    assert caught.value.first == 5
    log.close()


def test_a_reader_whom_compaction_overtakes_is_told(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 2 * PAGE_ROWS)
    reading = log.read()
    assert next(reading).seq == 1
    log.snapshot(2 * PAGE_ROWS - 1, b"")
    log.compact(2 * PAGE_ROWS)
    with pytest.raises(LogCompacted):
        list(reading)
    log.close()


def test_a_reader_whom_compaction_leaves_nothing_is_told(place: Place) -> None:
    log = open_log(place.url)
    fill(log, PAGE_ROWS + 1)
    reading = log.read()
    assert next(reading).seq == 1
    log.snapshot(PAGE_ROWS + 1, b"")
    log.compact(PAGE_ROWS + 2)
    with pytest.raises(LogCompacted):
        list(reading)
    log.close()


# What was done to the rows by hand.


def readable(log: EventLog) -> tuple[int, LogCorrupt]:
    """How many events are read before the log is found corrupt, and how that is named."""
    count = 0
    try:
        for _ in log.read():
            count += 1
    except LogCorrupt as error:
        return count, error
    raise AssertionError(f"all {count} events were read")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE holdfast_events SET payload = CAST('9' AS {bytes}) WHERE seq = 5",
        "UPDATE holdfast_events SET kind = 'countee' WHERE seq = 5",
        "UPDATE holdfast_events SET wall = wall + 0.001 WHERE seq = 5",
        "UPDATE holdfast_events SET cause = 2 WHERE seq = 5",
        "UPDATE holdfast_events SET cause = NULL WHERE seq = 5",
        "UPDATE holdfast_events SET cause = 0 WHERE seq = 5",
        "UPDATE holdfast_events SET hash = previous WHERE seq = 5",
        "UPDATE holdfast_events SET previous = hash WHERE seq = 5",
        "UPDATE holdfast_events SET seq = 50 WHERE seq = 5",
        "DELETE FROM holdfast_events WHERE seq = 5",
    ],
)
def test_a_row_that_was_altered_or_deleted_is_named(place: Place, change: str) -> None:
    log = open_log(place.url)
    fill(log, 8)
    place.sql(change.format(bytes="blob" if place.url.endswith(".db") else "bytea"))
    count, error = readable(log)
    assert (count, error.seq) == (4, 5)
    log.close()


def test_an_altered_newest_row_is_named_before_anything_is_built_on_it(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 3)
    place.sql("UPDATE holdfast_events SET kind = 'x' WHERE seq = 3")
    with pytest.raises(LogCorrupt, match="event 3: "):
        log.head()
    log.close()
    with pytest.raises(LogCorrupt, match="event 3: "):
        open_log(place.url)


def test_a_row_that_was_replaced_with_its_hash_is_named_at_the_next(place: Place) -> None:
    """Whoever can compute a hash can't mend the chain without writing everything after it anew."""
    log = open_log(place.url)
    events = fill(log, 4)
    forged = Event(2, 0.0, "forged", b"1", None, events[0].hash, "")
    place.sql("UPDATE holdfast_events SET wall = 0, kind = 'forged', cause = NULL WHERE seq = 2")
    place.sql(f"UPDATE holdfast_events SET hash = '{hash_of(forged)}' WHERE seq = 2")  # noqa: S608  # a hash, in hex
    count, error = readable(log)
    log.close()
    assert (count, error.seq) == (2, 3)
    assert "replaced" in error.what


def test_several_missing_rows_are_named_together(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 8)
    place.sql("DELETE FROM holdfast_events WHERE seq BETWEEN 3 AND 6")
    count, error = readable(log)
    log.close()
    assert (count, error.seq) == (2, 3)
    assert "up to 6" in error.what


def test_a_missing_beginning_is_no_compaction(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 4)
    place.sql("DELETE FROM holdfast_events WHERE seq <= 2")
    count, error = readable(log)
    log.close()
    assert (count, error.seq) == (0, 1)


def test_a_row_missing_where_a_snapshot_is_is_no_compaction(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    log.snapshot(4, b"four")
    place.sql("DELETE FROM holdfast_events WHERE seq = 4")
    count, error = readable(log)
    log.close()
    assert (count, error.seq) == (3, 4)


def test_an_end_that_a_snapshot_has_seen_is_missed(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    log.snapshot(6, b"six")
    place.sql("DELETE FROM holdfast_events WHERE seq > 4")
    count, error = readable(log)
    assert (count, error.seq) == (4, 5)
    with pytest.raises(LogCorrupt, match="event 5: missing"):
        log.head()
    log.close()


def test_an_end_that_a_reader_has_seen_is_missed(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    place.sql("DELETE FROM holdfast_events WHERE seq > 4")
    with pytest.raises(LogCorrupt, match="event 5: missing"):
        list(log.read(after=6))
    log.close()


def test_nothing_is_appended_behind_an_end_that_was_cut_off(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    place.sql("DELETE FROM holdfast_events WHERE seq > 4")
    with pytest.raises(NotTheWriter):
        log.append("seventh", b"", wall=0.0)
    log.close()


def test_a_read_that_begins_behind_an_altered_row_doesnt_trust_it(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 6)
    place.sql("UPDATE holdfast_events SET kind = 'x' WHERE seq = 3")
    with pytest.raises(LogCorrupt, match="event 3: "):
        list(log.read(after=3))
    log.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE holdfast_snapshots SET state = hash",
        "UPDATE holdfast_snapshots SET event_hash = hash",
        "UPDATE holdfast_snapshots SET hash = event_hash",
        "UPDATE holdfast_snapshots SET seq = 2",
    ],
)
def test_an_altered_snapshot_is_named_and_nothing_is_dropped_for_it(place: Place, change: str) -> None:
    log = open_log(place.url)
    events = fill(log, 4)
    log.snapshot(3, b"three")
    as_bytes = "CAST(hash AS blob)" if place.url.endswith(".db") else "hash::bytea"
    place.sql(change.replace("state = hash", f"state = {as_bytes}"))
    for ask in (log.latest_snapshot, lambda: log.compact(4)):
        with pytest.raises(LogCorrupt, match="snapshot"):
            ask()
    assert len(place.sql("SELECT seq FROM holdfast_events")) == len(events)
    log.close()


def test_a_snapshot_of_another_history_is_named(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 4)
    log.snapshot(3, b"three")
    place.sql("UPDATE holdfast_events SET kind = 'x', hash = previous WHERE seq = 3")
    with pytest.raises(LogCorrupt, match="event 3: "):
        log.latest_snapshot()
    log.close()


def test_the_tables_are_missed(place: Place) -> None:
    log = open_log(place.url)
    fill(log, 2)
    place.sql("DROP TABLE holdfast_events")
    ways: list[Callable[[], object]] = [lambda: list(log.read()), lambda: fill(log, 1)]
    for way in ways:
        with pytest.raises(LogCorrupt, match="holdfast_events"):
            way()
    log.close()
