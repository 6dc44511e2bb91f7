"""A log of rollouts folds to one state, says what happened, and is decided again the same way, or says where not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from random import Random

import msgspec
import pytest

from serving.rollout.desired import DesiredState, Entry, decode_entry, encode_desired, encode_entry, recorded
from serving.rollout.event_log import Event, EventLog, LogCompacted, LogCorrupt, open_log
from serving.rollout.events import ClockTick, Decision, RollBackNow, VersionReady
from serving.rollout.history import Claim, Folded, History, HistoryEvent, folded, history, replayed
from serving.rollout.state import Phase
from tests.event_logs import SqlitePlace
from tests.rollouts import rollout_spec, settled

SPEC = rollout_spec(
    steps="[{setWeight: 5}, {setWeight: 50}, {setWeight: 100}]",
    analysis="{minAttempts: 60, slo: {objective: 0.99, burnRates: [{long: 20s, short: 4s, factor: 14.4}]}}",
    bake="{duration: 8s}",
)


def payloads(*, bad: float = 0.005) -> tuple[list[bytes], DesiredState]:
    """A whole rollout of digits, and what it came to."""
    entries = [Entry("digits-1", event) for event in settled(SPEC, bad=round(20 * bad)).events]
    return [encode_entry(entry) for entry in entries], reduce(recorded, entries, DesiredState())


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "events.db")


@pytest.fixture
def log(place: SqlitePlace) -> Iterator[EventLog]:
    opened = open_log(place.url)
    yield opened
    opened.close()


def fill(log: EventLog, entries: list[bytes], kind: str = "rollout") -> None:
    for entry in entries:
        log.append(kind, entry, wall=1000.0 + log.head()[0])


def snapshot(log: EventLog) -> None:
    state = folded(log)
    log.snapshot(state.seq, encode_desired(state.desired))


def test_an_empty_log_folds_to_nothing(log: EventLog) -> None:
    assert folded(log) == Folded(DesiredState(), 0)
    again = replayed(log)
    assert (again.events, again.decisions, again.mismatches, again.began_after, again.seq) == (0, 0, 0, 0, 0)
    assert history(log, "digits", 0, 10).events == ()


def test_a_log_folds_to_the_state_of_the_controller_that_wrote_it(log: EventLog) -> None:
    entries, desired = payloads()
    fill(log, [msgspec.json.encode(Claim("one"))], kind="controller")
    fill(log, entries)
    fill(log, [msgspec.json.encode(Claim("two"))], kind="controller")
    found = folded(log)
    assert found == Folded(desired, len(entries) + 2, Claim("two"), found.wall, hash=log.head()[1])


def test_of_a_log_that_was_folded_before_only_what_is_new_is_read(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, _ = payloads()
    read, begun = log.read, list[int]()

    def reading(after: int = 0) -> Iterator[Event]:
        begun.append(after)
        return read(after)

    monkeypatch.setattr(log, "read", reading)
    known = folded(log)
    for cut in (3, 3, len(entries)):
        fill(log, entries[log.head()[0] : cut])
        known = folded(log, known)
    assert begun == [0, 0, 3], "all that there was, nothing, and the rest"
    assert known == folded(log)


def test_one_that_was_replaced_is_read_from_its_beginning(log: EventLog, tmp_path: Path) -> None:
    entries, _ = payloads()
    fill(log, entries[:5])
    known = folded(log)
    for claims, more in ((4, 0), (5, 0), (5, 4)):
        other = open_log(str(tmp_path / f"{claims}-{more}.db"))
        fill(other, [msgspec.json.encode(Claim("two"))] * claims, kind="controller")
        fill(other, entries[:more])
        assert folded(other, known) == folded(other) != known
        other.close()


def test_what_was_dropped_meanwhile_is_read_from_the_snapshot(log: EventLog) -> None:
    entries, desired = payloads()
    fill(log, entries[:5])
    known = folded(log)
    fill(log, entries[5:10])
    snapshot(log)
    fill(log, entries[10:])
    log.compact(11)
    assert folded(log, known) == folded(log)
    assert folded(log, known).desired == desired


def test_every_decision_of_whole_rollouts_comes_out_again_byte_for_byte(log: EventLog) -> None:
    for bad in (0.005, 0.3):
        entries, _ = payloads(bad=bad)
        name = "digits" if bad < 0.1 else "orientation"
        fill(log, [msgspec.json.encode(Claim("one"))], kind="controller")
        fill(log, [entry.replace(b'"digits', b'"%s' % name.encode()) for entry in entries])
    again = replayed(log)
    assert (again.mismatches, again.first, again.others) == (0, None, {"controller": 2})
    assert {state.phase for state in again.desired.rollouts.values()} == {Phase.SUCCEEDED, Phase.ROLLED_BACK}
    assert again.desired == folded(log).desired
    assert again.seq == log.head()[0]
    assert again.decisions == sum(
        isinstance(decode_entry(event.payload).event, Decision) for event in log.read() if event.kind == "rollout"
    )


@pytest.mark.parametrize("seed", range(5))
def test_wherever_snapshots_and_compaction_cut_the_log_it_comes_to_the_same(log: EventLog, seed: int) -> None:
    rng = Random(seed)
    entries, desired = payloads(bad=0.005 if seed % 2 else 0.3)
    for entry in entries:
        fill(log, [entry])
        if rng.random() < 0.2:
            snapshot(log)
        if rng.random() < 0.1:
            log.compact(rng.randint(1, log.head()[0]))
    assert folded(log)[:2] == (desired, len(entries))
    again = replayed(log)
    assert (again.desired, again.seq, again.mismatches) == (desired, len(entries), 0)
    assert again.events == len(entries) - again.began_after


def test_a_log_that_is_only_a_snapshot_is_its_state(log: EventLog) -> None:
    entries, desired = payloads()
    fill(log, entries)
    snapshot(log)
    log.compact(len(entries) + 1)
    assert folded(log)[:2] == (desired, len(entries))
    again = replayed(log)
    assert (again.desired, again.began_after, again.seq, again.events) == (desired, len(entries), len(entries), 0)


def test_a_replay_ends_where_it_is_told_to(log: EventLog) -> None:
    entries, _ = payloads()
    fill(log, entries)
    again = replayed(log, until=2)
    assert (again.seq, again.events, again.decisions) == (2, 2, 1)
    assert again.desired.rollouts["digits"].phase is Phase.STARTING
    assert replayed(log, until=10_000).seq == len(entries)


def test_a_replay_up_to_what_was_dropped_says_where_the_log_begins(log: EventLog) -> None:
    entries, _ = payloads()
    fill(log, entries[:10])
    snapshot(log)
    fill(log, entries[10:])
    log.compact(11)
    assert replayed(log, until=10).events == 0
    with pytest.raises(LogCompacted) as caught:
        replayed(log, until=9)
    assert caught.value.first == 11


def test_a_decision_that_would_come_out_differently_is_named_with_both(log: EventLog) -> None:
    entries, _ = payloads(bad=0.3)
    place = next(number for number, raw in enumerate(entries, 1) if isinstance(decode_entry(raw).event, RollBackNow))
    entry = decode_entry(entries[place - 1])
    assert isinstance(entry.event, RollBackNow)
    told = Entry(entry.rollout, msgspec.structs.replace(entry.event, reason="a hunch"))
    fill(log, [*entries[: place - 1], encode_entry(told), *entries[place:]])
    again = replayed(log)
    assert again.mismatches == 2  # the end of the rollout gives the same reason
    assert again.first is not None
    assert (again.first.seq, again.first.recorded, again.first.recomputed) == (
        *(place, encode_entry(told), entries[place - 1]),
    )
    assert again.desired.rolled_back == {"digits@v2": "a hunch"}


def test_a_decision_that_was_due_and_is_not_there_is_a_mismatch(log: EventLog) -> None:
    entries, _ = payloads()
    late = encode_entry(Entry("digits-1", ClockTick(at=1000.0)))
    fill(log, [entries[0], late, *entries[1:]])  # the deployment was due first
    again = replayed(log)
    assert again.mismatches == 1
    assert again.first is not None
    assert (again.first.seq, again.first.recomputed) == (2, entries[1])


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"{}", "it isn't an entry of a rollout: "),
        (b"\xff", "it isn't an entry of a rollout: "),
        (encode_entry(Entry("digits-9", ClockTick(at=1.0))), "it can't follow what is before it: there is no rollout"),
        (
            encode_entry(Entry("digits-1", VersionReady(at=1.0, effect=9))),
            "it can't follow what is before it: digits-1: effect 9 was never decided",
        ),
    ],
)
def test_an_entry_that_cannot_be_is_named_by_its_number(log: EventLog, payload: bytes, said: str) -> None:
    entries, _ = payloads()
    fill(log, [*entries[:2], payload])
    for look in (folded, replayed):
        with pytest.raises(LogCorrupt) as caught:
            look(log)
        assert caught.value.seq == 3
        assert caught.value.what.startswith(said)


def test_an_altered_row_is_named_also_if_a_snapshot_stands_for_it(log: EventLog, place: SqlitePlace) -> None:
    entries, _ = payloads()
    fill(log, entries)
    snapshot(log)
    place.sql("UPDATE holdfast_events SET wall = wall + 1 WHERE seq = 3")
    with pytest.raises(LogCorrupt) as caught:
        folded(log)
    assert caught.value.seq == 3


def test_a_snapshot_of_something_else_is_named(log: EventLog) -> None:
    fill(log, payloads()[0])
    log.snapshot(4, b'{"rollouts": 1}')
    with pytest.raises(LogCorrupt, match="event 4: its snapshot isn't one of rollouts"):
        folded(log)


def test_a_history_is_of_one_model_and_comes_in_parts(log: EventLog) -> None:
    entries, _ = payloads()
    fill(log, [msgspec.json.encode(Claim("one"))], kind="controller")
    for entry in entries:
        fill(log, [entry, entry.replace(b'"digits', b'"digits-1')])  # 'digits-1-1' is another model's
    parts: list[HistoryEvent] = []
    after = 0
    while True:
        part = history(log, "digits", after, 7)
        assert len(part.events) <= 7
        parts += part.events
        if part.next is None:
            break
        after = part.next
    assert [encode_entry(Entry(event.rollout, event.event)) for event in parts] == entries
    assert [event.seq for event in parts] == list(range(2, 2 * len(entries) + 2, 2))
    assert [event.wall for event in parts] == [999.0 + event.seq for event in parts]


def test_beyond_the_end_of_the_log_there_is_no_history(log: EventLog, place: SqlitePlace) -> None:
    assert history(log, "digits", 7, 10) == History((), None)
    fill(log, payloads()[0][:3])
    for after in (3, 4, 10):
        assert history(log, "digits", after, 10) == History((), None)
    place.sql("DELETE FROM holdfast_events WHERE seq = 3")
    with pytest.raises(LogCorrupt, match="event 3: missing"):
        history(log, "digits", 10, 10)


def test_a_part_of_a_history_reads_a_part_of_the_log(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.rollout.history.SCAN_MAX", 10)
    entries, _ = payloads()
    fill(log, [msgspec.json.encode(Claim("one"))] * 25, kind="controller")
    fill(log, entries[:3])
    parts = [history(log, "digits", after, 100) for after in (0, 10, 20)]
    assert [(len(part.events), part.next) for part in parts] == [(0, 10), (0, 20), (3, None)]


def test_a_history_that_ends_with_its_part_has_no_next(log: EventLog) -> None:
    entries, _ = payloads()
    fill(log, entries)
    assert history(log, "digits", 0, len(entries)).next is None
    assert history(log, "digits", 0, len(entries) - 1).next == len(entries) - 1
    assert history(log, "unknown", 0, 10).events == ()


def test_a_history_begins_with_what_is_left_of_it(log: EventLog) -> None:
    entries, _ = payloads()
    fill(log, entries)
    snapshot_at = 10
    log.snapshot(snapshot_at, encode_desired(replayed(log, until=snapshot_at).desired))
    log.compact(snapshot_at + 1)
    for after in (0, 3, snapshot_at):
        assert history(log, "digits", after, 100).events[0].seq == snapshot_at + 1
