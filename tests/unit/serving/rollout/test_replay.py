from __future__ import annotations

import pytest

from serving.rollout.event_log import Event, next_event
from serving.rollout.replay import Mismatch, replay

# A tiny world: counts are added, and after each one it is decided whether the sum is too much.


def chain(*entries: tuple[str, bytes]) -> list[Event]:
    events: list[Event] = []
    for kind, payload in entries:
        head = (events[-1].seq, events[-1].hash) if events else (0, "")
        events.append(next_event(head, kind, payload, wall=0.0))
    return events


def add(total: int, event: Event) -> int:
    return total + int(event.payload) if event.kind == "count" else total


def judge(total: int, event: Event) -> bytes | None:
    if event.kind != "decision":
        return None
    return b"stop" if total > 10 else b"go"


def test_a_log_whose_decisions_come_out_the_same_is_exact() -> None:
    events = chain(("count", b"4"), ("decision", b"go"), ("count", b"7"), ("decision", b"stop"), ("other", b"?"))
    report = replay(events, apply=add, decide=judge, initial=0)
    assert report.exact
    assert (report.state, report.seq, report.events, report.decisions) == (11, 5, 5, 2)
    assert (report.mismatches, report.first) == (0, None)


def test_the_first_decision_that_comes_out_otherwise_is_named_and_the_others_are_counted() -> None:
    events = chain(("count", b"4"), ("decision", b"stop"), ("count", b"7"), ("decision", b"stop "), ("count", b"1"))
    report = replay(events, apply=add, decide=judge, initial=0)
    assert not report.exact
    assert report.first == Mismatch(seq=2, recorded=b"stop", recomputed=b"go")
    assert (report.mismatches, report.decisions, report.state) == (2, 2, 12)


def test_a_decision_sees_what_came_before_it_and_nothing_else() -> None:
    events = chain(("decision", b"go"), ("count", b"11"))
    assert replay(events, apply=add, decide=judge, initial=0).exact
    assert not replay(events, apply=add, decide=judge, initial=11).exact


def test_deciding_nothing_is_no_match_for_a_recorded_decision() -> None:
    report = replay(chain(("decision", b"go")), apply=add, decide=lambda _state, _event: b"", initial=0)
    assert report.first == Mismatch(1, b"go", b"")


def test_replay_stops_behind_the_event_that_was_asked_for() -> None:
    events = chain(("count", b"4"), ("count", b"7"), ("decision", b"wrong"))
    report = replay(iter(events), apply=add, decide=judge, initial=0, until=2)
    assert (report.state, report.seq, report.events, report.exact) == (11, 2, 2, True)


def test_replay_goes_on_from_a_snapshot() -> None:
    events = chain(("count", b"4"), ("count", b"7"), ("decision", b"stop"))
    report = replay(events[2:], apply=add, decide=judge, initial=11)
    assert (report.exact, report.seq, report.events) == (True, 3, 1)


def test_no_events_are_exact_and_change_nothing() -> None:
    report = replay([], apply=add, decide=judge, initial=5)
    assert (report.state, report.seq, report.exact) == (5, 0, True)


def test_an_event_that_cant_be_folded_is_named() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        replay(chain(("count", b"1"), ("count", b"one")), apply=add, decide=judge, initial=0)
    assert caught.value.__notes__ == ["while replaying event 2 (count)"]
