"""What happened, as lines: each change once, in words, and rollouts from their own history."""

from __future__ import annotations

import msgspec
import pytest

from serving.live.events import happened, newest, of_rollout
from serving.live.snapshot import EVENTS_MAX, BreakerView, Gateways, LiveEvent, ModelView, ReplicaView, Snapshot
from serving.rollout.report import ControllerReport, report
from tests.rollouts import baking, shut_out
from tests.snapshots import EXAMPLES, NOW, calm, model, outage, snapshot, version

OPEN = BreakerView(
    state="open", gateways={"8101": "open", "8102": "closed"}, why="12 of 20 calls failed", since=NOW - 3
)


def texts(before: Snapshot | None, now: Snapshot) -> list[str]:
    return [event.text for event in happened(before, now)]


def with_versions(*versions: object) -> ModelView:
    return model(versions=versions)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_nothing_happens_where_nothing_changes(example: object) -> None:
    now = example()  # type: ignore[operator]
    assert happened(now, msgspec.structs.replace(now, time=now.time + 1)) == []


def test_a_breaker_is_told_when_it_changed_and_where() -> None:
    before = snapshot(with_versions(version("v2")))
    now = snapshot(with_versions(version("v2", breaker=OPEN)))
    [event] = happened(before, now)
    assert (event.time, event.kind, event.model) == (NOW - 3, "breaker", "digits")
    assert event.text == "digits@v2: breaker open at 8101: 12 of 20 calls failed"
    closed = BreakerView(why="3 probes went well", since=NOW)
    assert texts(now, snapshot(with_versions(version("v2", breaker=closed)))) == [
        "digits@v2: breaker closed: 3 probes went well"
    ]


def test_the_first_snapshot_tells_of_breakers_that_are_open_or_were_lately() -> None:
    lately = BreakerView(why="closed by hand", since=NOW - 100, opened=1)
    long_ago = BreakerView(why="3 probes went well", since=NOW - 1000, opened=1)
    for breaker, said in (
        (OPEN, ["open at"]),
        (lately, ["closed: closed by hand"]),
        (long_ago, []),
        (BreakerView(), []),
    ):
        told = texts(None, snapshot(with_versions(version("v2", breaker=breaker))))
        assert len(told) == len(said)
        assert all(words in text for words, text in zip(said, told, strict=True))


def test_gateways_come_and_go() -> None:
    one = Gateways(seen=1, expected=2, accepting=1, ports=(8102,), generations=(7,))
    alone = msgspec.structs.replace(calm(), gateways=one)
    assert texts(calm(), alone) == ["a gateway went, from port 8101"]
    assert texts(alone, calm()) == ["a gateway came, at port 8101"]


def test_the_control_plane_falls_silent_and_another_takes_over() -> None:
    silent = msgspec.structs.replace(calm(), controller=ControllerReport("silent", "no answer", pid=4700))
    other = msgspec.structs.replace(calm(), controller=ControllerReport("writing", pid=1))
    assert texts(calm(), silent) == ["the rollout controller is silent: no answer"]
    assert texts(calm(), other) == ["another process is the control plane: 1"]


def test_versions_come_go_and_take_over() -> None:
    before = snapshot(with_versions(version("v1", role="standby"), version("v2")))
    after = snapshot(msgspec.structs.replace(with_versions(version("v2", role="standby"), version("v3")), stable="v3"))
    assert texts(before, after) == [
        "digits@v3 answers by default",
        "digits@v3 came, as stable",
        "digits@v1 is gone",
    ]
    rotten = version("v2", role="unavailable", ready=False, replicas=(), reason="wrong digest")
    assert texts(before, snapshot(with_versions(version("v1", role="standby"), rotten))) == [
        "digits@v2 isn't served any more: wrong digest"
    ]


def test_models_come_and_go() -> None:
    assert texts(snapshot(), snapshot(model())) == ["digits is served, by v2"]
    assert texts(snapshot(model()), snapshot()) == ["digits isn't served any more"]


def test_replicas_are_left_out_die_and_are_replaced() -> None:
    def having(*replicas: ReplicaView) -> Snapshot:
        return snapshot(with_versions(version("v2", replicas=replicas)))

    well = ReplicaView(id="r1", live=True)
    assert texts(having(well), having(ReplicaView(id="r1", live=True, ejected=True, why="9 of 12 bad"))) == [
        "digits@v2: replica r1 is left out: 9 of 12 bad"
    ]
    assert texts(having(well), having(ReplicaView(id="r1", live=False))) == ["digits@v2: replica r1 can't be reached"]
    assert texts(having(well), having(ReplicaView(id="r2", live=True))) == [
        "digits@v2: replica r2 came",
        "digits@v2: replica r1 went",
    ]


def test_a_golden_test_that_fails_is_told() -> None:
    before, now = (snapshot(with_versions(version("v2", golden_failed=count))) for count in (1, 2))
    assert texts(before, now) == ["digits@v2: a replica failed its golden self-test"]


def test_a_rollouts_way_is_told_from_its_own_history() -> None:
    back = [event.text for event in of_rollout(report(shut_out().state))]
    assert back[0] == "digits-1 (v2): started by anna"
    assert back[-1] == "digits-1 (v2): RolledBack: no gateway has digits@v2 any more"
    assert any("RollingBack: " in text and "against it" in text for text in back)
    up = [event.text for event in of_rollout(report(baking().state))]
    assert any(text.startswith("digits-1 (v2): Progressing at 25 %") for text in up)
    assert up[-1].startswith("digits-1 (v2): Baking")


def test_the_newest_are_first_and_no_more_than_are_shown() -> None:
    kept = [LiveEvent(NOW - age, "gateway", "", str(age)) for age in range(EVENTS_MAX)]
    told = newest(kept, snapshot(model(rollout=report(shut_out().state))))
    assert len(told) == EVENTS_MAX
    assert told[0].text == "0"
    assert [event.time for event in told] == sorted((event.time for event in told), reverse=True)


def test_everything_that_can_go_wrong_at_once_is_told() -> None:
    told = " / ".join(texts(calm(), outage()))
    for words in ("breaker open at 8101", "a gateway went", "silent", "is left out", "can't be reached"):
        assert words in told


def test_what_nobody_watched_is_said_to_have_happened_some_time_before() -> None:
    before = snapshot(with_versions(version("v1")))
    gone = msgspec.structs.replace(snapshot(), time=NOW + 90)
    [event] = happened(before, gone)
    assert (event.time, event.text) == (NOW + 90, "digits isn't served any more (at some time in the 90 s before)")
    watched = msgspec.structs.replace(gone, time=NOW + 2)
    assert texts(before, watched) == ["digits isn't served any more"]


def test_a_breaker_knows_its_time_also_if_nobody_watched() -> None:
    before = snapshot(with_versions(version("v2")))
    now = msgspec.structs.replace(snapshot(with_versions(version("v2", breaker=OPEN))), time=NOW + 90)
    [event] = happened(before, now)
    assert (event.time, event.text) == (NOW - 3, "digits@v2: breaker open at 8101: 12 of 20 calls failed")
